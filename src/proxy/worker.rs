//! One worker's world: its clients, its upstream connections, its dice. Nothing of it leaves the thread.

use super::client::{Client, Phase};
use super::http::serve;
use super::socket::ClientIo;
use crate::cluster::{Booth, Cluster};
use crate::policy::ClientLimits;
use crate::rt::{Alarm, LocalTasks};
use crate::upstream::Upstream;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rand::rngs::SmallRng;
use rustc_hash::FxHashSet;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    pub limits: ClientLimits,
    /// Our own listeners: an instance at one of these addresses is ourselves.
    pub own: FxHashSet<SocketAddr>,
    /// One permit per client connection.
    pub(super) permits: Arc<Semaphore>,
    /// Bytes that request bodies may still keep for replay.
    pub(super) replay_left: Arc<AtomicUsize>,
    /// Client connections by worker.
    pub(super) loads: Box<[AtomicUsize]>,
}

impl Shared {
    pub fn new(limits: ClientLimits, own: FxHashSet<SocketAddr>, workers: usize) -> Arc<Self> {
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS))),
            replay_left: Arc::new(AtomicUsize::new(limits.replay_bytes)),
            loads: (0..workers.max(1)).map(|_| AtomicUsize::new(0)).collect(),
            limits,
            own,
        })
    }

    /// Client connections now.
    pub fn connections(&self) -> usize {
        self.loads.iter().map(|load| load.load(Ordering::Relaxed)).sum()
    }
}

/// One worker.
#[derive(Debug)]
pub struct Worker {
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) upstream: Rc<Upstream>,
    pub(super) rng: RefCell<SmallRng>,
    /// Room for heads that are being sent.
    scratch: RefCell<Vec<Vec<u8>>>,
    pub(super) tasks: LocalTasks,
    pub(super) alarm: Rc<Alarm>,
    clients: RefCell<HashMap<u64, Arc<Client>>>,
    next_client: Cell<u64>,
    stopping: Cell<bool>,
}

/// Buffers for heads that are kept, and the largest of them: more waits only while more requests run.
const SCRATCHES: usize = 64;
const SCRATCH_BYTES: usize = 4 << 10;

/// How often connections are looked through for those that took too long.
const SWEEP: Duration = Duration::from_millis(500);

impl Worker {
    pub(super) fn new(index: usize, shared: Arc<Shared>, tasks: LocalTasks, rng: SmallRng) -> Rc<Self> {
        Rc::new(Self {
            index,
            shared,
            upstream: Upstream::new(tasks.clone()),
            alarm: Alarm::new(tasks.clone()),
            rng: RefCell::new(rng),
            scratch: RefCell::default(),
            tasks,
            clients: RefCell::default(),
            next_client: Cell::new(0),
            stopping: Cell::new(false),
        })
    }

    /// Serves one client connection to its end.
    pub(super) fn take(
        self: &Rc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        cluster: Arc<Cluster>,
        place: Place,
    ) {
        let seat = Rc::new(Seat::take(self, peer, &cluster, place));
        let booth = Booth::new(cluster, self.index);
        // Answers are small and must not wait for an acknowledgement; a socket that refuses will fail by itself.
        let _ = stream.set_nodelay(true);
        self.tasks.spawn("client", async move {
            let client = Arc::clone(&seat.client);
            let io = TokioIo::new(ClientIo::new(stream, Arc::clone(&client)));
            let limits = &seat.worker.shared.limits;
            let service = service_fn(|request| serve(Rc::clone(&seat), Rc::clone(&booth), request));
            let mut connection = pin!(
                http1::Builder::new()
                    .max_headers(limits.headers)
                    .max_header_size(limits.head_bytes)
                    .max_buf_size(limits.head_bytes.max(8192) + 8192)
                    .header_read_timeout(None)
                    .serve_connection(io, service)
                    .with_upgrades()
            );
            let mut told = false;
            std::future::poll_fn(|cx| {
                client.watch(cx.waker());
                if client.is_aborted() {
                    return Poll::Ready(());
                }
                // Its errors are the client's or were answered already.
                let ended = connection.as_mut().poll(cx).map(|_| ());
                // Hyper closes at once what is not amid a request, even if one is on its way: the socket ends those.
                let busy = matches!(client.phase(), Phase::Busy | Phase::Answering);
                if ended.is_pending() && client.is_stopping() && busy && !told {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                }
                ended
            })
            .await;
        });
    }

    /// An empty buffer for a head.
    pub(super) fn take_scratch(&self) -> Vec<u8> {
        self.scratch.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(1024))
    }

    /// One that may be used again.
    pub(super) fn give_scratch_back(&self, mut buffer: Vec<u8>) {
        let mut scratch = self.scratch.borrow_mut();
        if buffer.capacity() <= SCRATCH_BYTES && scratch.len() < SCRATCHES {
            buffer.clear();
            scratch.push(buffer);
        }
    }

    /// Looks after time limits until the thread ends.
    pub(super) async fn sweep(self: Rc<Self>) {
        let mut tick = tokio::time::interval(SWEEP);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = tick.tick().await;
            self.upstream.sweep(now);
            for client in self.clients.borrow().values() {
                client.sweep(&self.shared.limits, now);
            }
        }
    }

    /// Tells all clients to finish what runs and close.
    pub(super) fn stop(&self) {
        self.stopping.set(true);
        for client in self.clients.borrow().values() {
            client.stop();
        }
    }

    pub(super) fn clients(&self) -> usize {
        self.clients.borrow().len()
    }
}

/// One connection's share of the process's limit and of a worker's load; given back on drop.
#[derive(Debug)]
pub(super) struct Place {
    shared: Arc<Shared>,
    /// Whom it goes to.
    pub worker: usize,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// A place with the worker that has the fewest.
    pub fn take(shared: &Arc<Shared>, permit: OwnedSemaphorePermit) -> Self {
        let worker = least(&shared.loads);
        if let Some(load) = shared.loads.get(worker) {
            load.fetch_add(1, Ordering::Relaxed);
        }
        Self { shared: Arc::clone(shared), worker, _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(load) = self.shared.loads.get(self.worker) {
            load.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The worker with the fewest client connections.
fn least(loads: &[AtomicUsize]) -> usize {
    let fewest = loads.iter().enumerate().min_by_key(|(_, load)| load.load(Ordering::Relaxed));
    fewest.map_or(0, |(index, _)| index)
}

/// A connection's seat among the worker's clients; given back on drop.
#[derive(Debug)]
pub(super) struct Seat {
    pub worker: Rc<Worker>,
    pub client: Arc<Client>,
    number: u64,
    _place: Place,
}

impl Seat {
    fn take(worker: &Rc<Worker>, peer: SocketAddr, cluster: &Arc<Cluster>, place: Place) -> Self {
        let client = Client::new(peer, cluster, worker.index, Instant::now());
        if worker.stopping.get() {
            client.stop();
        }
        let number = worker.next_client.get();
        worker.next_client.set(number + 1);
        worker.clients.borrow_mut().insert(number, Arc::clone(&client));
        Self { worker: Rc::clone(worker), client, number, _place: place }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.worker.clients.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_go_to_the_worker_with_the_fewest() {
        let loads: Vec<_> = [2, 1, 3].map(AtomicUsize::new).into();
        assert_eq!(least(&loads), 1);
    }

    #[test]
    fn a_place_that_nobody_uses_is_given_back() {
        let limits = ClientLimits { connections: 1, ..ClientLimits::default() };
        let shared = Shared::new(limits, FxHashSet::default(), 2);
        let permit = Arc::clone(&shared.permits).try_acquire_owned().unwrap();
        let place = Place::take(&shared, permit);
        assert_eq!((shared.connections(), shared.permits.available_permits()), (1, 0));
        drop(place);
        assert_eq!((shared.connections(), shared.permits.available_permits()), (0, 1));
    }
}
