//! The registry scenarios: one bad day each, under load, watched from outside all the time.
//!
//! Four things hold in every one of them, whatever its story: nothing disappears by an error (G1), no busy loop (G2), few
//! connections (G3), and the source's state is to be seen (G4). [`Scenario`] asserts them by itself.

#![allow(dead_code, reason = "a harness offers more than one story of it uses")]

mod asked;
mod both;
mod consul;
mod etcd;
mod load;
mod observer;
mod report;

pub use asked::{MARK, Servers};
pub use observer::Bounds;

use crate::support::Sidecar;
use load::Steady;
use observer::Observer;
use report::Row;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::time::Instant;

/// A scenario that runs: requests go through its sidecar and the sidecar is observed, each on a thread of its own, until
/// [`Self::end`]. Dropping it before that reports a failure.
#[derive(Debug)]
pub struct Scenario {
    row: Row,
    began: Instant,
    load: Arc<Steady>,
    observer: Arc<Observer>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    told: bool,
}

impl Scenario {
    /// Begins to observe a sidecar whose admin address answers; its service is [`Bounds::service`]. Nothing is sent yet
    /// and nothing need be known: that begins with [`Self::serves`].
    ///
    /// `number` is that of the list of scenarios, `registry` the servers' kind and version.
    pub fn begin(number: u8, title: &str, registry: &str, sidecar: &Sidecar, bounds: Bounds) -> Self {
        let load = Arc::new(Steady::new(sidecar.service(&bounds.service)));
        let observer = Arc::new(Observer::new(sidecar, bounds));
        let over = Arc::<AtomicBool>::default();
        let (its_load, load_over) = (Arc::clone(&load), Arc::clone(&over));
        let (its_observer, observer_over) = (Arc::clone(&observer), Arc::clone(&over));
        // Threads of their own: a test that waits for a child to die must not stop them.
        let threads = vec![
            thread(async move { its_load.run(&load_over).await }),
            thread(async move { its_observer.run(&observer_over).await }),
        ];
        let row = Row::new(number, title, registry);
        Self { row, began: Instant::now(), load, observer, over, threads, told: false }
    }

    /// From now on requests are sent, of which none may fail, and at least so many endpoints stay usable.
    pub fn serves(&self, endpoints: usize) {
        self.observer.hold(endpoints);
        self.load.resume();
    }

    /// From now on at least so many endpoints stay usable; the load stays as it is.
    pub fn holds(&self, endpoints: usize) {
        self.observer.hold(endpoints);
    }

    /// No more requests, and endpoints may go: before a loss that is meant. Returns when no request is under way.
    pub async fn rests(&self) {
        self.load.pause().await;
        self.observer.hold(0);
    }

    /// Waits until `check` gives `Some`, which must not be later than `limit` after `since`; the row tells the one that came
    /// nearest to its limit.
    pub async fn converges<T>(
        &mut self,
        what: &str,
        since: Instant,
        limit: Duration,
        mut check: impl AsyncFnMut() -> Option<T>,
    ) -> T {
        // Often enough to measure, seldom enough to cost the sidecar little.
        let pause = (limit / 100).clamp(Duration::from_millis(5), Duration::from_millis(100));
        loop {
            if let Some(value) = check().await {
                self.converged(what, since.elapsed(), limit);
                return value;
            }
            // Beyond the limit too, so that a failure says by how much.
            assert!(since.elapsed() < limit + Duration::from_secs(20), "never seen: {what}");
            tokio::time::sleep(pause).await;
        }
    }

    /// The same, for a time that the test has taken itself.
    pub fn converged(&mut self, what: &str, took: Duration, limit: Duration) {
        self.row.converged(took, limit);
        assert!(took <= limit, "{what}: after {took:?}, not within {limit:?}");
    }

    /// Something worth a place in the table.
    pub fn note(&mut self, text: impl Into<String>) {
        self.row.note(text.into());
    }

    /// How many registry requests the servers have counted themselves; without it, the sidecar's own count.
    pub fn counted(&mut self, requests: u64) {
        self.row.registry_requests = Some(requests);
    }

    /// The sidecar ends now, or stands still for long, as the story wants it: no more requests and no more looks. What is
    /// measured from now on belongs to the same row.
    pub async fn leaves(&mut self) {
        self.load.pause().await;
        self.finish();
    }

    /// Ends the load and the observation, and asserts that all held.
    pub async fn end(mut self) {
        self.load.pause().await;
        self.finish();
        let (failures, broken) = (self.load.failures(), self.observer.broken());
        self.row.passed = failures.is_empty() && broken.is_empty();
        let passed = self.row.passed;
        self.tell();
        assert!(passed, "{} requests failed: {failures:#?}; broken: {broken:#?}", self.load.failed());
    }

    fn finish(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }

    fn tell(&mut self) {
        self.told = true;
        self.row.requests = self.load.requests();
        self.row.failed = self.load.failed();
        self.row.registry_requests.get_or_insert_with(|| self.observer.questions());
        self.row.seconds = self.began.elapsed().as_secs_f64();
        self.row.note(self.observer.notes());
        if self.row.requests > 0 {
            self.row.note(self.load.notes());
        }
        self.row.tell();
    }
}

fn thread(work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(work);
    })
}

impl Drop for Scenario {
    fn drop(&mut self) {
        if !self.told {
            self.finish();
            self.tell();
            eprintln!("broken so far: {:#?}", self.observer.broken());
        }
    }
}
