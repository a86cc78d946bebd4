//! The one owner of a registration's state: announce, renew, lost, announce; withdraw on stop.

use super::app::Questioner;
use super::damper::Damper;
use super::status::{State, Status};
use super::{Lease, Registrar, RegistrarError, RegistrationSettings, Renewal, Standing};
use crate::health::VerdictState;
use crate::rt::{Backoff, Stop, Tasks};
use crate::telemetry::{Events, Kind};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// How often a keeper does what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    /// Between two signs of life.
    pub beat: Duration,
    /// An app that fails stays as such, where the registry can show it, for this long.
    pub withdraw_after: Duration,
}

impl Rhythm {
    pub fn new(settings: &RegistrationSettings) -> Self {
        Self { beat: settings.beat, withdraw_after: settings.withdraw_after }
    }
}

/// Starts to ask the app and to keep its announcement. Both end with the group; the keeper withdraws before it does.
pub fn register<R: Registrar>(
    tasks: &Tasks,
    settings: &RegistrationSettings,
    status: &Arc<Status>,
    registrar: R,
    rng: &mut SmallRng,
) -> AbortHandle {
    let (questioner, app) = Questioner::new(settings, Arc::clone(status), SmallRng::from_rng(rng));
    tasks.spawn("app check", |stop| async move {
        tokio::select! {
            () = questioner.run() => {}
            () = stop.cancelled() => {}
        }
    });
    let rhythm = Rhythm::new(settings);
    let events = tasks.events().clone();
    let keeper = Keeper::new(registrar, rhythm, app, Arc::clone(status), events, SmallRng::from_rng(rng));
    tasks.spawn("registration", |stop| keeper.run(stop))
}

struct Keeper<R> {
    registrar: R,
    rhythm: Rhythm,
    app: watch::Receiver<VerdictState>,
    /// The last verdict that was taken in.
    verdict: VerdictState,
    damper: Damper,
    /// Since when an announced app is not passing.
    down: Option<Instant>,
    lease: Option<Lease>,
    /// What the registry was told last.
    told: Standing,
    /// Something may be in the registry, with or without our knowing.
    touched: bool,
    /// It was said that everybody can see it.
    made: bool,
    /// When the next call is due; one for a change of mind does not wait for it, unless the registry fails.
    due: Instant,
    lost_at: Option<Instant>,
    failing: bool,
    /// Nobody asks the app any more although the group goes on: its check has panicked.
    unasked: bool,
    backoff: Backoff,
    clock: Clock,
    status: Arc<Status>,
    events: Events,
    rng: SmallRng,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Wait(Instant),
    Announce,
    Renew(Standing),
    Withdraw,
}

impl<R: Registrar> Keeper<R> {
    const RETRY_BASE: Duration = Duration::from_millis(250);
    const RETRY_CAP: Duration = Duration::from_secs(3);
    /// After a lack of room, and after a refusal.
    const FULL_RETRY: Duration = Duration::from_secs(10);
    const REFUSED_RETRY: Duration = Duration::from_secs(30);
    /// An entry that is not seen yet is looked after this often.
    const UNSEEN: Duration = Duration::from_secs(2);

    fn new(
        registrar: R,
        rhythm: Rhythm,
        app: watch::Receiver<VerdictState>,
        status: Arc<Status>,
        events: Events,
        rng: SmallRng,
    ) -> Self {
        Self {
            registrar,
            rhythm,
            app,
            verdict: VerdictState::Unproven,
            damper: Damper::default(),
            down: None,
            lease: None,
            told: Standing::Passing,
            touched: false,
            made: false,
            due: Instant::now(),
            lost_at: None,
            failing: false,
            unasked: false,
            backoff: Backoff::new(Self::RETRY_BASE, Self::RETRY_CAP.min(rhythm.beat)),
            clock: Clock::new(),
            status,
            events,
            rng,
        }
    }

    async fn run(mut self, stop: Stop) {
        while !stop.is_cancelled() {
            self.hear();
            let now = Instant::now();
            match self.step(now) {
                Step::Wait(until) => self.wait(until, &stop).await,
                Step::Announce => {
                    self.touched = true;
                    self.status.enter(State::Announcing, None);
                    match patient(&stop, self.registrar.announce(Standing::Passing)).await {
                        Some(answer) => self.announced(answer),
                        None => break,
                    }
                }
                Step::Renew(standing) => match patient(&stop, self.registrar.renew(standing)).await {
                    Some(answer) => self.renewed(answer, standing),
                    None => break,
                },
                Step::Withdraw => match patient(&stop, self.registrar.withdraw()).await {
                    Some(Ok(was_there)) => self.withdrawn(was_there, "the app fails its check"),
                    Some(Err(error)) => self.trouble(&error),
                    None => break,
                },
            }
        }
        self.leave().await;
    }

    /// Takes in what the app's check says.
    fn hear(&mut self) {
        let mut verdict = *self.app.borrow_and_update();
        if self.unasked {
            verdict = VerdictState::Unhealthy;
            self.status.app(verdict, Some("the check itself has ended".to_owned()));
        }
        let before = std::mem::replace(&mut self.verdict, verdict);
        let now = Instant::now();
        let addr = Some(self.status.announcement().addr);
        match (before, verdict) {
            (VerdictState::Healthy, VerdictState::Healthy) => {}
            (_, VerdictState::Healthy) => {
                self.damper.recovered(now);
                let hold = self.damper.hold();
                if self.damper.has_failed() {
                    let held = match hold {
                        Duration::ZERO => String::new(),
                        hold => format!("; it fails often, and is held back for {hold:?}"),
                    };
                    let detail = format!("the local app passes its check again{held}");
                    self.events.emit(Kind::EndpointHealthy, self.service(), addr, detail);
                }
            }
            (VerdictState::Healthy, _) => {
                self.damper.failed(now);
                let note = self.status.view().app_note.unwrap_or_default();
                let detail = format!("the local app fails its check: {note}");
                self.events.emit(Kind::EndpointUnhealthy, self.service(), addr, detail);
            }
            _ => {}
        }
    }

    fn step(&mut self, now: Instant) -> Step {
        let returns = self.damper.returns().filter(|_| self.verdict == VerdictState::Healthy);
        let passes = returns.is_some_and(|at| at <= now);
        let next = returns.filter(|at| *at > now);
        let later = |until: Instant| Step::Wait(next.map_or(until, |next| next.min(until)));
        if passes {
            self.down = None;
            return match &self.lease {
                _ if now < self.due && (self.lease.is_none() || self.failing) => Step::Wait(self.due),
                None => Step::Announce,
                Some(_) if self.told != Standing::Passing || now >= self.due => {
                    Step::Renew(Standing::Passing)
                }
                Some(_) => Step::Wait(self.due),
            };
        }
        if !self.touched {
            return later(now + Clock::TICK);
        }
        let down = *self.down.get_or_insert(now);
        let until = down + self.rhythm.withdraw_after;
        let shown = self.lease.is_some() && self.registrar.shows_failing() && now < until;
        if self.failing && now < self.due {
            return later(self.due);
        }
        match shown {
            true if self.told != Standing::Failing || now >= self.due => Step::Renew(Standing::Failing),
            true => later(self.due.min(until)),
            false => Step::Withdraw,
        }
    }

    /// Until then, or until something happens: a verdict, a stop, a leap of the clock.
    async fn wait(&mut self, until: Instant, stop: &Stop) {
        tokio::select! {
            () = stop.cancelled() => {}
            // At a stop, too, of which the token knows by then.
            heard = self.app.changed(), if !self.unasked => self.unasked = heard.is_err(),
            () = tokio::time::sleep_until(until.min(Instant::now() + Clock::TICK)) => {}
        }
        // The machine slept: the registry's clock went on, and the lease may be over.
        if self.clock.has_leapt() && self.lease.is_some() {
            self.due = Instant::now();
        }
    }

    fn announced(&mut self, answer: Result<Lease, RegistrarError>) {
        match answer {
            Ok(lease) => {
                self.told = Standing::Passing;
                self.hold(lease);
            }
            Err(error) => self.trouble(&error),
        }
    }

    fn renewed(&mut self, answer: Result<Renewal, RegistrarError>, standing: Standing) {
        match answer {
            Ok(Renewal::Kept(lease)) => {
                let turned = self.told != standing;
                self.told = standing;
                let (well, ill) = if self.registrar.asks_by_itself() {
                    (
                        "passes here again, and is left to the agent's own check in",
                        "fails here, and is left to the agent's own check in",
                    )
                } else {
                    ("is vouched for again in", "is marked as critical in")
                };
                if (self.failing || turned) && self.made && standing == Standing::Passing {
                    self.emit(Kind::RegistrationRenewed, self.sentence(well));
                } else if turned && standing == Standing::Failing {
                    self.emit(Kind::RegistrationFailing, self.sentence(ill));
                }
                self.hold(lease);
            }
            Ok(Renewal::Lost(how)) => {
                self.status.lost();
                self.emit(Kind::RegistrationLost, format!("{}: {how}", self.sentence("is no longer in")));
                self.status.enter(State::Announcing, None);
                self.lease = None;
                self.made = false;
                let now = Instant::now();
                let often = self.lost_at.replace(now).is_some_and(|at| now - at < Duration::from_secs(1));
                self.due = if often { now + Duration::from_secs(1) } else { now };
            }
            Err(error) => self.trouble(&error),
        }
    }

    /// The registry did as it was told.
    fn hold(&mut self, lease: Lease) {
        self.backoff.reset();
        self.failing = false;
        let state = match self.told {
            Standing::Failing => State::Failing,
            Standing::Passing if lease.seen => State::Announced,
            Standing::Passing => State::Announcing,
        };
        self.due =
            Instant::now() + if lease.seen { self.rhythm.beat } else { Self::UNSEEN.min(self.rhythm.beat) };
        self.status.error(lease.doubt.clone());
        self.status.enter(state, Some(&lease));
        if lease.seen && !std::mem::replace(&mut self.made, true) {
            let lease = lease.id.map_or_else(String::new, |id| format!(", lease {id:x}"));
            self.emit(Kind::RegistrationMade, format!("{}{lease}", self.sentence("is in")));
        }
        self.lease = Some(lease);
    }

    fn withdrawn(&mut self, was_there: bool, why: &str) {
        self.backoff.reset();
        self.failing = false;
        self.status.error(None);
        self.status.enter(State::Withdrawn, None);
        if was_there || self.made {
            self.emit(Kind::RegistrationWithdrawn, format!("{}: {why}", self.sentence("was taken out of")));
        }
        (self.lease, self.touched, self.made, self.down) = (None, false, false, None);
        self.due = Instant::now();
    }

    /// Told when it begins.
    fn trouble(&mut self, error: &RegistrarError) {
        let text = error.to_string();
        self.status.error(Some(text.clone()));
        if !std::mem::replace(&mut self.failing, true) {
            self.emit(Kind::RegistrationFailing, text);
        }
        let pause = match error {
            // Half of it always: by chance alone a short TTL would have its registry asked more than once a second.
            RegistrarError::Unavailable(_) => {
                self.backoff.ceiling() / 2 + self.backoff.next(&mut self.rng) / 2
            }
            RegistrarError::Full(_) => Self::FULL_RETRY,
            RegistrarError::Refused(_) => Self::REFUSED_RETRY,
        };
        // What is held must be vouched for in time, whatever the registry says to something else.
        let longest = if self.lease.is_some() { self.rhythm.beat } else { Duration::MAX };
        self.due = Instant::now() + pause.min(longest);
    }

    /// The end: takes out whatever may be there, again and again until somebody ends this task.
    async fn leave(mut self) {
        if !self.touched {
            self.status.enter(State::Withdrawn, None);
            return;
        }
        loop {
            match self.registrar.withdraw().await {
                Ok(was_there) => return self.withdrawn(was_there, "the sidecar stops"),
                Err(error) => {
                    self.trouble(&error);
                    if matches!(error, RegistrarError::Refused(_)) {
                        return;
                    }
                }
            }
            tokio::time::sleep(Self::RETRY_BASE).await;
        }
    }

    fn sentence(&self, what: &str) -> String {
        format!("{} {what} {}", self.status.announcement().id, self.status.registry())
    }

    fn service(&self) -> &str {
        self.status.announcement().service.as_str()
    }

    fn emit(&self, kind: Kind, detail: String) {
        self.events.emit(kind, self.service(), Some(self.status.announcement().addr), detail);
    }
}

/// A call that a stop meets on its way is given this long to end by itself.
const PATIENCE: Duration = Duration::from_millis(500);

/// Waits for a call; after a stop only a little longer, then `None`.
async fn patient<T>(stop: &Stop, call: impl Future<Output = T>) -> Option<T> {
    let end = async {
        stop.cancelled().await;
        tokio::time::sleep(PATIENCE).await;
    };
    tokio::select! {
        answer = call => Some(answer),
        () = end => None,
    }
}

/// Tells when the machine was suspended: timers stand still then, the time of day does not.
struct Clock {
    wall: SystemTime,
    timer: Instant,
}

impl Clock {
    /// How often it is looked at, at least.
    const TICK: Duration = Duration::from_secs(1);
    /// Smaller steps are corrections of the time of day.
    const LEAP: Duration = Duration::from_secs(2);

    fn new() -> Self {
        Self { wall: SystemTime::now(), timer: Instant::now() }
    }

    fn has_leapt(&mut self) -> bool {
        let before = std::mem::replace(self, Self::new());
        let wall = self.wall.duration_since(before.wall).unwrap_or_default();
        wall > self.timer.saturating_duration_since(before.timer) + Self::LEAP
    }
}

#[cfg(test)]
mod tests;
