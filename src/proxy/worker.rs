//! One worker's world: its clients, its upstream connections, its dice. Nothing of it leaves the thread.

use super::awake::Awake;
use super::client::Client;
use super::connection;
use super::entry;
use super::place::Place;
use super::route::{Junction, Table};
use super::tcp::Streams;
use super::welcome::Doorman;
use crate::cluster::Cluster;
use crate::model::ServiceName;
use crate::policy::ClientLimits;
use crate::rt::{Alarm, LocalTasks};
use crate::upstream::Upstream;
use rand::rngs::SmallRng;
use rustc_hash::FxHashSet;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    pub limits: ClientLimits,
    /// Our own listeners: an instance at one of these addresses is ourselves.
    pub own: FxHashSet<SocketAddr>,
    /// The routes of ports that several services share, by the port's name.
    pub(super) tables: HashMap<ServiceName, Arc<Table>>,
    /// One permit per client connection.
    pub(super) permits: Arc<Semaphore>,
    /// Bytes that request bodies may still keep for replay.
    pub(super) replay_left: Arc<AtomicUsize>,
    /// Client connections by worker.
    pub(super) loads: Box<[AtomicUsize]>,
}

impl Shared {
    pub fn new(limits: ClientLimits, own: FxHashSet<SocketAddr>, workers: usize) -> Arc<Self> {
        Self::with_tables(limits, own, workers, HashMap::new())
    }

    /// With ports whose clusters only stand for them: their requests take the routes of the table of their name.
    pub fn with_tables(
        limits: ClientLimits,
        own: FxHashSet<SocketAddr>,
        workers: usize,
        tables: HashMap<ServiceName, Arc<Table>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            tables,
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
    /// Room for what an HTTP/2 connection writes in a turn.
    pub(super) gathered: RefCell<Vec<u8>>,
    pub(super) tasks: LocalTasks,
    pub(super) alarm: Rc<Alarm>,
    clients: RefCell<HashMap<u64, Arc<Client>>>,
    /// Connections that are still to say who they are.
    pub(super) entering: Cell<usize>,
    pub(super) streams: Streams,
    /// Those of them that do not rest: few, as a rule.
    awake: RefCell<Awake>,
    someone_awoke: Notify,
    /// The first moment at which one of the others may have been without a request for too long.
    next_expiry: Cell<Option<Instant>>,
    next_client: Cell<u64>,
    stopping: Cell<bool>,
}

/// Buffers for heads that are kept, and the largest of them: more waits only while more requests run.
const SCRATCHES: usize = 64;
const SCRATCH_BYTES: usize = 4 << 10;

/// How often connections are looked through for those that took too long.
const SWEEP: Duration = Duration::from_millis(500);

/// How often they are looked through for those that may rest.
const LULL: Duration = Duration::from_millis(50);

impl Worker {
    pub(super) fn new(index: usize, shared: Arc<Shared>, tasks: LocalTasks, rng: SmallRng) -> Rc<Self> {
        Rc::new(Self {
            index,
            shared,
            upstream: Upstream::new(tasks.clone()),
            alarm: Alarm::new(tasks.clone()),
            rng: RefCell::new(rng),
            scratch: RefCell::default(),
            gathered: RefCell::default(),
            tasks,
            clients: RefCell::default(),
            entering: Cell::new(0),
            streams: Streams::default(),
            awake: RefCell::default(),
            someone_awoke: Notify::new(),
            next_expiry: Cell::default(),
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
        doorman: Option<Doorman>,
        place: Place,
    ) {
        // Answers are small and must not wait for an acknowledgement; a socket that refuses will fail by itself.
        let _ = stream.set_nodelay(true);
        if !entry::is_plain(&cluster) {
            let entering = entry::run(Rc::clone(self), stream, peer, cluster, doorman, place);
            self.tasks.spawn("client", entering);
            return;
        }
        let client = Client::new(peer, doorman.is_some(), &cluster, self.index, Instant::now());
        let seat = Rc::new(Seat::take(self, client, place));
        self.tasks.spawn("client", connection::run(seat, stream, doorman));
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
            self.streams.sweep(now);
            self.end_overdue(now);
        }
    }

    /// Ends connections that took too long. Resting ones are looked at only if it may be one of theirs.
    fn end_overdue(&self, now: Instant) {
        let limits = &self.shared.limits;
        if self.next_expiry.get().is_none_or(|expiry| now < expiry) {
            self.awake.borrow().iter().for_each(|client| client.sweep(limits, now));
            return;
        }
        let clients = self.clients.borrow();
        clients.values().for_each(|client| client.sweep(limits, now));
        let waiting = clients.values().filter(|client| !client.is_expired());
        self.next_expiry.set(waiting.filter_map(|client| client.expires(limits)).min());
    }

    /// Lets connections rest that are without a request, until the thread ends.
    pub(super) async fn lull(self: Rc<Self>) {
        loop {
            self.someone_awoke.notified().await;
            while !self.awake.borrow().is_empty() {
                tokio::time::sleep(LULL).await;
                let now = Instant::now();
                self.awake.borrow().iter().for_each(|client| client.tire(now));
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
        self.clients.borrow().len() + self.entering.get()
    }
}

/// A connection's seat among the worker's clients; given back on drop.
#[derive(Debug)]
pub(super) struct Seat {
    pub worker: Rc<Worker>,
    pub client: Arc<Client>,
    /// Where its port's routes lead.
    pub junction: Option<Rc<Junction>>,
    number: u64,
    _place: Place,
}

impl Seat {
    pub(super) fn take(worker: &Rc<Worker>, client: Arc<Client>, place: Place) -> Self {
        if worker.stopping.get() {
            client.stop();
        }
        let number = worker.next_client.get();
        worker.next_client.set(number + 1);
        worker.clients.borrow_mut().insert(number, Arc::clone(&client));
        let table = worker.shared.tables.get(client.cluster.name());
        let junction = table.map(|table| Junction::new(table, worker.index));
        let seat = Self { worker: Rc::clone(worker), client, junction, number, _place: place };
        seat.rests();
        seat
    }
}

impl Seat {
    /// Its connection is awake until what this returns is dropped.
    pub fn awake(&self, now: Instant) -> Waking<'_> {
        let mut awake = self.worker.awake.borrow_mut();
        if awake.is_empty() {
            self.worker.someone_awoke.notify_one();
        }
        awake.add(&self.client, now);
        Waking(self)
    }

    /// Has the worker look at the connection when it has been without a request for too long.
    pub fn rests(&self) {
        let expiries = [self.worker.next_expiry.get(), self.client.expires(&self.worker.shared.limits)];
        self.worker.next_expiry.set(expiries.into_iter().flatten().min());
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.worker.clients.borrow_mut().remove(&self.number);
    }
}

/// A connection that does not rest.
#[derive(Debug)]
pub(super) struct Waking<'a>(&'a Seat);

impl Drop for Waking<'_> {
    fn drop(&mut self) {
        self.0.worker.awake.borrow_mut().remove(&self.0.client);
        self.0.rests();
    }
}
