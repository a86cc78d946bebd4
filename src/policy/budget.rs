//! How many retries a service may make, in proportion to its requests, so that retries never become the load.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Clone, Debug, PartialEq)]
pub struct BudgetSettings {
    /// Retries as a share of requests, 0 to 1.
    pub ratio: f64,
    /// Retries per second that are always allowed.
    pub floor: u32,
}

impl Default for BudgetSettings {
    fn default() -> Self {
        Self { ratio: 0.2, floor: 10 }
    }
}

/// Requests and retries of the last ten seconds. Shared by all workers, without a lock: each counts in cells of its own
/// and adds up all of them when it wants to retry.
#[derive(Debug)]
pub struct Budget {
    settings: BudgetSettings,
    start: Instant,
    workers: Box<[Worker]>,
}

/// What one worker has counted: by the second, second (24 bits) | requests (20 bits) | retries (20 bits).
///
/// It alone writes there, to a cache line that it shares with nobody.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Worker([AtomicU64; Budget::WINDOW as usize]);

const COUNT_BITS: u32 = 20;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

const SECOND_MASK: u64 = (1 << (64 - 2 * COUNT_BITS)) - 1;

impl Budget {
    const WINDOW: u64 = 10;

    pub fn new(settings: BudgetSettings, workers: usize, start: Instant) -> Self {
        Self { settings, start, workers: (0..workers.max(1)).map(|_| Worker::default()).collect() }
    }

    /// Counts a first attempt.
    pub fn request(&self, worker: usize, now: Instant) {
        self.bump(worker, self.second(now), 1 << COUNT_BITS);
    }

    /// Takes one retry out of the budget; `false` if none is left.
    ///
    /// Two workers may both take the last one: the budget bounds a storm, it does not count coins.
    pub fn retry(&self, worker: usize, now: Instant) -> bool {
        let second = self.second(now);
        let (mut requests, mut retries) = (0, 0);
        for slot in self.workers.iter().flat_map(|worker| &worker.0) {
            let value = slot.load(Ordering::Relaxed);
            // The second runs over after half a year. Another worker may be ahead by one.
            let age = (second + 1).wrapping_sub(value >> (2 * COUNT_BITS)) & SECOND_MASK;
            if age <= Self::WINDOW {
                requests += (value >> COUNT_BITS) & COUNT_MASK;
                retries += value & COUNT_MASK;
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "at most ten million per worker")]
        let allowed = self.settings.ratio * requests as f64
            + f64::from(self.settings.floor) * Duration::from_secs(Self::WINDOW).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "at most ten million per worker")]
        let within = (retries as f64) < allowed;
        if within {
            self.bump(worker, second, 1);
        }
        within
    }

    /// Seconds since the start; begins at the window's length so that zeroed slots are old.
    fn second(&self, now: Instant) -> u64 {
        (now.saturating_duration_since(self.start).as_secs() + Self::WINDOW) & SECOND_MASK
    }

    fn bump(&self, worker: usize, second: u64, by: u64) {
        let Some(worker) = self.workers.get(worker).or(self.workers.first()) else { return };
        let Some(slot) = worker.0.get((second % Self::WINDOW) as usize) else { return };
        let old = slot.load(Ordering::Relaxed);
        let fresh = if old >> (2 * COUNT_BITS) == second { old } else { second << (2 * COUNT_BITS) };
        let count = if by == 1 { fresh } else { fresh >> COUNT_BITS };
        if count & COUNT_MASK < COUNT_MASK {
            slot.store(fresh + by, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spend(budget: &Budget, now: Instant) -> u32 {
        (0..1_000_000).take_while(|_| budget.retry(0, now)).count() as u32
    }

    #[test]
    fn an_idle_service_may_retry_at_its_floor() {
        let start = Instant::now();
        let budget = Budget::new(BudgetSettings::default(), 1, start);
        assert_eq!(spend(&budget, start), 100, "10 per second over 10 s");
        assert!(!budget.retry(0, start + Duration::from_secs(9)));
        assert_eq!(spend(&budget, start + Duration::from_secs(10)), 100, "the window has passed");
    }

    #[test]
    fn a_fifth_of_the_requests_may_be_retried() {
        let start = Instant::now();
        let budget = Budget::new(BudgetSettings::default(), 1, start);
        for second in 0..10 {
            for _ in 0..1_000 {
                budget.request(0, start + Duration::from_secs(second));
            }
        }
        assert_eq!(spend(&budget, start + Duration::from_secs(9)), 2_100);
    }

    #[test]
    fn what_one_worker_counts_is_every_workers_budget() {
        let start = Instant::now();
        let budget = Budget::new(BudgetSettings::default(), 3, start);
        (0..1_000).for_each(|n| budget.request(n % 3, start));
        assert_eq!((0..200).filter(|n| budget.retry(n % 2, start)).count(), 200);
        assert_eq!((0..1_000).filter(|_| budget.retry(2, start)).count(), 100, "a fifth and the floor");
        assert!(!budget.retry(0, start));
    }

    #[test]
    fn counts_stop_at_their_width_instead_of_running_over() {
        let start = Instant::now();
        let budget = Budget::new(BudgetSettings { ratio: 0.0, floor: 1 }, 1, start);
        for _ in 0..(1 << COUNT_BITS) + 10 {
            budget.request(0, start);
        }
        assert_eq!(spend(&budget, start), 10);
    }
}
