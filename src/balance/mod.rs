//! Choosing a target: pure, synchronous, built anew on every change of the eligible targets.

mod alias;
mod least_request;
mod random;
mod round_robin;
mod weighted_random;

use crate::model::{Target, TargetId};
use rand::Rng;
use rand::rngs::SmallRng;
use std::fmt::Debug;
use std::sync::Arc;
use tokio::time::Instant;

/// Chooses among the eligible targets it was built from. Never waits, locks or allocates.
pub trait Picker: Debug + Send + Sync {
    /// A target that was not tried yet; `None` if there is none.
    fn pick(&self, ctx: &mut PickCtx<'_>) -> Option<&Arc<Target>>;
}

/// What a pick may look at, handed in.
#[derive(Debug)]
pub struct PickCtx<'a> {
    /// Key of hashing algorithms.
    pub hash: Option<u64>,
    pub tried: &'a Tried,
    pub rng: &'a mut SmallRng,
    pub now: Instant,
}

/// The targets that this request has been sent to already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    ids: [Option<TargetId>; Self::MOST],
    len: usize,
}

impl Tried {
    /// Also the most attempts that a service can be configured to.
    pub const MOST: usize = 8;

    /// Remembers a target; beyond [`Self::MOST`] the oldest is forgotten.
    pub fn push(&mut self, id: TargetId) {
        if let Some(slot) = self.ids.get_mut(self.len % Self::MOST) {
            *slot = Some(id);
        }
        self.len += 1;
    }

    pub fn contains(&self, id: TargetId) -> bool {
        self.len > 0 && self.ids.contains(&Some(id))
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many different targets are remembered, at most [`Self::MOST`].
    pub fn len(&self) -> usize {
        self.len.min(Self::MOST)
    }
}

/// The algorithms by the names that the configuration uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// Smooth weighted round robin.
    #[default]
    RoundRobin,
    /// Every target alike, whatever its weight (0 still means none).
    Random,
    /// By chance, in proportion to weight.
    WeightedRandom,
    /// The less loaded of two, drawn in proportion to weight.
    LeastRequest,
}

impl Algorithm {
    pub const ALL: [Self; 4] = [Self::RoundRobin, Self::Random, Self::WeightedRandom, Self::LeastRequest];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Random => "random",
            Self::WeightedRandom => "weighted_random",
            Self::LeastRequest => "least_request",
        }
    }

    /// A picker over the eligible targets; those of weight 0 are left out. `seed` says where round robin begins.
    pub fn build(self, eligible: impl Into<Arc<[Arc<Target>]>>, seed: u64) -> Box<dyn Picker> {
        let mut targets = eligible.into();
        let has_weight = |target: &&Arc<Target>| target.endpoint.weight.get() > 0;
        // A list that is shared with others is used as it is, if it can be.
        if !targets.iter().all(|target| has_weight(&target)) {
            targets = targets.iter().filter(has_weight).cloned().collect();
        }
        match self {
            Self::RoundRobin => Box::new(round_robin::RoundRobin::new(targets, seed)),
            Self::Random => Box::new(random::Random::new(targets)),
            Self::WeightedRandom => Box::new(weighted_random::WeightedRandom::new(targets)),
            Self::LeastRequest => Box::new(least_request::LeastRequest::new(targets)),
        }
    }
}

/// The first untried target from `start` on, around the end: what every algorithm falls back to when its own choice
/// was tried already.
fn first_untried<'a>(targets: &'a [Arc<Target>], start: usize, tried: &Tried) -> Option<&'a Arc<Target>> {
    let (head, tail) = targets.split_at_checked(start)?;
    tail.iter().chain(head).find(|target| !tried.contains(target.id()))
}

/// How often an algorithm chooses by its own rule before it takes any untried target.
const DRAWS: usize = 4;

fn is_untried(target: &Target, tried: &Tried) -> bool {
    // Asked first, because the id lies in memory that a first attempt need not touch.
    tried.is_empty() || !tried.contains(target.id())
}

/// An untried target from a random place on, so that no one inherits all the retries of its neighbour.
fn any_untried<'a>(targets: &'a [Arc<Target>], ctx: &mut PickCtx<'_>) -> Option<&'a Arc<Target>> {
    first_untried(targets, below(ctx.rng, targets.len()), ctx.tried)
}

/// A number below `count`; 0 if that is 0. The bias is below 2^-32 for any list that fits into memory
/// (Lemire, "Fast Random Integer Generation in an Interval", 2019, without the rejection).
fn below(rng: &mut SmallRng, count: usize) -> usize {
    ((u128::from(rng.next_u64()) * count as u128) >> 64) as usize
}

#[cfg(test)]
mod tests;
