//! The one loop that asks a source: pace, back-off, equality, staleness.

use super::{Answer, Discover, DiscoverError, Trust};
use crate::model::ServiceName;
use crate::rt::{Backoff, Tasks};
use crate::telemetry::{Events, Kind};
use futures_util::FutureExt;
use rand::rngs::SmallRng;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// How the loop behaves when a source fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchSettings {
    /// Back-off after an error: full jitter from `backoff_base` ...
    pub backoff_base: Duration,
    /// ... to `backoff_cap`.
    pub backoff_cap: Duration,
    /// Between tries while the registry refuses us.
    pub refused_retry: Duration,
}

impl Default for WatchSettings {
    fn default() -> Self {
        Self {
            backoff_base: Duration::from_millis(250),
            backoff_cap: Duration::from_secs(10),
            refused_retry: Duration::from_secs(30),
        }
    }
}

/// What a keeper holds of a running watch: the newest answer, the source's state, and a way to ask again.
#[derive(Debug)]
pub struct Feed {
    /// `None` until the first answer. Equal trusted answers are not repeated.
    pub answers: watch::Receiver<Option<Arc<Answer>>>,
    pub status: Arc<Status>,
    nudge: Arc<Notify>,
}

impl Feed {
    /// Asks the source again at once, afresh.
    pub fn nudge(&self) {
        self.nudge.notify_one();
    }
}

/// What the source is doing now; read by the admin address.
#[derive(Debug)]
pub struct Status {
    /// The source's URL without secrets.
    url: String,
    updates: AtomicU64,
    errors: AtomicU64,
    questions: AtomicU64,
    /// Written by the loop, copied by readers.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last_good: Option<Instant>,
    failing_since: Option<Instant>,
    last_error: Option<Arc<str>>,
    hint: Option<Arc<str>>,
    position: Option<u64>,
    listed: usize,
    skipped: usize,
}

/// A moment's view of a [`Status`].
#[derive(Clone, Debug)]
pub struct StatusView {
    pub url: String,
    pub link: Link,
    /// Since the last good answer.
    pub age: Option<Duration>,
    pub failing_for: Option<Duration>,
    pub last_error: Option<Arc<str>>,
    /// What somebody may have to mend, although the source answers.
    pub hint: Option<Arc<str>>,
    pub position: Option<u64>,
    /// Endpoints in its last good answer, and entries that cannot be used.
    pub listed: usize,
    pub skipped: usize,
    /// Answers that changed something, errors, and questions asked, since the start.
    pub updates: u64,
    pub errors: u64,
    pub questions: u64,
}

/// How a source stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// The last question was answered, or is still open without an error.
    Live,
    /// It fails; what it said last is kept.
    Stale,
    /// It has never answered.
    Error,
}

impl Link {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Stale => "stale",
            Self::Error => "error",
        }
    }
}

impl Status {
    fn new(url: String) -> Self {
        Self {
            url,
            updates: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            questions: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// The source's URL without secrets.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// It is a registry, which says of its instances that they are well, and not only where they are.
    pub fn vouches(&self) -> bool {
        ["consul", "etcd"].iter().any(|scheme| self.url.starts_with(scheme))
    }

    pub fn view(&self, now: Instant) -> StatusView {
        let state = self.state();
        StatusView {
            url: self.url.clone(),
            link: match (state.last_good, state.failing_since) {
                (Some(_), None) => Link::Live,
                (Some(_), Some(_)) => Link::Stale,
                (None, _) => Link::Error,
            },
            age: state.last_good.map(|at| now.saturating_duration_since(at)),
            failing_for: state.failing_since.map(|at| now.saturating_duration_since(at)),
            last_error: state.last_error.clone(),
            hint: state.hint.clone(),
            position: state.position,
            listed: state.listed,
            skipped: state.skipped,
            updates: self.updates.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            questions: self.questions.load(Ordering::Relaxed),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a good answer, and says what it changed.
    fn good(&self, answer: &Answer, now: Instant) -> News {
        let mut state = self.state();
        state.last_good = Some(now);
        state.position = answer.position;
        state.listed = answer.set.len();
        state.skipped = answer.skipped.len();
        let hint = answer.hint.as_deref().map(Arc::from);
        let before = std::mem::replace(&mut state.hint, hint);
        News {
            recovered: state.failing_since.take().is_some(),
            doubted: before.is_none() && state.hint.is_some(),
        }
    }

    /// Notes an error; `true` if it is the first one.
    fn bad(&self, error: &str, now: Instant) -> bool {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state();
        state.last_error = Some(error.into());
        let first = state.failing_since.is_none();
        state.failing_since.get_or_insert(now);
        first
    }
}

/// What a good answer says of its source.
struct News {
    /// It had been failing.
    recovered: bool,
    /// It has a hint, and the answer before had none.
    doubted: bool,
}

/// Watches `source` until the group stops. The first question is asked at once.
pub fn watch<S: Discover>(
    tasks: &Tasks,
    service: ServiceName,
    url: String,
    source: S,
    settings: WatchSettings,
    rng: SmallRng,
) -> Feed {
    let (publish, answers) = watch::channel(None);
    let status = Arc::new(Status::new(url));
    let nudge = Arc::new(Notify::new());
    let looping = Loop {
        service,
        source,
        publish,
        status: Arc::clone(&status),
        nudge: Arc::clone(&nudge),
        backoff: Backoff::new(settings.backoff_base, settings.backoff_cap),
        settings,
        rng,
        events: tasks.events().clone(),
        awaited: false,
    };
    tasks.spawn("watch", |stop| async move {
        tokio::select! {
            () = looping.run() => {}
            () = stop.cancelled() => {}
        }
    });
    Feed { answers, status, nudge }
}

struct Loop<S> {
    service: ServiceName,
    source: S,
    publish: watch::Sender<Option<Arc<Answer>>>,
    status: Arc<Status>,
    nudge: Arc<Notify>,
    backoff: Backoff,
    settings: WatchSettings,
    rng: SmallRng,
    events: Events,
    /// The next answer was asked for.
    awaited: bool,
}

impl<S: Discover> Loop<S> {
    async fn run(mut self) {
        loop {
            let asked = Instant::now();
            self.status.questions.fetch_add(1, Ordering::Relaxed);
            let answer = tokio::select! {
                answer = self.source.next() => Some(answer),
                () = self.nudge.notified() => None,
            };
            match answer {
                Some(Ok(answer)) => self.take(answer),
                Some(Err(error)) => self.fail(&error).await,
                None => self.ask_afresh(),
            }
            let pace = self.source.pace(self.publish.borrow().as_ref().map(|a| &a.set));
            tokio::time::sleep_until(asked + pace).await;
        }
    }

    /// Somebody wants to hear it again, even if it is the same.
    fn ask_afresh(&mut self) {
        self.source.rewind();
        self.awaited = true;
    }

    fn take(&mut self, answer: Answer) {
        self.backoff.reset();
        let news = self.status.good(&answer, Instant::now());
        if news.recovered {
            self.events.emit(Kind::SourceRecovered, self.service.as_str(), None, &*self.status.url);
        }
        if let Some(hint) = answer.hint.as_ref().filter(|_| news.doubted) {
            let detail = format!("{}: {hint}", self.status.url);
            self.events.emit(Kind::SourceDoubted, self.service.as_str(), None, detail);
        }
        let last = self.publish.borrow().clone();
        self.report_skipped(&answer, last.as_deref());
        let same = last.is_some_and(|last| {
            (&last.set, &last.skipped, last.trust) == (&answer.set, &answer.skipped, answer.trust)
        });
        if !same {
            self.status.updates.fetch_add(1, Ordering::Relaxed);
        }
        // A doubtful answer matters even when it repeats the last one, and so does one that was asked for: it is the
        // second opinion.
        let awaited = std::mem::take(&mut self.awaited);
        if !same || answer.trust != Trust::Trusted || awaited {
            self.publish.send_replace(Some(Arc::new(answer)));
        }
    }

    /// One event for each unusable entry that was not there before; a flood of them is one event.
    fn report_skipped(&self, answer: &Answer, last: Option<&Answer>) {
        const EACH: usize = 20;
        let old = last.map_or(&[][..], |last| &last.skipped);
        let new: Vec<_> = answer.skipped.iter().filter(|entry| !old.contains(entry)).take(1 + EACH).collect();
        for entry in new.iter().take(EACH) {
            let detail = format!("{}: {}", entry.entry, entry.reason);
            self.events.emit(Kind::EntrySkipped, self.service.as_str(), None, detail);
        }
        if new.len() > EACH {
            let detail = format!("{} entries in all cannot be used", answer.skipped.len());
            self.events.emit(Kind::EntrySkipped, self.service.as_str(), None, detail);
        }
    }

    async fn fail(&mut self, error: &DiscoverError) {
        let text = error.to_string();
        if self.status.bad(&text, Instant::now()) {
            let detail = format!("{}: {text}", self.status.url);
            self.events.emit(Kind::SourceFailing, self.service.as_str(), None, detail);
        } else {
            tracing::debug!(service = %self.service, source = %self.status.url, error = text, "source still fails");
        }
        match error {
            DiscoverError::Failed(_) => {
                let delay = self.backoff.next(&mut self.rng);
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    () = self.nudge.notified() => self.ask_afresh(),
                }
            }
            // Being asked by us more often mends nothing, so nudges do not count, nor are they made up for later.
            DiscoverError::Refused(_) => {
                tokio::select! {
                    () = tokio::time::sleep(self.settings.refused_retry) => {}
                    () = self.source.mended() => {}
                }
                let _ = self.nudge.notified().now_or_never();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::Skipped;
    use crate::model::{Endpoint, EndpointSet};
    use rand::SeedableRng;
    use std::collections::VecDeque;

    /// Answers from a script, then never again.
    struct Script(VecDeque<Result<Answer, DiscoverError>>);

    impl Discover for Script {
        async fn next(&mut self) -> Result<Answer, DiscoverError> {
            match self.0.pop_front() {
                Some(line) => line,
                None => std::future::pending().await,
            }
        }
    }

    fn answer(ports: &[u16]) -> Answer {
        let set = ports.iter().map(|p| Endpoint::at(([127, 0, 0, 1], *p).into())).collect::<EndpointSet>();
        Answer { set, ..Answer::default() }
    }

    fn play(lines: Vec<Result<Answer, DiscoverError>>) -> (Tasks, Feed) {
        let tasks = Tasks::new(Events::default());
        let feed = watch(
            &tasks,
            ServiceName::new("web").unwrap(),
            "script:".into(),
            Script(lines.into()),
            WatchSettings::default(),
            SmallRng::seed_from_u64(1),
        );
        (tasks, feed)
    }

    async fn settle() {
        tokio::time::sleep(Duration::from_secs(120)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn invariant_3_an_error_is_not_an_empty_set() {
        let (tasks, feed) = play(vec![
            Ok(answer(&[1, 2])),
            Err(DiscoverError::Failed("connection refused".into())),
            Err(DiscoverError::Failed("connection refused".into())),
        ]);
        settle().await;
        assert_eq!(feed.answers.borrow().as_ref().unwrap().set.len(), 2, "the last answer is kept");
        let view = feed.status.view(Instant::now());
        assert_eq!(view.link, Link::Stale);
        assert_eq!(view.last_error.as_deref(), Some("connection refused"));
        assert_eq!((view.updates, view.errors), (1, 2));
        let failing = tasks.events().counts().find(|c| c.0 == Kind::SourceFailing).unwrap().1;
        assert_eq!(failing, 1, "a failing source logs when it starts failing, not each time");
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_never_answered_is_in_error_and_publishes_nothing() {
        let (_tasks, feed) = play(vec![Err(DiscoverError::Refused("no permission".into()))]);
        settle().await;
        assert!(feed.answers.borrow().is_none());
        assert_eq!(feed.status.view(Instant::now()).link, Link::Error);
    }

    #[tokio::test(start_paused = true)]
    async fn equal_answers_only_touch_the_freshness() {
        let (_tasks, feed) = play(vec![Ok(answer(&[1])), Ok(answer(&[1])), Ok(answer(&[1]))]);
        settle().await;
        assert_eq!(feed.status.view(Instant::now()).updates, 1);
    }

    /// Says the same whenever it is asked afresh.
    struct Echo(Answer, bool);

    impl Discover for Echo {
        async fn next(&mut self) -> Result<Answer, DiscoverError> {
            if std::mem::replace(&mut self.1, true) {
                std::future::pending::<()>().await;
            }
            Ok(self.0.clone())
        }

        fn rewind(&mut self) {
            self.1 = false;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_asked_for_is_heard_even_if_it_is_the_same() {
        for trust in [Trust::Trusted, Trust::Doubtful("first after an error")] {
            let (tasks, name) = (Tasks::new(Events::default()), ServiceName::new("web").unwrap());
            let echo = Echo(Answer { trust, ..answer(&[1]) }, false);
            let rng = SmallRng::seed_from_u64(1);
            let mut feed = watch(&tasks, name, "echo:".into(), echo, WatchSettings::default(), rng);
            for _ in 0..3 {
                settle().await;
                assert!(feed.answers.has_changed().unwrap(), "{trust:?}");
                feed.answers.mark_unchanged();
                settle().await;
                assert!(!feed.answers.has_changed().unwrap(), "nothing new by itself");
                feed.nudge();
            }
            assert_eq!(feed.status.view(Instant::now()).updates, 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_unusable_entry_is_told_once_and_a_new_one_too() {
        let with = |entries: &[&str]| {
            let skipped = entries.iter().map(|entry| Skipped::new(*entry, "no address")).collect();
            Ok(Answer { skipped, ..answer(&[1]) })
        };
        let lines = vec![with(&["a"]), with(&["a"]), with(&["a", "b"]), with(&["a", "b"])];
        let (tasks, _feed) = play(lines);
        settle().await;
        let told = tasks.events().counts().find(|c| c.0 == Kind::EntrySkipped).unwrap().1;
        assert_eq!(told, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_source_is_left_alone_for_long() {
        let lines = (0..100).map(|_| Err(DiscoverError::Refused("ACL not found".into()))).collect();
        let (_tasks, feed) = play(lines);
        settle().await;
        let asked = feed.status.view(Instant::now()).questions;
        assert!(asked <= 5, "{asked} questions in 120 s");
    }

    /// Is refused until its token is good.
    struct Locked {
        good: watch::Receiver<bool>,
    }

    impl Discover for Locked {
        async fn next(&mut self) -> Result<Answer, DiscoverError> {
            let good = *self.good.borrow_and_update();
            if good { Ok(answer(&[1])) } else { Err(DiscoverError::Refused("ACL not found".into())) }
        }

        async fn mended(&mut self) {
            self.good.changed().await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_that_was_mended_is_noticed_and_nudges_do_not_count() {
        let (mend, good) = watch::channel(false);
        let tasks = Tasks::new(Events::default());
        let (name, settings) = (ServiceName::new("web").unwrap(), WatchSettings::default());
        let rng = SmallRng::seed_from_u64(1);
        let mut feed = watch(&tasks, name, "locked:".into(), Locked { good }, settings, rng);
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            feed.nudge();
        }
        assert_eq!(feed.status.view(Instant::now()).questions, 1);
        let mended = Instant::now();
        mend.send_replace(true);
        feed.answers.changed().await.unwrap();
        assert_eq!(mended.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_is_told_when_it_begins() {
        let with = |hint: Option<&str>| Ok(Answer { hint: hint.map(Into::into), ..answer(&[1]) });
        let lines = vec![with(Some("7 s")), with(Some("8 s")), with(None), with(Some("1 s"))];
        let (tasks, feed) = play(lines);
        settle().await;
        let told = tasks.events().counts().find(|c| c.0 == Kind::SourceDoubted).unwrap().1;
        assert_eq!((told, feed.status.view(Instant::now()).hint.as_deref()), (2, Some("1 s")));
    }
}
