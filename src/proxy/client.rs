//! One connection from the application: its phase, its clocks, and the bytes that overtake hyper.

use super::headers::{Caller, Ear, Spelled};
use crate::cluster::Cluster;
use crate::policy::ClientLimits;
use crate::upstream::Framing;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::time::Instant;

/// How long a connection stays awake without a request, at least.
const MOMENT: Duration = Duration::from_millis(2);

/// The same for one whose requests are no further apart than this: it does not pay for a waking with each of them.
const RESTLESS: Duration = Duration::from_secs(1);

/// How long the rest of an unwanted request is read before the connection is given up.
const LINGER: Duration = Duration::from_secs(2);

/// While more bytes of interim responses than this wait, further ones are dropped: nobody reads them, and nobody may
/// count on them (RFC 9110, section 15.2).
const EARLY_BYTES: usize = 64 << 10;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// No byte of a request is here.
    Idle,
    /// A request head has begun.
    Head,
    /// A request waits for its answer; the attempts have their own time limits.
    Busy,
    /// The answer is on its way.
    Answering,
    /// The answer is complete, but may not be written yet; or the upload goes on after it.
    Ending,
    /// Nothing more is written; what the client still sends is thrown away.
    Lingering,
    /// The connection has left HTTP behind; the tunnel has its own time limit.
    Tunnel,
}

/// What the worker knows of one connection; shared by its task, its exchanges and the sweep.
///
/// All of them run on one thread; the cells are atomics because hyper wants a socket that could be sent to another.
#[derive(Debug)]
pub(super) struct Client {
    pub peer: SocketAddr,
    /// Its IP address as text.
    address: String,
    /// It speaks TLS.
    secure: bool,
    /// The service its listener belongs to, for answers of our own.
    pub cluster: Arc<Cluster>,
    /// Whose cells its requests are counted in.
    worker: usize,
    born: Instant,
    /// A [`Phase`].
    phase: AtomicU8,
    /// When the phase began, or something last moved in it: milliseconds after `born`, or [`Self::AT_SWEEP`].
    since: AtomicU64,
    /// Counts the turns of the connection's task.
    turn: AtomicU32,
    /// The one in which the newest answer was complete.
    ended_in: AtomicU32,
    /// No request came in time: reads end.
    expired: AtomicBool,
    /// No request came for a moment: the connection may rest.
    tired: AtomicBool,
    /// Its last rest was short.
    restless: AtomicBool,
    /// It has been awake.
    woken: AtomicBool,
    /// Its place among the worker's awake connections.
    rank: AtomicUsize,
    /// Nothing moved for too long in the middle of an exchange: the connection is dropped.
    aborted: AtomicBool,
    /// The process stops: finish what runs, then close.
    stopping: AtomicBool,
    /// Some byte went in or out since the last sweep.
    pub moved: AtomicBool,
    /// Part of a request was left unread: hyper will close the connection.
    pub unread: AtomicBool,
    /// The number of the newest request.
    request: AtomicU32,
    /// The body of that request is on its way.
    uploading: AtomicBool,
    /// Interim responses that are to be written before the real one; the lock is held for a copy of a few bytes.
    early: Mutex<Vec<u8>>,
    /// Some of them are not written yet.
    has_early: AtomicBool,
    /// Keeps the bytes of the next request's head; the lock is held for a copy of them.
    ear: Mutex<Ear>,
    /// What belongs into the next head that hyper writes.
    spelled: Mutex<Option<Spelled>>,
    will_spell: AtomicBool,
    has_spelled: AtomicBool,
    /// An earlier response may not be written yet although the next request is being answered.
    unflushed: AtomicBool,
    /// The connection's task; the lock is held for a copy.
    task: Mutex<Option<Waker>>,
}

impl Client {
    /// Stands for the moment of the next sweep.
    const AT_SWEEP: u64 = u64::MAX;

    pub fn new(
        peer: SocketAddr,
        secure: bool,
        cluster: &Arc<Cluster>,
        worker: usize,
        now: Instant,
    ) -> Arc<Self> {
        Arc::new(Self {
            peer,
            address: peer.ip().to_canonical().to_string(),
            secure,
            cluster: Arc::clone(cluster),
            worker,
            born: now,
            phase: AtomicU8::new(Phase::Idle as u8),
            since: AtomicU64::new(0),
            turn: AtomicU32::new(0),
            ended_in: AtomicU32::new(0),
            expired: AtomicBool::new(false),
            tired: AtomicBool::new(false),
            restless: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            rank: AtomicUsize::new(0),
            aborted: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            moved: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            request: AtomicU32::new(0),
            uploading: AtomicBool::new(false),
            early: Mutex::default(),
            has_early: AtomicBool::new(false),
            ear: Mutex::default(),
            spelled: Mutex::default(),
            will_spell: AtomicBool::new(false),
            has_spelled: AtomicBool::new(false),
            unflushed: AtomicBool::new(false),
            task: Mutex::default(),
        })
    }

    /// As its requests tell the instances.
    pub fn caller(&self) -> Caller<'_> {
        Caller { address: &self.address, secure: self.secure }
    }

    /// A request begins.
    pub fn begin(&self) {
        self.request.store(self.request().wrapping_add(1), Ordering::Relaxed);
        if self.phase() == Phase::Ending {
            self.unflushed.store(true, Ordering::Relaxed);
        }
        self.enter_at_sweep(Phase::Busy);
    }

    /// The number of the newest request.
    pub fn request(&self) -> u32 {
        self.request.load(Ordering::Relaxed)
    }

    /// Everything that hyper wrote is with the system.
    pub fn flushed(&self) {
        if self.unflushed.load(Ordering::Relaxed) {
            self.unflushed.store(false, Ordering::Relaxed);
            self.wake();
        }
    }

    /// Hears what came, for the head of the next request.
    ///
    /// # Errors
    /// If the body that goes on with it is malformed.
    pub fn hear(&self, bytes: &[u8]) -> Result<(), &'static str> {
        // A tunnel has no heads, and what is thrown away has none that matter.
        if matches!(self.phase(), Phase::Tunnel | Phase::Lingering) {
            return Ok(());
        }
        self.ear.lock().unwrap_or_else(PoisonError::into_inner).hear(bytes)
    }

    /// The bytes of a request's head, and whatever came after it.
    pub fn take_heard(&self) -> Vec<u8> {
        self.ear.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Goes on behind a head that was taken: see [`Ear::go_on`].
    pub fn hear_on(&self, heard: Vec<u8>, beyond: usize, framing: Framing) -> Result<(), &'static str> {
        self.ear.lock().unwrap_or_else(PoisonError::into_inner).go_on(heard, beyond, framing)
    }

    /// Has these fields written into the head of the response that is announced next.
    pub fn spell(&self, fields: Spelled) {
        *self.spelled.lock().unwrap_or_else(PoisonError::into_inner) = Some(fields);
        self.will_spell.store(true, Ordering::Relaxed);
    }

    /// The next that hyper writes is the head of a response: nothing overtakes it any more.
    pub fn announce(&self) {
        if self.will_spell.load(Ordering::Relaxed) {
            self.will_spell.store(false, Ordering::Relaxed);
            self.has_spelled.store(true, Ordering::Relaxed);
        }
    }

    pub fn take_spelled(&self) -> Option<Spelled> {
        if !self.has_spelled.load(Ordering::Relaxed) {
            return None;
        }
        self.has_spelled.store(false, Ordering::Relaxed);
        self.spelled.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub fn enter(&self, phase: Phase, now: Instant) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.touch(now);
    }

    /// Enters a phase in which the clock starts when the next sweep sees it: reading a clock costs more than the rest.
    pub fn enter_at_sweep(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.since.store(Self::AT_SWEEP, Ordering::Relaxed);
    }

    /// The answer is complete.
    pub fn end(&self, now: Instant) {
        self.enter(Phase::Ending, now);
        self.ended_in.store(self.turn(), Ordering::Relaxed);
    }

    /// The answer is written: mostly in the turn in which it was complete, whose time is as good as now.
    pub fn rest(&self) {
        if self.ended_in.load(Ordering::Relaxed) == self.turn() {
            self.phase.store(Phase::Idle as u8, Ordering::Relaxed);
        } else {
            self.enter_at_sweep(Phase::Idle);
        }
    }

    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Idle,
            1 => Phase::Head,
            2 => Phase::Busy,
            3 => Phase::Answering,
            4 => Phase::Ending,
            5 => Phase::Lingering,
            _ => Phase::Tunnel,
        }
    }

    /// Ends the connection if it has been idle, sending its head, or standing still for too long.
    pub fn sweep(&self, limits: &ClientLimits, now: Instant) {
        let (limit, verdict) = match self.phase() {
            Phase::Idle => (limits.keep_alive, &self.expired),
            Phase::Head => (limits.head_timeout, &self.expired),
            Phase::Lingering => (LINGER, &self.aborted),
            Phase::Tunnel => return,
            Phase::Busy if !self.has_early() && !self.unflushed.load(Ordering::Relaxed) => return,
            Phase::Busy | Phase::Answering | Phase::Ending => {
                if self.moved.swap(false, Ordering::Relaxed) {
                    self.touch(now);
                }
                (self.cluster.settings.timeouts.idle, &self.aborted)
            }
        };
        if self.since.load(Ordering::Relaxed) == Self::AT_SWEEP {
            self.touch(now);
        }
        if self.still(now) >= limit {
            verdict.store(true, Ordering::Relaxed);
            self.wake();
        }
    }

    /// Lets the connection rest if it has been without a request for a moment.
    pub fn tire(&self, now: Instant) {
        let wakeful = if self.restless.load(Ordering::Relaxed) { RESTLESS } else { MOMENT };
        if self.phase() == Phase::Idle && self.still(now) >= wakeful {
            self.tired.store(true, Ordering::Relaxed);
            self.wake();
        }
    }

    /// Whether the connection may rest; once.
    pub fn is_tired(&self) -> bool {
        self.tired.load(Ordering::Relaxed) && self.tired.swap(false, Ordering::Relaxed)
    }

    /// Something has come after a rest. It may have come just when the time was up: it counts.
    pub fn wake_up(&self, now: Instant) {
        let again = self.woken.swap(true, Ordering::Relaxed);
        self.restless.store(again && self.still(now) < RESTLESS, Ordering::Relaxed);
        self.tired.store(false, Ordering::Relaxed);
        if self.expired.swap(false, Ordering::Relaxed) {
            self.touch(now);
        }
    }

    pub fn rank(&self) -> usize {
        self.rank.load(Ordering::Relaxed)
    }

    pub fn set_rank(&self, rank: usize) {
        self.rank.store(rank, Ordering::Relaxed);
    }

    /// When a connection that goes on without a request is to end; nothing if it has one.
    pub fn expires(&self, limits: &ClientLimits) -> Option<Instant> {
        (self.phase() == Phase::Idle).then(|| self.born + self.since() + limits.keep_alive)
    }

    pub fn is_expired(&self) -> bool {
        self.expired.load(Ordering::Relaxed)
    }

    /// Nothing more is waited for but what is here already.
    pub fn is_over(&self) -> bool {
        self.is_expired() || self.is_stopping()
    }

    pub fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Relaxed)
    }

    /// Finish what runs, then close.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.wake();
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// The connection's task runs once more.
    pub fn take_turn(&self) {
        self.turn.store(self.turn().wrapping_add(1), Ordering::Relaxed);
    }

    /// Which of its turns it is.
    pub fn turn(&self) -> u32 {
        self.turn.load(Ordering::Relaxed)
    }

    /// Remembers the connection's task.
    pub fn watch(&self, task: &Waker) {
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.clone());
    }

    /// Has the connection's task run once more.
    pub fn wake(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
        task.into_iter().for_each(Waker::wake);
    }

    /// Has `bytes` written before the response that is being waited for, unless too many wait already.
    pub fn overtake(&self, bytes: &[u8]) {
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        if early.len() > EARLY_BYTES {
            return;
        }
        early.extend_from_slice(bytes);
        drop(early);
        if !self.has_early.swap(true, Ordering::AcqRel) {
            self.touch(Instant::now());
        }
        self.wake();
    }

    /// Waits until everything that comes before the real response is written.
    pub async fn overtaken(&self) {
        // Hyper flushes after it has polled for the response, and `all_overtaken` wakes the connection's task.
        let waits = || self.has_early() || self.unflushed.load(Ordering::Relaxed);
        std::future::poll_fn(|_| if waits() { Poll::Pending } else { Poll::Ready(()) }).await;
    }

    /// Part of this request will not be read. Of an earlier one hyper has read everything, since a later one is here.
    pub fn leave_unread(&self, request: u32) {
        if request == self.request() {
            self.unread.store(true, Ordering::Relaxed);
            self.set_uploading(request, false);
        }
    }

    /// Whether the body of this request is on its way; that of an earlier one is here, even if its instance has not
    /// taken all of it yet.
    pub fn set_uploading(&self, request: u32, uploading: bool) {
        if request != self.request() {
            return;
        }
        if self.uploading.swap(uploading, Ordering::Relaxed) && !uploading && self.phase() == Phase::Ending {
            // It may have been all that kept the connection from its next request.
            self.wake();
        }
    }

    pub fn is_uploading(&self) -> bool {
        self.uploading.load(Ordering::Relaxed)
    }

    /// Counts a request that was answered before it became an exchange.
    pub fn count_refusal(&self, code: u16, now: Instant) {
        self.cluster.tally(self.worker).request(code, self.still(now));
    }

    pub fn has_early(&self) -> bool {
        self.has_early.load(Ordering::Acquire)
    }

    pub fn take_early(&self) -> Vec<u8> {
        std::mem::take(&mut *self.early.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn all_overtaken(&self) {
        self.has_early.store(false, Ordering::Release);
        self.wake();
    }

    /// Time since the phase began, or something last moved in it.
    fn still(&self, now: Instant) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            Self::AT_SWEEP => Duration::ZERO,
            _ => now.saturating_duration_since(self.born + self.since()),
        }
    }

    fn since(&self) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            Self::AT_SWEEP => Duration::ZERO,
            since => Duration::from_millis(since),
        }
    }

    fn touch(&self, now: Instant) {
        let since = now.saturating_duration_since(self.born).as_millis();
        self.since.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}
