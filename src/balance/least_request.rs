use super::{PickCtx, Picker, first_untried};
use crate::model::Target;
use std::sync::Arc;

#[derive(Debug)]
pub struct LeastRequest {
    targets: Arc<[Arc<Target>]>,
}
impl LeastRequest {
    pub fn new(targets: Arc<[Arc<Target>]>) -> Self {
        Self { targets }
    }
}
impl Picker for LeastRequest {
    fn pick(&self, ctx: &mut PickCtx<'_>) -> Option<&Arc<Target>> {
        first_untried(&self.targets, 0, ctx.tried)
    }
}
