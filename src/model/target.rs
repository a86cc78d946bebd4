//! An endpoint together with what this process has lived through with it.

use super::{Endpoint, Flag, Health, Load, Outcome, Tally};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
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

/// This process's experience with one instance.
#[derive(Debug)]
pub struct History {
    id: TargetId,
    pub health: Health,
    pub load: Load,
    pub tally: Tally,
    /// Failed connections in a row.
    unreached: AtomicU32,
    since: Instant,
    /// Milliseconds from `since` to retirement, plus one; 0 = not retired.
    retired: AtomicU64,
}

impl History {
    fn new(now: Instant) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: TargetId(NEXT.fetch_add(1, Ordering::Relaxed)),
            health: Health::default(),
            load: Load::default(),
            tally: Tally::default(),
            unreached: AtomicU32::new(0),
            since: now,
            retired: AtomicU64::new(0),
        }
    }

    pub fn id(&self) -> TargetId {
        self.id
    }

    /// When this process first saw the instance.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Counts how an attempt ended; `true` at each fifth failed connection in a row, when the instance may well have
    /// gone without a word of its registry.
    pub fn count(&self, outcome: Outcome) -> bool {
        /// So many failed connections in a row are a reason to doubt the list.
        const DOUBTED: u32 = 5;
        self.tally.count(outcome);
        match outcome {
            Outcome::ConnectFailed => {
                let before = self.unreached.fetch_add(1, Ordering::Relaxed);
                before.wrapping_add(1).is_multiple_of(DOUBTED)
            }
            Outcome::Abandoned => false,
            _ => {
                // Mostly it is 0 already, and a cell that is only read stays in every core's cache.
                if self.unreached.load(Ordering::Relaxed) > 0 {
                    self.unreached.store(0, Ordering::Relaxed);
                }
                false
            }
        }
    }

    /// Discovery removed it: no new requests, pooled connections go, what runs may finish. Final.
    pub fn retire(&self, now: Instant) {
        if self.health.raise(Flag::Retired) {
            let after = now.saturating_duration_since(self.since).as_millis();
            let stamp = u64::try_from(after).unwrap_or(u64::MAX - 1).saturating_add(1);
            self.retired.store(stamp, Ordering::Release);
        }
    }

    pub fn retired_at(&self) -> Option<Instant> {
        match self.retired.load(Ordering::Acquire) {
            0 => None,
            stamp => Some(self.since + std::time::Duration::from_millis(stamp - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Weight;
    use std::time::Duration;

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
    fn each_fifth_failed_connection_in_a_row_is_a_doubt() {
        let target = Target::new(Endpoint::at("127.0.0.1:1".parse().unwrap()), Instant::now());
        let doubts =
            |outcomes: &[Outcome]| outcomes.iter().filter(|outcome| target.history.count(**outcome)).count();
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
