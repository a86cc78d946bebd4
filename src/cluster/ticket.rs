//! One attempt at one target, from the pick to the last body byte.

use super::Booth;
use crate::model::{Outcome, Target};
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::Instant;

/// The record of one attempt: it counts as in flight while the ticket lives.
///
/// Dropping it ends the attempt. Unless [`Ticket::finish`] said otherwise, it was abandoned, which never
/// counts against the target.
#[derive(Debug)]
#[must_use]
pub struct Ticket {
    booth: Rc<Booth>,
    target: Arc<Target>,
    choices: usize,
    started: Instant,
    outcome: Outcome,
    settled: bool,
    /// Its end says whether the target is well again.
    trial: bool,
}

impl Ticket {
    /// The caller has entered the target's load; the ticket leaves it.
    pub(super) fn open(
        booth: Rc<Booth>,
        target: Arc<Target>,
        choices: usize,
        trial: bool,
        now: Instant,
    ) -> Self {
        Self { booth, target, choices, started: now, outcome: Outcome::Abandoned, settled: false, trial }
    }

    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// How many targets there were to choose from.
    pub fn choices(&self) -> usize {
        self.choices
    }

    /// When it was opened.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The response head came: the latency sample. Later bytes say nothing about the instance's speed.
    pub fn saw_head(&mut self, now: Instant) {
        self.target.history.load.sample(now.saturating_duration_since(self.started));
        self.target.history.answered(now);
    }

    /// It matters whether the target is there: it is on trial, or the last requests failed.
    pub fn is_watched(&self) -> bool {
        self.trial || self.target.history.outages() > 0
    }

    /// The target has begun to do what it was asked to; however long that takes, it is there.
    pub fn proves(&mut self) {
        self.target.history.proves();
        if std::mem::take(&mut self.trial) {
            self.judge(Outcome::Success);
        }
    }

    #[cold]
    fn judge(&self, outcome: Outcome) {
        self.target.history.trial.judge(outcome);
        self.booth.ejections.news.notify_one();
    }

    /// Ends the attempt.
    pub fn finish(mut self, outcome: Outcome) {
        self.settle(outcome);
    }

    /// Ends the attempt although its answer may still be passed on: whatever becomes of that, it is no longer counted.
    pub fn settle(&mut self, outcome: Outcome) {
        if !self.settled {
            self.outcome = outcome;
            self.end();
        }
    }

    fn end(&mut self) {
        self.settled = true;
        self.target.history.load.leave();
        let signs = self.target.history.count(self.outcome);
        if signs.doubt {
            self.booth.doubted.notify_one();
        }
        if self.trial {
            self.judge(self.outcome);
        } else if signs.outages > 0 && signs.outages.is_multiple_of(self.booth.settings.outlier.consecutive) {
            self.booth.ejections.news.notify_one();
        }
        self.booth.tally(self.booth.worker).attempt(self.outcome);
        self.booth.room.freed();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.settled {
            self.end();
        }
    }
}
