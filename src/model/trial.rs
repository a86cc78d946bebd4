//! Whether a target that was out on the evidence of requests may have some again: one, until that has shown how it is.

use super::Outcome;
use std::sync::atomic::{AtomicU8, Ordering};

/// Where a target stands between ejection and readmission. Its judge bars it and offers it a trial; requests take the one
/// place that there is then, and their ends are the verdict.
#[derive(Debug, Default)]
pub struct Trial(AtomicU8);

/// It is one like the others.
const FREE: u8 = 0;
/// It gets none.
const BARRED: u8 = 1;
/// It may have one.
const OPEN: u8 = 2;
/// It has one.
const TAKEN: u8 = 3;

/// What a request is told that wants to go there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// There is nothing to be tried.
    Free,
    /// This request is the trial; its end is to be told to [`Trial::judge`].
    Trial,
    /// It is barred, or another request is its trial.
    Refused,
}

impl Trial {
    pub fn enter(&self) -> Entry {
        match self.0.load(Ordering::Relaxed) {
            FREE => Entry::Free,
            OPEN if self.moves(OPEN, TAKEN) => Entry::Trial,
            _ => Entry::Refused,
        }
    }

    /// How the request ended that was the trial; whoever was abandoned leaves its place to the next.
    pub fn judge(&self, outcome: Outcome) {
        let to = match outcome {
            Outcome::Abandoned => OPEN,
            outcome if outcome.is_outage() => BARRED,
            _ => FREE,
        };
        self.moves(TAKEN, to);
    }

    /// Something else than a request speaks for it; nothing speaks for who is barred.
    pub fn acquit(&self) {
        let _ = self.moves(OPEN, FREE) || self.moves(TAKEN, FREE);
    }

    pub fn bar(&self) {
        self.0.store(BARRED, Ordering::Relaxed);
    }

    pub fn offer(&self) {
        self.0.store(OPEN, Ordering::Relaxed);
    }

    pub fn end(&self) {
        self.0.store(FREE, Ordering::Relaxed);
    }

    pub fn is_free(&self) -> bool {
        self.0.load(Ordering::Relaxed) == FREE
    }

    pub fn is_barred(&self) -> bool {
        self.0.load(Ordering::Relaxed) == BARRED
    }

    fn moves(&self, from: u8, to: u8) -> bool {
        self.0.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_at_a_time_is_the_trial() {
        let trial = Trial::default();
        assert_eq!(trial.enter(), Entry::Free);
        trial.bar();
        assert_eq!(trial.enter(), Entry::Refused);
        trial.offer();
        assert_eq!([trial.enter(), trial.enter()], [Entry::Trial, Entry::Refused]);
        trial.judge(Outcome::Abandoned);
        assert_eq!([trial.enter(), trial.enter()], [Entry::Trial, Entry::Refused]);
        trial.judge(Outcome::ServerError);
        assert_eq!(trial.enter(), Entry::Free);
    }

    #[test]
    fn a_failure_bars_until_its_judge_says_otherwise() {
        let trial = Trial::default();
        trial.offer();
        trial.enter();
        trial.judge(Outcome::Timeout);
        trial.acquit();
        assert!(trial.is_barred(), "a check does not outweigh it");
        // Late verdicts of requests that are no trial any more change nothing.
        trial.judge(Outcome::Success);
        assert!(trial.is_barred());
        trial.offer();
        trial.acquit();
        assert!(trial.is_free());
        trial.judge(Outcome::Reset);
        assert!(trial.is_free());
    }
}
