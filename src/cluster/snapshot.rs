//! The one immutable view that requests read.

use super::PickError;
use super::book::Origin;
use crate::balance::{Algorithm, Picker};
use crate::model::Target;
use std::sync::Arc;
use tokio::time::Instant;

/// Everything a request needs to know of a cluster, as of one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts the keeper's swaps; 0 before the first.
    pub generation: u64,
    /// Some list was seen.
    pub discovered: bool,
    pub members: Arc<[Member]>,
    /// Our own verdicts are ignored, since too few would be left.
    pub panic: bool,
    /// Whom the picker chooses from.
    pub(super) eligible: Arc<[Arc<Target>]>,
    pub picker: Box<dyn Picker>,
    /// The same for each subset of the settings, in their order.
    pub(super) parts: Box<[Part]>,
}

/// Some of the eligible targets.
#[derive(Debug)]
pub(super) struct Part {
    pub eligible: Arc<[Arc<Target>]>,
    pub picker: Box<dyn Picker>,
}

/// A target and how discovery stands to it.
#[derive(Clone, Debug)]
pub struct Member {
    pub target: Arc<Target>,
    pub presence: Presence,
    /// Number of the source that describes it.
    pub source: usize,
    pub origin: Origin,
    /// Since when it is kept although its source lost it.
    pub held_since: Option<Instant>,
    /// Its source is a registry, which says that it is well.
    pub vouched: bool,
    /// Another source serves, so it waits.
    pub standby: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// In the last answer.
    Listed,
    /// Lost in a way that deserves no trust yet, for this reason: still used.
    Suspect(&'static str),
    /// Removed; what runs may finish.
    Draining,
}

impl Snapshot {
    /// How many targets nobody has anything against that matters. In panic the picker has more to choose from.
    pub fn usable(&self) -> usize {
        if self.panic {
            self.eligible.iter().filter(|target| target.history.health.is_clear()).count()
        } else {
            self.eligible.len()
        }
    }

    /// What stands against every target that was not tried, of so many usable ones.
    #[cold]
    pub(super) fn why_none(&self, usable: usize) -> PickError {
        let gone = || self.members.iter().all(|member| member.presence == Presence::Draining);
        match usable {
            _ if !self.discovered => PickError::Undiscovered,
            0 if gone() => PickError::Empty,
            0 => PickError::NoneEligible,
            _ => PickError::Exhausted,
        }
    }

    pub(super) fn undiscovered(algorithm: Algorithm) -> Self {
        Self {
            generation: 0,
            discovered: false,
            panic: false,
            members: Arc::default(),
            eligible: Arc::default(),
            picker: algorithm.build(Vec::new(), 0),
            parts: Box::default(),
        }
    }
}

impl Member {
    /// One of the first source, on its own word.
    pub fn new(target: Arc<Target>, presence: Presence) -> Self {
        Self {
            target,
            presence,
            source: 0,
            origin: Origin::Live,
            held_since: None,
            vouched: false,
            standby: false,
        }
    }
}

impl Presence {
    pub fn is_suspect(self) -> bool {
        matches!(self, Self::Suspect(_))
    }
}

impl Part {
    pub fn new(eligible: Arc<[Arc<Target>]>, algorithm: Algorithm, seed: u64) -> Self {
        Self { picker: algorithm.build(Arc::clone(&eligible), seed), eligible }
    }
}
