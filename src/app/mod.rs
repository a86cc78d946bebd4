//! The composition root: the only place that knows everyone.

pub mod sources;
mod start;

pub use start::{Running, StartError, start};
