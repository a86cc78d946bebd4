//! Tasks with names, back-off, worker threads and the timer that their requests share.

mod alarm;
mod backoff;
mod tasks;
mod worker;

pub use alarm::Alarm;
pub use backoff::Backoff;
pub use tasks::{LocalTasks, Tasks};
pub use tokio_util::sync::CancellationToken as Stop;
pub use worker::{WorkerThreads, cores};
