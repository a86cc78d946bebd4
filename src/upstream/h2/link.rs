//! One HTTP/2 connection to an instance, and the places for requests on it.

use super::opening::Room;
use super::sniff::{Seen, Sniffed};
use crate::rt::LocalTasks;
use crate::upstream::error::Cause;
use crate::upstream::socket::Socket;
use ::h2::client::{Builder, Connection, SendRequest};
use ::h2::{Ping, PingPong};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Requests at once on one connection, whatever the instance would take: more connections spread over more of its
/// threads.
const MOST_STREAMS: usize = 100;
/// Bytes of one response that may be on their way before the client has taken any.
const STREAM_WINDOW: u32 = 256 << 10;
/// The same for all of them together: so much that clients who take nothing never hold up the others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MOST_STREAMS as u32;
/// Between two pings: servers take those who ping them often for a nuisance (gRPC's close the connection).
const BETWEEN_PINGS: Duration = Duration::from_secs(60);
/// Streams that were given up and whose last frames are still awaited.
const GIVEN_UP: usize = 1000;
/// A connection on which nothing has come for so long after a ping is dead; before that it only takes no new requests.
const DEAD: Duration = Duration::from_secs(20);
/// Bytes of a response's fields.
const MOST_FIELDS: u32 = 400 << 10;

/// A connection. Its driver is a task of its own, which ends when the instance closes, or when no request runs and
/// none may begin ([`Self::retire`]).
#[derive(Debug)]
pub(in crate::upstream) struct Link {
    /// `None` once no request may begin.
    sender: RefCell<Option<SendRequest<Bytes>>>,
    /// In the order in which the target's connections were opened.
    pub number: u64,
    /// Over TLS.
    pub secure: bool,
    pub tasks: LocalTasks,
    streams: Cell<usize>,
    /// It has carried a request.
    used: Cell<bool>,
    /// As of a sweep.
    idle_since: Cell<Option<Instant>>,
    seen: Rc<RefCell<Seen>>,
    /// Somebody gave up waiting for an answer.
    doubted: Notify,
    /// Calls those who wait for a place at the target.
    room: Rc<Room>,
    driver: RefCell<Option<AbortHandle>>,
}

/// A request's place on a connection, given back on drop.
#[derive(Debug)]
pub(in crate::upstream) struct Slot(Rc<Link>);

/// A connection that is not driven yet.
pub(in crate::upstream) struct Made {
    sender: SendRequest<Bytes>,
    connection: Connection<Sniffed, Bytes>,
    pings: Option<PingPong>,
    seen: Rc<RefCell<Seen>>,
}

/// Begins HTTP/2, and waits for the instance's settings: they say how many requests it takes at once, and that it is
/// HTTP/2 at all.
pub(in crate::upstream) async fn make(socket: Socket) -> Result<Made, Cause> {
    let seen = Rc::new(RefCell::new(Seen::default()));
    let io = Sniffed { socket, seen: Rc::clone(&seen) };
    let in_words = |error: &::h2::Error| {
        let seen = seen.borrow();
        match (&seen.refused, seen.other()) {
            (Some(why), _) => Cause::Tls { why: why.clone(), name: String::new() },
            (None, Some(other)) => Cause::Protocol(other.to_owned()),
            (None, None) if error.is_io() => Cause::Protocol(format!("no HTTP/2 there: {error}")),
            (None, None) => Cause::Protocol(format!("invalid HTTP/2: {error}")),
        }
    };
    let made = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MOST_FIELDS)
        // Those that clients have given up are many on a connection that lives long: no sign of anything.
        .max_concurrent_reset_streams(GIVEN_UP)
        .max_local_error_reset_streams(None)
        .enable_push(false)
        .handshake::<_, Bytes>(io)
        .await;
    let (sender, mut connection) = made.map_err(|error| in_words(&error))?;
    let mut pings = connection.ping_pong();
    if let Some(pings) = &mut pings {
        // The settings are the first frame (RFC 9113, section 3.4), so they are here when this is answered.
        pings.send_ping(Ping::opaque()).map_err(|error| in_words(&error))?;
        let answered = poll_fn(|cx| {
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(ended.map(|()| false));
            }
            pings.poll_pong(cx).map_ok(|_| true)
        });
        match answered.await {
            Ok(true) => {}
            Ok(false) => {
                let other = seen.borrow().other();
                let why = other.unwrap_or("no HTTP/2 there: connection closed before its settings came, as by one that speaks HTTP/1.1 or TLS");
                return Err(Cause::Protocol(why.to_owned()));
            }
            Err(error) => return Err(in_words(&error)),
        }
    }
    Ok(Made { sender, connection, pings, seen: Rc::clone(&seen) })
}

impl Link {
    /// A connection, and what drives it: `patience` is how long an instance may take to show that it is there after
    /// somebody gave up waiting for its answer.
    pub fn new(
        made: Made,
        number: u64,
        secure: bool,
        room: Rc<Room>,
        tasks: &LocalTasks,
        patience: Duration,
    ) -> (Rc<Self>, impl Future<Output = ()> + use<>) {
        let Made { sender, connection, pings, seen } = made;
        let link = Rc::new(Self {
            sender: RefCell::new(Some(sender)),
            number,
            secure,
            tasks: tasks.clone(),
            streams: Cell::new(0),
            used: Cell::new(false),
            idle_since: Cell::new(None),
            seen,
            doubted: Notify::new(),
            room,
            driver: RefCell::new(None),
        });
        let driving = drive(Rc::clone(&link), connection, pings, patience);
        (link, driving)
    }

    pub fn is_driven_by(&self, driver: AbortHandle) {
        self.driver.replace(Some(driver));
    }

    /// Requests may begin on it.
    pub fn is_open(&self) -> bool {
        self.sender.borrow().is_some()
    }

    pub fn streams(&self) -> usize {
        self.streams.get()
    }

    /// A place, if there is one, and whether the connection had carried a request before.
    pub fn take(self: &Rc<Self>) -> Option<(SendRequest<Bytes>, Slot, bool)> {
        let sender = self.sender.borrow();
        let sender = sender.as_ref()?;
        let most = sender.current_max_send_streams().min(MOST_STREAMS);
        if self.streams.get() >= most {
            return None;
        }
        self.streams.set(self.streams.get() + 1);
        Some((sender.clone(), Slot(Rc::clone(self)), self.used.replace(true)))
    }

    /// No further request begins; those that run go on.
    pub fn retire(&self) {
        self.sender.replace(None);
        self.room.changes();
    }

    /// Ends it, and what runs on it.
    pub fn cut(&self) {
        self.retire();
        if let Some(driver) = self.driver.take() {
            driver.abort();
        }
    }

    /// `true` once it has been without a request for so long.
    pub fn is_idle(&self, now: Instant, limit: Duration) -> bool {
        if self.streams.get() > 0 {
            self.idle_since.set(None);
            return false;
        }
        let since = self.idle_since.get().unwrap_or(now);
        self.idle_since.set(Some(since));
        now.saturating_duration_since(since) >= limit
    }

    /// How often something came.
    pub fn reads(&self) -> u64 {
        self.seen.borrow().reads
    }

    /// Somebody gave up waiting for an answer since there had been so many reads: if nothing at all came since then, the
    /// connection may be dead without a sign.
    pub fn doubt(&self, reads: u64) {
        if self.reads() == reads {
            self.doubted.notify_one();
        }
    }
}

impl Slot {
    pub fn link(&self) -> &Rc<Link> {
        &self.0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let link = &self.0;
        link.streams.set(link.streams.get().saturating_sub(1));
        link.idle_since.set(None);
        link.room.is_freed();
    }
}

/// Moves the connection until it ends.
async fn drive(
    link: Rc<Link>,
    mut connection: Connection<Sniffed, Bytes>,
    mut pings: Option<PingPong>,
    patience: Duration,
) {
    let mut pinged: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            // Whom its end concerns learns of it from the streams.
            _ = &mut connection => break,
            () = link.doubted.notified() => {}
        }
        let now = Instant::now();
        let often = pinged.is_some_and(|before| now.saturating_duration_since(before) < BETWEEN_PINGS);
        let sent = !often && pings.as_mut().is_some_and(|pings| pings.send_ping(Ping::opaque()).is_ok());
        let Some(pings) = pings.as_mut().filter(|_| sent) else {
            // Whoever comes gets another connection; those who wait here lose nothing.
            link.retire();
            continue;
        };
        pinged = Some(now);
        let reads = link.reads();
        let answered = poll_fn(|cx| {
            if Pin::new(&mut connection).poll(cx).is_ready() {
                return Poll::Ready(false);
            }
            pings.poll_pong(cx).map(|pong| pong.is_ok())
        });
        let mut answered = std::pin::pin!(answered);
        match tokio::time::timeout(patience, answered.as_mut()).await {
            Ok(true) => continue,
            Ok(false) => break,
            // It may only be slow: what runs on it goes on.
            Err(_) => link.retire(),
        }
        match tokio::time::timeout(DEAD.saturating_sub(patience), answered).await {
            Ok(true) => {}
            Err(_) if link.reads() != reads => {}
            Ok(false) | Err(_) => break,
        }
    }
    link.retire();
}
