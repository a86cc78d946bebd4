//! What a service's requests came to, counted per worker so that workers do not share cache lines.

use crate::model::Outcome;
use crate::policy::{Denied, RetryReason};
use crate::telemetry::{Histogram, LocalCounter};
use std::time::Duration;

/// One worker's cells for one service; that worker alone writes to them.
#[derive(Debug)]
#[repr(align(128))]
pub struct ServiceTally {
    /// By status, 100 to 599; own answers included.
    codes: [LocalCounter; Self::CODES],
    /// TCP connections that an instance took.
    carried: LocalCounter,
    duration: Histogram,
    attempts: [LocalCounter; Outcome::ALL.len()],
    retries: [LocalCounter; RetryReason::ALL.len()],
    denied: [LocalCounter; Denied::ALL.len()],
}

impl ServiceTally {
    const CODES: usize = 500;
    const FIRST: u16 = 100;

    /// A request came to its end; 499 stands for a client that went away.
    pub fn request(&self, code: u16, took: Duration) {
        if let Some(cell) = self.codes.get(usize::from(code.wrapping_sub(Self::FIRST))) {
            cell.inc();
        }
        self.duration.observe(took);
    }

    /// A TCP connection has got its instance.
    pub fn carried(&self) {
        self.carried.inc();
    }

    /// It has come to its end.
    pub fn carried_for(&self, took: Duration) {
        self.duration.observe(took);
    }

    pub fn attempt(&self, outcome: Outcome) {
        if let Some(cell) = self.attempts.get(outcome as usize) {
            cell.inc();
        }
    }

    pub fn retry(&self, reason: RetryReason) {
        if let Some(cell) = self.retries.get(reason as usize) {
            cell.inc();
        }
    }

    pub fn denied(&self, reason: Denied) {
        if let Some(cell) = self.denied.get(reason as usize) {
            cell.inc();
        }
    }
}

impl Default for ServiceTally {
    fn default() -> Self {
        Self {
            carried: LocalCounter::default(),
            codes: [const { LocalCounter::new() }; Self::CODES],
            duration: Histogram::default(),
            attempts: Default::default(),
            retries: Default::default(),
            denied: Default::default(),
        }
    }
}

/// The sum of all workers' cells.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Totals {
    /// Only statuses that occurred.
    pub codes: Vec<(u16, u64)>,
    /// TCP connections that an instance took.
    pub carried: u64,
    /// Counts by bucket of [`Histogram::BOUNDS`] (the last is beyond), and the sum in seconds.
    pub duration: ([u64; Histogram::BOUNDS.len() + 1], f64),
    pub attempts: Vec<(Outcome, u64)>,
    pub retries: Vec<(RetryReason, u64)>,
    pub denied: Vec<(Denied, u64)>,
}

impl Totals {
    pub fn of(tallies: &[ServiceTally]) -> Self {
        fn sum<'a, const N: usize>(
            tallies: &'a [ServiceTally],
            of: fn(&'a ServiceTally) -> &'a [LocalCounter; N],
        ) -> [u64; N] {
            let mut sums = [0; N];
            for tally in tallies {
                for (sum, cell) in sums.iter_mut().zip(of(tally)) {
                    *sum += cell.get();
                }
            }
            sums
        }
        let mut duration = Default::default();
        for tally in tallies {
            tally.duration.read(&mut duration);
        }
        Self {
            carried: tallies.iter().map(|tally| tally.carried.get()).sum(),
            codes: (ServiceTally::FIRST..).zip(sum(tallies, |t| &t.codes)).filter(|c| c.1 > 0).collect(),
            duration,
            attempts: Outcome::ALL.into_iter().zip(sum(tallies, |t| &t.attempts)).collect(),
            retries: RetryReason::ALL.into_iter().zip(sum(tallies, |t| &t.retries)).collect(),
            denied: Denied::ALL.into_iter().zip(sum(tallies, |t| &t.denied)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workers_cells_add_up() {
        let tallies = [ServiceTally::default(), ServiceTally::default()];
        tallies[0].request(200, Duration::from_millis(3));
        tallies[1].request(200, Duration::from_millis(3));
        tallies[1].request(599, Duration::from_secs(60));
        tallies[0].request(7, Duration::ZERO);
        tallies[1].retry(RetryReason::Reset);
        tallies[0].denied(Denied::Budget);
        tallies[0].attempt(Outcome::Timeout);
        tallies[0].carried();
        tallies[1].carried();
        tallies[1].carried_for(Duration::from_secs(7));
        let totals = Totals::of(&tallies);
        assert_eq!((&totals.codes[..], totals.carried), (&[(200, 2), (599, 1)][..], 2));
        assert_eq!(totals.duration.0.iter().sum::<u64>(), 5);
        assert!(totals.retries.contains(&(RetryReason::Reset, 1)));
        assert!(totals.denied.contains(&(Denied::Budget, 1)));
        assert!(totals.attempts.contains(&(Outcome::Timeout, 1)));
    }
}
