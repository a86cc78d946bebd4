//! The composition root: the only place that knows everyone.

mod certificates;
mod descriptors;
mod registrations;
mod routes;
mod shutdown;
pub mod sources;
mod start;

pub use registrations::{Registrations, Withdrawal};
pub use shutdown::{App, Leaving, listening};
pub use start::{Running, StartError, start};
