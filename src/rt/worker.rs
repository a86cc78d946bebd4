//! Threads that carry requests: one current-thread runtime each.

use std::future::Future;
use std::num::NonZero;
use std::thread::JoinHandle;
use tokio::task::LocalSet;

/// The running worker threads. Dropping the handle detaches them; `join` waits.
#[derive(Debug, Default)]
pub struct WorkerThreads(Vec<JoinHandle<()>>);

impl WorkerThreads {
    /// Starts one more thread that runs `main` to its end on a current-thread runtime.
    ///
    /// # Errors
    /// If the system refuses a thread or a runtime.
    pub fn start<F, T>(&mut self, index: usize, main: F) -> std::io::Result<()>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Future<Output = ()>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name(format!("worker-{index}"));
        self.0.push(thread.spawn(move || LocalSet::new().block_on(&runtime, async { main().await }))?);
        Ok(())
    }

    pub fn join(self) {
        for thread in self.0 {
            // A worker's panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

/// How many workers by default: the CPUs this process may use, the container's quota included; at least one.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}
