//! Where one worker gets its tickets for a cluster.

use super::{Cluster, PickError, Snapshot, Ticket};
use crate::balance::{PickCtx, Tried};
use crate::model::{Target, TargetId};
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
}

impl Booth {
    /// A worker may have several. Those of one number belong to one thread, or counts get lost.
    pub fn new(cluster: Arc<Cluster>, worker: usize) -> Rc<Self> {
        Rc::new(Self { cluster, worker })
    }

    /// Chooses a target and opens a ticket for it. Never waits: one load, then the picker.
    ///
    /// # Errors
    /// [`PickError`] says what stands against every target.
    pub fn pick(self: &Rc<Self>, ctx: &mut PickCtx<'_>) -> Result<Ticket, PickError> {
        let snapshot = self.snapshot.load();
        let Some(target) = snapshot.picker.pick(ctx) else { return Err(snapshot.why_none()) };
        self.open(target, ctx.now).map_or_else(|| self.pick_around(&snapshot, target.id(), ctx), Ok)
    }

    /// The picker's first choice is `full`.
    #[cold]
    fn pick_around(
        self: &Rc<Self>,
        snapshot: &Snapshot,
        full: TargetId,
        ctx: &mut PickCtx<'_>,
    ) -> Result<Ticket, PickError> {
        let mut seen = *ctx.tried;
        seen.push(full);
        for _ in 1..Tried::MOST {
            let mut ctx = PickCtx { hash: ctx.hash, tried: &seen, rng: ctx.rng, now: ctx.now };
            let Some(target) = snapshot.picker.pick(&mut ctx) else { break };
            if let Some(ticket) = self.open(target, ctx.now) {
                return Ok(ticket);
            }
            seen.push(target.id());
        }
        // So many were full that the picker's choice no longer matters: any that has room.
        let mut untried = snapshot.eligible.iter().filter(|target| !ctx.tried.contains(target.id()));
        untried.find_map(|target| self.open(target, ctx.now)).ok_or(PickError::Saturated)
    }

    /// A ticket for the target, unless it is at its limit.
    fn open(self: &Rc<Self>, target: &Arc<Target>, now: Instant) -> Option<Ticket> {
        let entered = target.history.load.enter(self.settings.limits.in_flight_per_target);
        entered.then(|| Ticket::open(Rc::clone(self), Arc::clone(target), now))
    }
}

impl Deref for Booth {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}
