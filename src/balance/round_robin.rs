//! Smooth weighted round robin without a lock: one counter, walked over the targets' shares by the golden ratio.
//!
//! Every target owns as many consecutive *places* as its reduced weight says. Turn `k` is given to place
//! `first + k * stride mod places`; since `stride` and `places` have no common divisor, one cycle visits every place exactly
//! once, so that weights are met exactly, whoever asks from whichever thread. A stride near the golden section makes
//! the visits to any stretch of places evenly spaced: their distances take at most three values (Sós, "On the
//! distribution mod 1 of the sequence nα", 1958; Knuth, The Art of Computer Programming, vol. 3, section 6.4).
//!
//! gRPC's static stride scheduler (gRFC A58) shares the idea of a counter instead of a heap under a lock, but it tries
//! max/mean times per pick, which one heavy target among many light ones makes as large as their number. Here the owner
//! of a place is found in constant time on average, whatever the weights.

use super::{DRAWS, PickCtx, Picker, any_untried, is_untried};
use crate::model::Target;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Every window as long as the sum of the reduced weights holds each target exactly by its weight, as long as no pick
/// meets a tried target.
#[derive(Debug)]
pub struct RoundRobin {
    targets: Arc<[Arc<Target>]>,
    /// Shared by all workers.
    turn: AtomicU64,
    walk: Walk,
    /// `None` if all weights are equal: each target owns one place, in order.
    shares: Option<Shares>,
}

impl RoundRobin {
    pub fn new(targets: Arc<[Arc<Target>]>, seed: u64) -> Self {
        let weights = || targets.iter().map(|t| u64::from(t.endpoint.weight.get()));
        let unit = weights().fold(0, gcd).max(1);
        let total: u64 = weights().map(|w| w / unit).sum();
        let equal = weights().all(|w| w == unit);
        let (places, stride) = if equal { (total.max(1), 1) } else { golden_walk(total) };
        let walk = Walk { first: seed % total.max(1), stride, places };
        let shares = (!equal).then(|| Shares::new(weights().map(|w| w / unit), walk.places));
        Self { targets, turn: AtomicU64::new(0), walk, shares }
    }

    /// The target whose turn it is; `None` if there are no targets.
    fn advance(&self) -> Option<&Arc<Target>> {
        loop {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let Some(shares) = &self.shares else {
                return self.targets.get(index(turn.wrapping_add(self.walk.first) % self.walk.places));
            };
            // A few places behind the last share may belong to nobody: at most `SPARE` of them.
            if let Some(target) = self.targets.get(shares.owner(self.walk.place(turn))) {
                return Some(target);
            }
        }
    }
}

impl Picker for RoundRobin {
    fn pick(&self, ctx: &mut PickCtx<'_>) -> Option<&Arc<Target>> {
        for _ in 0..DRAWS {
            let target = self.advance()?;
            if is_untried(target, ctx.tried) {
                return Some(target);
            }
        }
        any_untried(&self.targets, ctx)
    }
}

/// A tour of the places `0 .. places` that visits each once per cycle and spreads consecutive visits.
#[derive(Clone, Copy, Debug)]
struct Walk {
    /// Always a place with an owner, so that even the first picks of many pickers follow the weights.
    first: u64,
    stride: u64,
    places: u64,
}

impl Walk {
    fn place(&self, turn: u64) -> u64 {
        let turn = turn % self.places;
        match turn.checked_mul(self.stride).and_then(|far| far.checked_add(self.first)) {
            Some(far) => far % self.places,
            // Only beyond 2^32 places, that is 65,537 targets of the greatest weight.
            None => {
                let far = u128::from(turn) * u128::from(self.stride) + u128::from(self.first);
                (far % u128::from(self.places)) as u64
            }
        }
    }
}

/// Most places without an owner; also at most a quarter of the owned ones.
const SPARE: u64 = 16;

/// At least `total` places (2 or more), and the stride that visits them most evenly.
///
/// A sum such as 4 or 6 has no stride that spreads well, hence a few spare places; and among the strides near the
/// golden section some have a rational approximation so good that the walk hardly moves from one round to the next.
/// The continued fraction of `stride / places` shows both: the smaller its largest quotient, the evener the visits.
fn golden_walk(total: u64) -> (u64, u64) {
    const GOLDEN_RATIO: f64 = 1.618_033_988_749_895;
    /// As even as a golden walk that ends somewhere gets.
    const PERFECT: u64 = 2;
    let mut best = (u64::MAX, (total, 1));
    for places in total..=total + (total / 4).min(SPARE) {
        // Precision ends at 2^53; the stride need only be near the section.
        let section = (places as f64 / GOLDEN_RATIO) as u64;
        for stride in section.saturating_sub(8).max(1)..=section.saturating_add(8).min(places - 1) {
            if let Some(quotient) = largest_quotient(places, stride)
                && quotient < best.0
            {
                best = (quotient, (places, stride));
            }
        }
        if best.0 <= PERFECT {
            break;
        }
    }
    best.1
}

/// Who owns which place: the ends of the shares, and a guide table that says where among them to look
/// (Chen and Asau, "On generating random variates from an empirical distribution", 1974).
#[derive(Debug)]
struct Shares {
    /// One behind each target's last place, ascending.
    ends: Box<[u64]>,
    /// For every 2^`shift` places: the owner of the first of them.
    guide: Box<[u32]>,
    shift: u32,
}

impl Shares {
    fn new(weights: impl ExactSizeIterator<Item = u64>, places: u64) -> Self {
        let count = weights.len();
        let ends: Box<[u64]> = weights
            .scan(0, |end, weight| {
                *end += weight;
                Some(*end)
            })
            .collect();
        // One to two guide entries for each target, so that on average less than one end is to be looked at.
        let shift = (places / (count as u64).max(1)).checked_ilog2().unwrap_or(0);
        let mut owner = 0;
        let guide = (0..=(places >> shift) + 1)
            .map(|step| {
                while ends.get(owner).is_some_and(|end| *end <= step << shift) {
                    owner += 1;
                }
                u32::try_from(owner).unwrap_or(u32::MAX)
            })
            .collect();
        Self { ends, guide, shift }
    }

    /// The index of the target that owns the place; the number of targets or more if nobody does.
    fn owner(&self, place: u64) -> usize {
        let step = index(place >> self.shift);
        let (Some(&from), Some(&to)) = (self.guide.get(step), self.guide.get(step + 1)) else {
            return usize::MAX;
        };
        let (from, to) = (from as usize, to as usize);
        let within = self.ends.get(from..to).unwrap_or_default();
        from + within.partition_point(|end| *end <= place)
    }
}

fn index(place: u64) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The largest partial quotient of the continued fraction of `stride / places`; `None` if they have a common divisor.
fn largest_quotient(places: u64, stride: u64) -> Option<u64> {
    let (mut a, mut b, mut largest) = (places, stride, 0);
    while b > 0 {
        largest = largest.max(a / b);
        (a, b) = (b, a % b);
    }
    (a == 1).then_some(largest)
}
