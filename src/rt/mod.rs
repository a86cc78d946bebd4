//! Tasks with names, back-off, worker threads.

mod backoff;
mod tasks;
mod worker;

pub use backoff::Backoff;
pub use tasks::{LocalTasks, Tasks};
pub use tokio_util::sync::CancellationToken as Stop;
pub use worker::{WorkerThreads, cores};
