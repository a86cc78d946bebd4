use super::{PickCtx, Picker, first_untried};
use crate::model::Target;
use std::sync::Arc;

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
        first_untried(&self.targets, 0, ctx.tried)
    }
}
