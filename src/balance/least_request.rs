//! The less loaded of two, drawn in proportion to weight.

use super::alias::AliasTable;
use super::{DRAWS, PickCtx, Picker, any_untried, is_untried};
use crate::model::Target;
use std::sync::Arc;

/// Two choices instead of one bring the longest queue from about log n down to log log n (Mitzenmacher, "The Power of
/// Two Choices in Randomized Load Balancing", 2001), without the herd that runs to a single least loaded target.
#[derive(Debug)]
pub struct LeastRequest {
    table: AliasTable,
    targets: Arc<[Arc<Target>]>,
}

impl LeastRequest {
    pub fn new(targets: Arc<[Arc<Target>]>) -> Self {
        Self { table: AliasTable::new(&targets), targets }
    }
}

impl Picker for LeastRequest {
    fn pick(&self, ctx: &mut PickCtx<'_>) -> Option<&Arc<Target>> {
        let mut first: Option<&Arc<Target>> = None;
        for _ in 0..DRAWS {
            let drawn = self.targets.get(self.table.draw(ctx.rng)?)?;
            if !is_untried(drawn, ctx.tried) {
                continue;
            }
            match first {
                None => first = Some(drawn),
                // The same one again is no choice.
                Some(first) if Arc::ptr_eq(first, drawn) => {}
                Some(first) => return Some(lighter(first, drawn)),
            }
        }
        first.or_else(|| any_untried(&self.targets, ctx))
    }
}

/// The one with fewer requests for its weight once it has this one too; the first if there is no difference.
///
/// Where nothing runs at either, there is no load to compare: the first stands, for its draw honoured the weights,
/// while the comparison would give an idle heavy target the light one's share as well.
fn lighter<'a>(first: &'a Arc<Target>, second: &'a Arc<Target>) -> &'a Arc<Target> {
    let running = |target: &Target| u64::from(target.history.load.in_flight());
    let weight = |target: &Target| u64::from(target.endpoint.weight.get());
    let (a, b) = (running(first), running(second));
    if (a > 0 || b > 0) && (b + 1) * weight(first) < (a + 1) * weight(second) { second } else { first }
}
