//! The composition root: the only place that knows everyone.

mod descriptors;
mod registrations;
pub mod sources;
mod start;

pub use registrations::Registrations;
pub use start::{Running, StartError, start};
