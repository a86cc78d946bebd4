//! Talking to a target: this worker's connections to it, and what a failed exchange says about what was sent.

mod body;
mod connect;
mod error;
mod pool;

pub use body::UpstreamBody;
pub use error::{Cause, SendError, Stage};
pub use pool::Upstream;
