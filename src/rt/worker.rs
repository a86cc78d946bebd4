//! Threads that carry requests: one current-thread runtime each.

use std::future::Future;
use std::io;
use std::num::NonZero;
use std::sync::mpsc;
use std::thread::JoinHandle;
use tokio::runtime::LocalOptions;

/// The running worker threads. Dropping the handle detaches them; `join` waits.
#[derive(Debug, Default)]
pub struct WorkerThreads(Vec<JoinHandle<()>>);

impl WorkerThreads {
    /// Starts one more thread that runs `main` to its end on a runtime of its own, whose tasks never leave the thread.
    ///
    /// # Errors
    /// If the system refuses a thread or a runtime.
    pub fn start<F, T>(&mut self, index: usize, main: F) -> io::Result<()>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Future<Output = ()>,
    {
        let thread = std::thread::Builder::new().name(format!("worker-{index}"));
        let (built, started) = mpsc::sync_channel(1);
        let run = move || {
            // Such a runtime cannot be handed over: it is made where it runs.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default());
            let runtime = runtime.map_err(|error| built.send(Err(error)));
            if let Ok(runtime) = runtime {
                let _ = built.send(Ok(()));
                runtime.block_on(async { main().await });
            }
        };
        self.0.push(thread.spawn(run)?);
        started.recv().unwrap_or_else(|_| Err(io::Error::other("the worker ended before it began")))
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
