//! Where one worker gets its tickets for a cluster.

use super::snapshot::Part;
use super::{Cluster, PickError, Snapshot, Ticket};
use crate::balance::{PickCtx, Picker, Tried};
use crate::model::{Entry, Outcome, Target, TargetId};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::Instant;

/// A cluster as one worker sees it. Requests and tickets hold this instead of the cluster itself, whose count of
/// references would be a cell that every request of every worker writes to.
#[derive(Debug)]
pub struct Booth {
    cluster: Arc<Cluster>,
    /// Whose cells its requests are counted in.
    pub(super) worker: usize,
    /// Only these of its targets: a number of the settings' list.
    subset: Option<usize>,
}

impl Booth {
    /// A worker may have several. Those of one number belong to one thread, or counts get lost.
    pub fn new(cluster: Arc<Cluster>, worker: usize) -> Rc<Self> {
        Self::of_subset(cluster, worker, None)
    }

    /// One that has only some of the targets.
    pub fn of_subset(cluster: Arc<Cluster>, worker: usize, subset: Option<usize>) -> Rc<Self> {
        Rc::new(Self { cluster, worker, subset })
    }

    /// It has only some of the targets.
    pub fn is_part(&self) -> bool {
        self.subset.is_some()
    }

    /// The targets to choose from, and who does it.
    fn choice<'s>(&self, snapshot: &'s Snapshot) -> (&'s [Arc<Target>], &'s dyn Picker) {
        match self.subset.and_then(|subset| snapshot.parts.get(subset)) {
            // Before the first list there is nothing to choose from, and there are no parts.
            None => (&snapshot.eligible, &*snapshot.picker),
            Some(Part { eligible, picker }) => (eligible, &**picker),
        }
    }

    /// Whether an eligible target is left that was not tried. Asks no picker: asking would take a turn from somebody.
    pub fn has_untried(&self, tried: &Tried) -> bool {
        let snapshot = self.snapshot.load();
        let (eligible, _) = self.choice(&snapshot);
        eligible.len() > tried.len() || eligible.iter().any(|target| !tried.contains(target.id()))
    }

    /// Chooses a target and opens a ticket for it. Never waits: one load, then the picker.
    ///
    /// # Errors
    /// [`PickError`] says what stands against every target.
    pub fn pick(self: &Rc<Self>, ctx: &mut PickCtx<'_>) -> Result<Ticket, PickError> {
        let snapshot = self.snapshot.load();
        let (eligible, picker) = self.choice(&snapshot);
        let Some(target) = picker.pick(ctx) else { return Err(snapshot.why_none(eligible.len())) };
        let opened = if snapshot.panic {
            self.enter(target, eligible.len(), false, ctx.now)
        } else {
            self.open(target, eligible.len(), ctx.now)
        };
        opened.map_or_else(|| self.pick_around(eligible, picker, target.id(), ctx), Ok)
    }

    /// The picker's first choice is `full`.
    #[cold]
    fn pick_around(
        self: &Rc<Self>,
        eligible: &[Arc<Target>],
        picker: &dyn Picker,
        full: TargetId,
        ctx: &mut PickCtx<'_>,
    ) -> Result<Ticket, PickError> {
        let mut seen = *ctx.tried;
        seen.push(full);
        for _ in 1..Tried::MOST {
            let mut ctx = PickCtx { hash: ctx.hash, tried: &seen, rng: ctx.rng, now: ctx.now };
            let Some(target) = picker.pick(&mut ctx) else { break };
            if let Some(ticket) = self.open(target, eligible.len(), ctx.now) {
                return Ok(ticket);
            }
            seen.push(target.id());
        }
        // So many were full that the picker's choice no longer matters: any that has room.
        let untried = || eligible.iter().filter(|target| !ctx.tried.contains(target.id()));
        let opened = untried().find_map(|target| self.open(target, eligible.len(), ctx.now));
        // To be on trial is no reason to leave a request without any; one that was answered has that answer.
        match opened {
            Some(ticket) => Ok(ticket),
            None if ctx.tried.is_empty() => {
                let any = untried().find_map(|target| self.enter(target, eligible.len(), false, ctx.now));
                any.ok_or(PickError::Saturated)
            }
            None if untried().all(|target| !target.history.trial.is_free()) => Err(PickError::Exhausted),
            None => Err(PickError::Saturated),
        }
    }

    /// A ticket for the target, one of so many, unless it is at its limit or on trial with another request.
    fn open(self: &Rc<Self>, target: &Arc<Target>, choices: usize, now: Instant) -> Option<Ticket> {
        let trial = match target.history.trial.enter() {
            Entry::Free => false,
            Entry::Trial => true,
            Entry::Refused => return None,
        };
        let ticket = self.enter(target, choices, trial, now);
        if trial && ticket.is_none() {
            target.history.trial.judge(Outcome::Abandoned);
        }
        ticket
    }

    /// The same, whether it is on trial or not; `trial` says whether this request is it.
    fn enter(
        self: &Rc<Self>,
        target: &Arc<Target>,
        choices: usize,
        trial: bool,
        now: Instant,
    ) -> Option<Ticket> {
        let entered = target.history.load.enter(self.settings.limits.in_flight_per_target);
        entered.then(|| Ticket::open(Rc::clone(self), Arc::clone(target), choices, trial, now))
    }
}

impl Deref for Booth {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}
