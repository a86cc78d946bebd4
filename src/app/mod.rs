//! The composition root: the only place that knows everyone.

mod descriptors;
pub mod sources;
mod start;

pub use start::{Running, StartError, start};
