//! By chance, in proportion to weight.

use super::alias::AliasTable;
use super::{DRAWS, PickCtx, Picker, any_untried, is_untried};
use crate::model::Target;
use std::sync::Arc;

/// Each pick is independent of all others; one draw takes constant time.
#[derive(Debug)]
pub struct WeightedRandom {
    table: AliasTable,
    targets: Arc<[Arc<Target>]>,
}

impl WeightedRandom {
    pub fn new(targets: Arc<[Arc<Target>]>) -> Self {
        Self { table: AliasTable::new(&targets), targets }
    }
}

impl Picker for WeightedRandom {
    fn pick(&self, ctx: &mut PickCtx<'_>) -> Option<&Arc<Target>> {
        for _ in 0..DRAWS {
            let target = self.targets.get(self.table.draw(ctx.rng)?)?;
            if is_untried(target, ctx.tried) {
                return Some(target);
            }
        }
        any_untried(&self.targets, ctx)
    }
}
