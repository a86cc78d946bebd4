//! One worker's world: its clients, its upstream connections, its dice. Nothing of it leaves the thread.

use super::client::Client;
use super::http::serve;
use super::socket::ClientIo;
use super::upload::RequestBody;
use crate::cluster::Cluster;
use crate::policy::ClientLimits;
use crate::rt::LocalTasks;
use crate::upstream::Upstream;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rand::rngs::SmallRng;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
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
    pub own: HashSet<SocketAddr>,
    /// One permit per client connection.
    pub(super) permits: Arc<Semaphore>,
    /// Bytes that request bodies may still keep for replay.
    pub(super) replay_left: Arc<AtomicUsize>,
    /// Client connections by worker.
    pub(super) loads: Box<[AtomicUsize]>,
}

impl Shared {
    pub fn new(limits: ClientLimits, own: HashSet<SocketAddr>, workers: usize) -> Arc<Self> {
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
    pub(super) upstream: Rc<Upstream<RequestBody>>,
    pub(super) rng: RefCell<SmallRng>,
    pub(super) tasks: LocalTasks,
    clients: RefCell<HashMap<u64, Arc<Client>>>,
    next_client: Cell<u64>,
    stopping: Cell<bool>,
}

/// How often connections are looked through for those that took too long.
const SWEEP: Duration = Duration::from_millis(500);

impl Worker {
    pub(super) fn new(index: usize, shared: Arc<Shared>, tasks: LocalTasks, rng: SmallRng) -> Rc<Self> {
        Rc::new(Self {
            index,
            shared,
            upstream: Upstream::new(tasks.clone()),
            rng: RefCell::new(rng),
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
        permit: OwnedSemaphorePermit,
    ) {
        let seat = Rc::new(Seat::take(self, peer, &cluster, permit));
        // Answers are small and must not wait for an acknowledgement; a socket that refuses will fail by itself.
        let _ = stream.set_nodelay(true);
        self.tasks.spawn("client", async move {
            let client = Arc::clone(&seat.client);
            let io = TokioIo::new(ClientIo::new(stream, Arc::clone(&client)));
            let limits = &seat.worker.shared.limits;
            let service = service_fn(|request| serve(Rc::clone(&seat), Arc::clone(&cluster), request));
            let mut connection = pin!(
                http1::Builder::new()
                    .preserve_header_case(true)
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
                if client.is_stopping() && !told {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                }
                // Its errors are the client's or were answered already.
                connection.as_mut().poll(cx).map(|_| ())
            })
            .await;
        });
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

/// A connection's place among the worker's clients and in the process's limit; given back on drop.
#[derive(Debug)]
pub(super) struct Seat {
    pub worker: Rc<Worker>,
    pub client: Arc<Client>,
    number: u64,
    _permit: OwnedSemaphorePermit,
}

impl Seat {
    fn take(
        worker: &Rc<Worker>,
        peer: SocketAddr,
        cluster: &Arc<Cluster>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let client = Client::new(peer, cluster, worker.index, Instant::now());
        if worker.stopping.get() {
            client.stop();
        }
        let number = worker.next_client.get();
        worker.next_client.set(number + 1);
        worker.clients.borrow_mut().insert(number, Arc::clone(&client));
        Self { worker: Rc::clone(worker), client, number, _permit: permit }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.worker.clients.borrow_mut().remove(&self.number);
        if let Some(load) = self.worker.shared.loads.get(self.worker.index) {
            load.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
