//! One connection from the application: its socket, its phase, and the bytes that overtake hyper.

use super::error::Fault;
use crate::policy::ClientLimits;
use futures_util::task::AtomicWaker;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// How long the rest of an unwanted request is read before the connection is given up.
const LINGER: Duration = Duration::from_secs(2);

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
    /// The answer is complete, but may not be written yet.
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
    /// The service its listener belongs to, for answers of our own.
    pub service: String,
    born: Instant,
    /// A [`Phase`].
    phase: AtomicU8,
    /// When the phase began, or something last moved in it: milliseconds after `born`.
    since: AtomicU64,
    /// No request came in time: reads end.
    expired: AtomicBool,
    /// Nothing moved for too long in the middle of an exchange: the connection is dropped.
    aborted: AtomicBool,
    /// The process stops: finish what runs, then close.
    stopping: AtomicBool,
    /// Some byte went in or out since the last sweep.
    moved: AtomicBool,
    /// Part of a request was left unread: hyper will close the connection.
    unread: AtomicBool,
    /// How long an exchange may stand still.
    idle: Duration,
    /// Interim responses that are to be written before the real one; the lock is held for a copy of a few bytes.
    early: Mutex<Vec<u8>>,
    /// Some of them are not written yet.
    has_early: AtomicBool,
    waker: AtomicWaker,
}

impl Client {
    pub fn new(peer: SocketAddr, service: &str, idle: Duration, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            peer,
            service: service.to_owned(),
            born: now,
            phase: AtomicU8::new(Phase::Idle as u8),
            since: AtomicU64::new(0),
            expired: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            moved: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            idle,
            early: Mutex::default(),
            has_early: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        })
    }

    pub fn enter(&self, phase: Phase, now: Instant) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.touch(now);
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
            Phase::Busy | Phase::Tunnel => return,
            Phase::Answering | Phase::Ending => {
                if self.moved.swap(false, Ordering::Relaxed) {
                    self.touch(now);
                }
                (self.idle, &self.aborted)
            }
        };
        let since = self.born + Duration::from_millis(self.since.load(Ordering::Relaxed));
        if now.saturating_duration_since(since) >= limit {
            verdict.store(true, Ordering::Relaxed);
            self.waker.wake();
        }
    }

    pub fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Relaxed)
    }

    /// Finish what runs, then close.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.waker.wake();
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Remembers the connection's task.
    pub fn watch(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Has `bytes` written before the response that is being waited for.
    pub fn overtake(&self, bytes: &[u8]) {
        self.early.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        self.has_early.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Waits until everything that overtakes is written, so that the real response comes after it.
    pub async fn overtaken(&self) {
        // Hyper flushes after it has polled for the response, and `all_overtaken` wakes the connection's task.
        std::future::poll_fn(|_| if self.has_early() { Poll::Pending } else { Poll::Ready(()) }).await;
    }

    /// Part of a request will not be read.
    pub fn leave_unread(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }

    fn has_early(&self) -> bool {
        self.has_early.load(Ordering::Acquire)
    }

    fn take_early(&self) -> Vec<u8> {
        std::mem::take(&mut *self.early.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn all_overtaken(&self) {
        self.has_early.store(false, Ordering::Release);
        self.waker.wake();
    }

    fn touch(&self, now: Instant) {
        let since = now.saturating_duration_since(self.born).as_millis();
        self.since.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// The socket as hyper sees it.
#[derive(Debug)]
pub(super) struct ClientIo {
    stream: TcpStream,
    client: Arc<Client>,
    /// Taken from `early` and not written yet.
    overtaking: Vec<u8>,
    /// Hyper's own answer to a request that it could not read was replaced by ours.
    refused: bool,
}

impl ClientIo {
    pub fn new(stream: TcpStream, client: Arc<Client>) -> Self {
        Self { stream, client, overtaking: Vec::new(), refused: false }
    }

    fn write_overtaking(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.overtaking.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.overtaking))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.overtaking.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    /// Hyper writes without a request being answered only to refuse one: say it in our words.
    fn replace_refusal(&mut self, bytes: &[u8]) -> bool {
        if !matches!(self.client.phase(), Phase::Idle | Phase::Head) {
            return false;
        }
        if !self.refused {
            self.refused = true;
            self.client.leave_unread();
            let fault = match bytes.get(..12) {
                Some(b"HTTP/1.1 431") => Fault::HeadTooLarge,
                Some(b"HTTP/1.1 414") => Fault::TargetTooLong,
                _ => Fault::Malformed,
            };
            self.overtaking = fault.raw(&self.client.service);
        }
        true
    }

    /// Reads and forgets what the client still sends: a socket that is closed with unread bytes resets the
    /// connection, and the client may lose the answer (RFC 9112, section 9.6).
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut scratch = [MaybeUninit::uninit(); 4096];
        loop {
            let mut buf = ReadBuf::uninit(&mut scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.client.expired.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.client.moved.store(true, Ordering::Relaxed);
        if self.client.phase() == Phase::Idle && buf.filled().len() > before {
            self.client.enter(Phase::Head, Instant::now());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.replace_refusal(buf) {
            ready!(self.write_overtaking(cx))?;
            return Poll::Ready(Ok(buf.len()));
        }
        ready!(self.write_overtaking(cx))?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        self.client.moved.store(true, Ordering::Relaxed);
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs.iter().find(|b| !b.is_empty()).map_or(&[][..], |b| b);
        if self.replace_refusal(first) {
            ready!(self.write_overtaking(cx))?;
            return Poll::Ready(Ok(bufs.iter().map(|b| b.len()).sum()));
        }
        ready!(self.write_overtaking(cx))?;
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs));
        self.client.moved.store(true, Ordering::Relaxed);
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Hyper calls this exactly when it has nothing left to write: the only moment at which bytes may overtake.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.client.phase() {
            Phase::Ending => self.client.enter(Phase::Idle, Instant::now()),
            Phase::Busy if self.client.has_early() => {
                if self.overtaking.is_empty() {
                    self.overtaking = self.client.take_early();
                }
                ready!(self.write_overtaking(cx))?;
                self.client.all_overtaken();
            }
            _ => {}
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let phase = self.client.phase();
        if phase != Phase::Lingering {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            if phase == Phase::Tunnel || !self.client.unread.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
            self.client.enter(Phase::Lingering, Instant::now());
        }
        self.poll_linger(cx)
    }
}
