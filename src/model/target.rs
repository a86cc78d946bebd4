//! An endpoint together with what this process has lived through with it.

use super::{Endpoint, Flag, Health, Load, Outcome, Tally, Trial};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// A description that never changes, joined to a history that outlives it.
#[derive(Clone, Debug)]
pub struct Target {
    pub endpoint: Endpoint,
    pub history: Arc<History>,
}

impl Target {
    /// A target with a clean history.
    pub fn new(endpoint: Endpoint, now: Instant) -> Self {
        Self { endpoint, history: Arc::new(History::new(now)) }
    }

    /// The same instance under a new description: the history goes on.
    pub fn redescribed(&self, endpoint: Endpoint) -> Self {
        Self { endpoint, history: Arc::clone(&self.history) }
    }

    pub fn id(&self) -> TargetId {
        self.history.id
    }
}

/// Unique in this process, never used again: connections and statistics are kept by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId(u64);

/// What the end of an attempt is a sign of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Signs {
    /// Each fifth failed connection in a row: the instance may well have gone without a word of its registry.
    pub doubt: bool,
    /// Outages in a row.
    pub outages: u32,
}

/// This process's experience with one instance.
#[derive(Debug)]
pub struct History {
    id: TargetId,
    pub health: Health,
    pub load: Load,
    pub tally: Tally,
    /// Failed connections in a row.
    unreached: AtomicU32,
    /// Outages in a row, whatever their kind.
    outages: AtomicU32,
    pub trial: Trial,
    /// Somebody has taken back what was held against it.
    pardoned: AtomicBool,
    since: Instant,
    /// Milliseconds from `since` to the newest response head, plus one; 0 = none yet.
    answered: AtomicU64,
    /// Milliseconds from `since` to retirement, plus one; 0 = not retired.
    retired: AtomicU64,
    /// It and we do not come together over TLS.
    untrusted: AtomicBool,
}

impl History {
    /// So many failed connections in a row are a reason to doubt the list.
    const DOUBTED: u32 = 5;

    fn new(now: Instant) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: TargetId(NEXT.fetch_add(1, Ordering::Relaxed)),
            health: Health::default(),
            load: Load::default(),
            tally: Tally::default(),
            unreached: AtomicU32::new(0),
            outages: AtomicU32::new(0),
            trial: Trial::default(),
            pardoned: AtomicBool::new(false),
            since: now,
            answered: AtomicU64::new(0),
            retired: AtomicU64::new(0),
            untrusted: AtomicBool::new(false),
        }
    }

    pub fn id(&self) -> TargetId {
        self.id
    }

    /// When this process first saw the instance.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Counts how an attempt ended, and says what that is a sign of.
    pub fn count(&self, outcome: Outcome) -> Signs {
        self.tally.count(outcome);
        let mut signs = Signs::default();
        if outcome == Outcome::ConnectFailed {
            let before = self.unreached.fetch_add(1, Ordering::Relaxed);
            signs.doubt = before.wrapping_add(1).is_multiple_of(Self::DOUBTED);
        } else if outcome != Outcome::Abandoned && self.unreached.load(Ordering::Relaxed) > 0 {
            // Mostly it is 0 already, and a cell that is only read stays in every core's cache.
            self.unreached.store(0, Ordering::Relaxed);
        }
        if outcome.is_outage() {
            signs.outages = self.outages.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        } else if outcome != Outcome::Abandoned {
            self.proves();
        }
        signs
    }

    /// It was there for somebody: no row of outages goes on from here.
    pub fn proves(&self) {
        if self.outages.load(Ordering::Relaxed) > 0 {
            self.outages.store(0, Ordering::Relaxed);
        }
    }

    /// Outages in a row since it was last here for somebody.
    pub fn outages(&self) -> u32 {
        self.outages.load(Ordering::Relaxed)
    }

    /// Nothing that requests have brought up against it counts any more.
    pub fn forgive(&self) {
        self.proves();
        self.trial.end();
    }

    /// Asks its judge to take back what requests have brought up against it.
    pub fn pardon(&self) {
        self.pardoned.store(true, Ordering::Release);
    }

    /// Whether that was asked since the last look.
    pub fn take_pardon(&self) -> bool {
        self.pardoned.load(Ordering::Relaxed) && self.pardoned.swap(false, Ordering::AcqRel)
    }

    /// The last connections all failed, so many that something is wrong.
    pub fn is_unreached(&self) -> bool {
        self.unreached.load(Ordering::Relaxed) >= Self::DOUBTED
    }

    /// Whether it and we come together over TLS; `true` if that has changed since it was last told.
    pub fn trusts(&self, trusted: bool) -> bool {
        // Mostly nothing changes, and a cell that is only read stays in every core's cache.
        self.untrusted.load(Ordering::Relaxed) == trusted
            && self.untrusted.swap(!trusted, Ordering::Relaxed) == trusted
    }

    /// A response's head came. Exact to a tenth of a second, so that busy workers mostly only read.
    pub fn answered(&self, now: Instant) {
        let (before, stamp) = (self.answered.load(Ordering::Relaxed), self.stamp(now));
        if before == 0 || stamp > before + 100 {
            self.answered.store(stamp, Ordering::Relaxed);
        }
    }

    /// Whether a response came within `time` before `now`.
    pub fn answered_since(&self, now: Instant, time: Duration) -> bool {
        let answered = self.answered.load(Ordering::Relaxed);
        answered > 0 && Duration::from_millis(self.stamp(now).saturating_sub(answered)) <= time
    }

    /// Milliseconds since this process first saw the instance, plus one.
    fn stamp(&self, now: Instant) -> u64 {
        let after = now.saturating_duration_since(self.since).as_millis();
        u64::try_from(after).unwrap_or(u64::MAX - 1).saturating_add(1)
    }

    /// Discovery removed it: no new requests, pooled connections go, what runs may finish. Final.
    pub fn retire(&self, now: Instant) {
        if self.health.raise(Flag::Retired) {
            self.retired.store(self.stamp(now), Ordering::Release);
        }
    }

    pub fn retired_at(&self) -> Option<Instant> {
        match self.retired.load(Ordering::Acquire) {
            0 => None,
            stamp => Some(self.since + Duration::from_millis(stamp - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Weight;

    #[test]
    fn a_redescribed_target_inherits_its_cells() {
        let old = Target::new(Endpoint::at("127.0.0.1:1".parse().unwrap()), Instant::now());
        old.history.tally.count(Outcome::Success);
        old.history.health.raise(Flag::Check);
        let heavier = Endpoint { weight: Weight::new(9), ..old.endpoint.clone() };
        let new = old.redescribed(heavier);
        assert_eq!(new.id(), old.id());
        assert!(new.history.health.has(Flag::Check), "a weight change revives nobody");
        assert_eq!(new.history.tally.attempts(), 1);
    }

    #[test]
    fn trust_that_is_lost_or_found_is_news_once() {
        let target = Target::new(Endpoint::at("127.0.0.1:1".parse().unwrap()), Instant::now());
        let told = [true, false, false, true, true].map(|trusted| target.history.trusts(trusted));
        assert_eq!(told, [false, true, false, true, false]);
    }

    #[test]
    fn an_answer_is_remembered_for_as_long_as_is_asked() {
        let begin = Instant::now();
        let target = Target::new(Endpoint::at("127.0.0.1:1".parse().unwrap()), begin);
        let at = |millis| begin + Duration::from_millis(millis);
        let lately = |now| target.history.answered_since(at(now), Duration::from_secs(30));
        assert!(!lately(0), "never");
        target.history.answered(at(0));
        assert!(lately(30_000) && !lately(30_001));
        target.history.answered(at(5_000));
        assert!(lately(35_000) && !lately(35_001));
    }

    #[test]
    fn each_fifth_failed_connection_in_a_row_is_a_doubt() {
        let target = Target::new(Endpoint::at("127.0.0.1:1".parse().unwrap()), Instant::now());
        let doubts = |outcomes: &[Outcome]| {
            outcomes.iter().filter(|outcome| target.history.count(**outcome).doubt).count()
        };
        assert_eq!(doubts(&[Outcome::ConnectFailed; 4]), 0);
        assert_eq!(doubts(&[Outcome::Abandoned; 9]), 0, "an abandoned attempt says nothing");
        assert_eq!(doubts(&[Outcome::ConnectFailed; 1]), 1);
        assert_eq!(doubts(&[Outcome::ConnectFailed; 10]), 2);
        assert_eq!(doubts(&[Outcome::ConnectFailed; 4]), 0);
        assert_eq!(doubts(&[Outcome::ServerError, Outcome::ConnectFailed]), 0, "an answer: it was reached");
        assert_eq!(doubts(&[Outcome::ConnectFailed; 4]), 1);
        assert_eq!(target.history.tally.get(Outcome::ConnectFailed), 24);
    }

    #[test]
    fn outages_in_a_row_are_counted_until_it_is_there_for_somebody() {
        use Outcome::{Abandoned, ConnectFailed, Reset, ServerError, Success, Timeout, Unavailable};
        let target = Target::new(Endpoint::at("127.0.0.1:1".parse().unwrap()), Instant::now());
        let count = |outcome| target.history.count(outcome).outages;
        let row = [Unavailable, ConnectFailed, Abandoned, Timeout, ServerError, Reset, Success, Reset];
        assert_eq!(row.map(count), [1, 2, 0, 3, 0, 1, 0, 1]);
    }

    #[test]
    fn retirement_is_stamped_once() {
        let start = Instant::now();
        let target = Target::new(Endpoint::at("127.0.0.1:1".parse().unwrap()), start);
        assert_eq!(target.history.retired_at(), None);
        target.history.retire(start + Duration::from_secs(5));
        target.history.retire(start + Duration::from_secs(9));
        assert_eq!(target.history.retired_at(), Some(start + Duration::from_secs(5)));
        assert!(target.history.health.has(Flag::Retired));
    }
}
