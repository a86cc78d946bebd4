use super::{PickCtx, Picker, first_untried};
use crate::model::Target;
use std::sync::Arc;

#[derive(Debug)]
pub struct RoundRobin {
    targets: Arc<[Arc<Target>]>,
}
impl RoundRobin {
    pub fn new(targets: Arc<[Arc<Target>]>, _seed: u64) -> Self {
        Self { targets }
    }
}
impl Picker for RoundRobin {
    fn pick(&self, ctx: &mut PickCtx<'_>) -> Option<&Arc<Target>> {
        first_untried(&self.targets, 0, ctx.tried)
    }
}
