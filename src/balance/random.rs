//! Every target alike, by chance.

use super::{DRAWS, PickCtx, Picker, any_untried, below, is_untried};
use crate::model::Target;
use std::sync::Arc;

/// Uniform among the targets, whatever their weights.
#[derive(Debug)]
pub struct Random {
    targets: Arc<[Arc<Target>]>,
}

impl Random {
    pub fn new(targets: Arc<[Arc<Target>]>) -> Self {
        Self { targets }
    }
}

impl Picker for Random {
    fn pick(&self, ctx: &mut PickCtx<'_>) -> Option<&Arc<Target>> {
        for _ in 0..DRAWS {
            let target = self.targets.get(below(ctx.rng, self.targets.len()))?;
            if is_untried(target, ctx.tried) {
                return Some(target);
            }
        }
        any_untried(&self.targets, ctx)
    }
}
