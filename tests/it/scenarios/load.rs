//! A steady load: fifty requests a second over one connection that is kept, each of which must succeed.

use crate::support::client::Client;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

const BETWEEN: Duration = Duration::from_millis(20);
/// So many failures are told in words.
const TOLD: usize = 10;

/// Sends one request after the other while it is not paused; it begins paused.
#[derive(Debug)]
pub(super) struct Steady {
    addr: SocketAddr,
    sending: AtomicBool,
    busy: AtomicBool,
    requests: AtomicU64,
    failed: AtomicU64,
    /// In microseconds: of all requests, and of the slowest.
    time: AtomicU64,
    slowest: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Steady {
    pub(super) fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            sending: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            time: AtomicU64::new(0),
            slowest: AtomicU64::new(0),
            failures: Mutex::default(),
        }
    }

    pub(super) async fn run(&self, over: &AtomicBool) {
        let began = Instant::now();
        let mut client = Client::new(self.addr);
        let mut turns = interval(BETWEEN);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !over.load(Ordering::SeqCst) {
            turns.tick().await;
            self.busy.store(true, Ordering::SeqCst);
            if self.sending.load(Ordering::SeqCst) {
                self.one(&mut client, began).await;
            }
            self.busy.store(false, Ordering::SeqCst);
        }
    }

    async fn one(&self, client: &mut Client, began: Instant) {
        let sent = Instant::now();
        let answer = client.get("/").await;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let took = u64::try_from(sent.elapsed().as_micros()).expect("a short time");
        self.time.fetch_add(took, Ordering::Relaxed);
        self.slowest.fetch_max(took, Ordering::Relaxed);
        let told = match answer {
            Ok(answer) if (200..300).contains(&answer.status) => return,
            Ok(answer) => format!("{} {:?}", answer.status, answer.header("x-outrigger-error")),
            Err(error) => error.to_string(),
        };
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut failures = self.failures.lock().expect("no panic");
        if failures.len() < TOLD {
            failures.push(format!("at {:.1?} after {:.1?}: {told}", sent - began, sent.elapsed()));
        }
    }

    pub(super) fn resume(&self) {
        self.sending.store(true, Ordering::SeqCst);
    }

    /// Returns when no request is under way any more.
    pub(super) async fn pause(&self) {
        self.sending.store(false, Ordering::SeqCst);
        while self.busy.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// How long requests took, in the middle and at most.
    pub(super) fn notes(&self) -> String {
        let middle = self.time.load(Ordering::Relaxed) as f64 / self.requests().max(1) as f64 / 1e3;
        format!(
            "requests {middle:.1} ms, slowest {:.0} ms",
            self.slowest.load(Ordering::Relaxed) as f64 / 1e3
        )
    }

    /// The first few failures in words.
    pub(super) fn failures(&self) -> Vec<String> {
        self.failures.lock().expect("no panic").clone()
    }
}
