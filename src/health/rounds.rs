//! The checks of one target, round after round: wait, ask, judge, tell.

use super::pace::{Lane, Pace};
use super::schedule::Schedule;
use super::verdict::{State, Verdict};
use super::{CheckSettings, Probe, ProbeError};
use crate::model::{Flag, History, Outcome, ServiceName};
use crate::telemetry::{Events, Kind};
use rand::rngs::SmallRng;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What asks a target. There is one in the program, [`Probe`]; the schedule of a thousand targets is tested without sockets.
pub(super) trait Ask: Send + 'static {
    fn ask(&mut self, addr: SocketAddr) -> impl Future<Output = Result<(), ProbeError>> + Send;
    /// Polled between two questions; never ends.
    fn idle(&mut self) -> impl Future<Output = Infallible> + Send;
}

impl Ask for Probe {
    fn ask(&mut self, addr: SocketAddr) -> impl Future<Output = Result<(), ProbeError>> + Send {
        Probe::ask(self, addr)
    }

    fn idle(&mut self) -> impl Future<Output = Infallible> + Send {
        Probe::idle(self)
    }
}

/// What the rounds of all targets of a service share.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) service: ServiceName,
    pub(super) settings: CheckSettings,
    pub(super) changed: Arc<Notify>,
    pub(super) pace: Arc<Pace>,
    pub(super) events: Events,
}

/// The checks of one target.
pub(super) struct Rounds<A> {
    desk: Arc<Desk>,
    asker: A,
    addr: SocketAddr,
    history: Arc<History>,
    verdict: Verdict,
    schedule: Schedule,
    /// Real traffic as of the last turn.
    seen: Traffic,
    /// The last probe could not be made, by our own fault.
    blocked: bool,
    rng: SmallRng,
}

/// What real traffic said of a target so far.
#[derive(Clone, Copy)]
struct Traffic {
    successes: u64,
    failures: u64,
}

impl Traffic {
    fn of(history: &History) -> Self {
        Self { successes: history.tally.get(Outcome::Success), failures: history.tally.failures() }
    }
}

impl<A: Ask> Rounds<A> {
    /// Goes on from what the health bits say: a target that an earlier checker judged is not new.
    pub(super) fn new(
        desk: Arc<Desk>,
        asker: A,
        addr: SocketAddr,
        history: Arc<History>,
        rng: SmallRng,
    ) -> Self {
        let state = if history.health.has(Flag::Unproven) {
            State::Unproven
        } else if history.health.has(Flag::Check) {
            State::Unhealthy
        } else {
            State::Healthy
        };
        Self {
            verdict: Verdict::new(state, desk.settings.rise, desk.settings.fall),
            schedule: Schedule::new(&desk.settings),
            seen: Traffic::of(&history),
            blocked: false,
            desk,
            asker,
            addr,
            history,
            rng,
        }
    }

    /// Asks for the first time at `due`, then for ever.
    ///
    /// Ten thousand of these wait side by side: whatever is handed to an `async fn` by value is kept there twice.
    pub(super) async fn run(&mut self, mut due: Instant) {
        loop {
            tokio::select! {
                never = self.asker.idle() => match never {},
                () = tokio::time::sleep_until(due) => {}
            }
            if self.is_proven_by_traffic() {
                due = Instant::now() + self.schedule.healthy(&mut self.rng);
                continue;
            }
            let lane = if self.verdict.state() == State::Unproven { Lane::New } else { Lane::Known };
            tokio::select! {
                never = self.asker.idle() => match never {},
                () = self.desk.pace.turn(lane) => {}
            }
            let started = Instant::now();
            // Boxed, because ten thousand targets wait while a hundred are asked.
            let answer = Box::pin(self.asker.ask(self.addr)).await;
            due = started + self.judge(&answer);
        }
    }

    /// Since the last turn it answered at least one request, none went wrong, and no probe left a doubt.
    fn is_proven_by_traffic(&mut self) -> bool {
        let now = Traffic::of(&self.history);
        let before = std::mem::replace(&mut self.seen, now);
        self.verdict.is_undoubted() && now.successes > before.successes && now.failures == before.failures
    }

    /// Takes in one answer; returns the time from this probe's start to the next.
    fn judge(&mut self, answer: &Result<(), ProbeError>) -> Duration {
        if let Err(error) = answer
            && error.is_ours()
        {
            if !std::mem::replace(&mut self.blocked, true) {
                tracing::warn!(service = %self.desk.service, target.addr = %self.addr, %error, "cannot check a target");
            }
            return self.schedule.healthy(&mut self.rng);
        }
        self.blocked = false;
        let before = self.verdict.state();
        let turned = self.verdict.take(answer.is_ok());
        let healthy = self.verdict.state() == State::Healthy;
        let reason = answer.as_ref().err().map(ToString::to_string);
        self.mark(healthy, reason.as_deref());
        if healthy && answer.is_ok() {
            // Who was out on the evidence of requests need not wait for one to prove itself.
            self.history.trial.acquit();
        }
        if turned {
            self.tell(before, reason.as_deref());
        }
        if healthy {
            self.schedule.healthy(&mut self.rng)
        } else {
            self.schedule.unhealthy(answer.is_ok(), &mut self.rng)
        }
    }

    /// Sets this judge's bits and the note, and wakes the keeper if that changes who may be used.
    fn mark(&self, healthy: bool, reason: Option<&str>) {
        let health = &self.history.health;
        if healthy {
            health.set_note(Flag::Check, None);
        } else if let Some(reason) = reason {
            health.set_note(Flag::Check, Some(reason.into()));
        }
        // In this order a target that fails its first check is never without a bit.
        let judged = health.set(Flag::Check, !healthy);
        let proven = health.clear(Flag::Unproven);
        if judged || proven {
            self.desk.changed.notify_one();
        }
    }

    fn tell(&self, before: State, reason: Option<&str>) {
        let (service, settings) = (self.desk.service.as_str(), &self.desk.settings);
        match (before, reason) {
            (_, Some(reason)) => {
                self.desk.events.emit(Kind::EndpointUnhealthy, service, Some(self.addr), reason);
            }
            (State::Unproven, None) => {
                tracing::debug!(service, target.addr = %self.addr, "first check passed");
            }
            (_, None) => {
                let detail = format!("passed {} checks in a row", settings.rise.max(1));
                self.desk.events.emit(Kind::EndpointHealthy, service, Some(self.addr), detail);
            }
        }
    }
}
