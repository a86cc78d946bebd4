//! A source under the real watch loop, and everything it ever said.

use super::eventually;
use outrigger::discovery::{Answer, Discover, DiscoverError, Feed, Trust, WatchSettings, watch};
use outrigger::model::{EndpointSet, ServiceName};
use outrigger::rt::Tasks;
use outrigger::telemetry::Events;
use rand::SeedableRng;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// A watched source; the watch ends when this is dropped.
pub struct Following {
    tasks: Tasks,
    pub feed: Feed,
    said: Arc<Mutex<Vec<Result<Answer, String>>>>,
}

struct Recorded<S> {
    source: S,
    said: Arc<Mutex<Vec<Result<Answer, String>>>>,
}

impl<S: Discover> Discover for Recorded<S> {
    async fn next(&mut self) -> Result<Answer, DiscoverError> {
        let answer = self.source.next().await;
        self.said.lock().unwrap().push(answer.as_ref().map(Clone::clone).map_err(|e| format!("{e:?}")));
        answer
    }

    fn rewind(&mut self) {
        self.source.rewind();
    }

    async fn mended(&mut self) {
        self.source.mended().await;
    }

    fn pace(&self, last: Option<&EndpointSet>) -> Duration {
        self.source.pace(last)
    }
}

/// Follows a source until what it gives is dropped.
pub fn follow(source: impl Discover) -> Following {
    let tasks = Tasks::new(Events::default());
    let said = Arc::new(Mutex::default());
    let feed = watch(
        &tasks,
        ServiceName::new("web").unwrap(),
        "test:".into(),
        Recorded { source, said: Arc::clone(&said) },
        // A tenth of the defaults, so that a test need not wait for a long back-off to end.
        WatchSettings {
            backoff_cap: Duration::from_secs(1),
            refused_retry: Duration::from_secs(3),
            ..WatchSettings::default()
        },
        rand::rngs::SmallRng::seed_from_u64(1),
    );
    Following { tasks, feed, said }
}

impl Following {
    /// What is published.
    pub fn last(&self) -> Option<Arc<Answer>> {
        self.feed.answers.borrow().clone()
    }

    /// Every answer and error, in order.
    pub fn said(&self) -> Vec<Result<Answer, String>> {
        self.said.lock().unwrap().clone()
    }

    pub fn errors(&self) -> Vec<String> {
        self.said().into_iter().filter_map(Result::err).collect()
    }

    pub fn answers(&self) -> Vec<Answer> {
        self.said().into_iter().filter_map(Result::ok).collect()
    }

    /// Waits until the published set has exactly these ports; gives how long it took.
    pub async fn sees(&self, ports: impl IntoIterator<Item = u16>, limit: Duration) -> Duration {
        let asked = Instant::now();
        let ports: BTreeSet<u16> = ports.into_iter().collect();
        let mut answers = self.feed.answers.clone();
        let seen = answers.wait_for(|last| last.as_ref().is_some_and(|answer| ports_of(answer) == ports));
        if tokio::time::timeout(limit, seen).await.is_err() {
            let last = self.last().map(|answer| ports_of(&answer));
            panic!("{ports:?} not seen within {limit:?}, but {last:?}; errors {:?}", self.errors());
        }
        asked.elapsed()
    }

    pub async fn answers_with(&self, what: &str, limit: Duration, check: impl Fn(&Answer) -> bool) -> Answer {
        eventually(what, limit, async || self.answers().into_iter().find(|answer| check(answer))).await
    }

    pub async fn fails(&self, text: &str, limit: Duration) {
        eventually(text, limit, async || self.errors().iter().any(|e| e.contains(text)).then_some(())).await;
    }

    pub fn never_said_less_than(&self, endpoints: usize) {
        for answer in self.answers() {
            assert!(answer.set.len() >= endpoints, "{answer:?}");
        }
    }

    pub fn trusted_all_along(&self) {
        for answer in self.answers() {
            assert_eq!(answer.trust, Trust::Trusted, "{answer:?}");
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.tasks.stop_token().cancel();
    }
}

fn ports_of(answer: &Answer) -> BTreeSet<u16> {
    answer.set.iter().map(|endpoint| endpoint.addr.port()).collect()
}
