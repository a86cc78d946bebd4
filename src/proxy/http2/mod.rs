//! A client connection that speaks HTTP/2: many requests at once, each with its own attempts and its own end.
//!
//! Such a connection does not rest: what its machinery keeps, the tables of header compression above all, cannot be
//! built anew. It counts as idle while no stream is open.

mod body;
mod gather;
mod request;
mod response;
mod stream;
mod websocket;

pub(super) use body::StreamBody;
pub(super) use stream::Stream;

use super::client::{Client, Phase};
use super::connection::Watched;
use super::transport::Rewound;
use super::worker::Seat;
use crate::cluster::Booth;
use crate::policy::ClientLimits;
use bytes::Bytes;
use gather::Gathered;
use h2::server::{Builder, Connection};
use h2::{Reason, RecvStream};
use http::{HeaderValue, Request};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, sleep_until, timeout};

/// Bytes of a body that a client may send on a stream before the instance has taken them.
const STREAM_WINDOW: u32 = 64 << 10;

/// The same for all streams together. So many full ones whose instances take nothing stand in the others' way.
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Bytes of an answer that wait on a stream for the client to take them, beyond one read from the instance.
const SEND_BUFFER: usize = 64 << 10;

/// What small frames may cost that wait to be taken: full windows of the smallest gRPC messages are no attack.
const FRAME_BUDGET: usize = 64 << 20;

/// How long a client without a running request has to acknowledge the end of a connection.
const GOODBYE: Duration = Duration::from_secs(1);

/// How soon a client gives up what it never wanted ...
const SOON: Duration = Duration::from_secs(1);

/// ... and the streams of a connection from which on half of them may not be such: their work costs us more than their
/// client (CVE-2023-44487). Envoy has the same rule.
const JUDGED_STREAMS: u64 = 500;

/// A call that had less time was never meant to be answered.
const SHORTEST_DEADLINE: Duration = Duration::from_millis(20);

/// What the streams of one connection share.
#[derive(Debug)]
struct Front {
    seat: Rc<Seat>,
    booth: Rc<Booth>,
    /// Streams that are open.
    streams: Cell<usize>,
    /// Streams that have ended, and those of them that the client gave up soon.
    ended: Cell<u64>,
    given_up: Cell<u64>,
    /// The newest `Date`, and its second.
    date: RefCell<Option<(u64, HeaderValue)>>,
}

/// Serves the connection to its end.
pub(super) async fn run(seat: Rc<Seat>, io: Rewound, mut task: Watched) {
    let client = Arc::clone(&seat.client);
    let limits = &seat.worker.shared.limits;
    let io = Gathered::new(io, &seat.worker);
    let shaken = timeout(limits.head_timeout, settings(limits).handshake(io.clone())).await;
    let Ok(Ok(mut connection)) = shaken else { return };
    io.by_turns();
    let booth = Booth::new(Arc::clone(&client.cluster), seat.worker.index);
    let front = Rc::new(Front {
        seat: Rc::clone(&seat),
        booth,
        streams: Cell::new(0),
        ended: Cell::new(0),
        given_up: Cell::new(0),
        date: RefCell::default(),
    });
    front.rests();
    let mut patience: Option<Instant> = None;
    loop {
        let told_to_end = std::future::poll_fn(|cx| {
            task.by(&client, cx.waker());
            if client.is_over() { Poll::Ready(()) } else { Poll::Pending }
        });
        let forsaken = async {
            match patience {
                Some(patience) if front.streams.get() == 0 => sleep_until(patience).await,
                // The last stream that ends wakes this task.
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = told_to_end, if patience.is_none() => {
                connection.graceful_shutdown();
                patience = Some(Instant::now() + GOODBYE);
            }
            () = abused(&front) => {
                tracing::debug!(service = %client.cluster.name(), peer = %client.peer, "too many requests were given up");
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                let ending = async { while let Some(Ok(_)) = next(&mut connection, &io).await {} };
                let _ = timeout(GOODBYE, ending).await;
                break;
            }
            () = idle_again(&front), if patience.is_some() && front.streams.get() > 0 => {
                // What the last one said is still to be written.
                patience = Some(Instant::now() + GOODBYE);
            }
            accepted = next(&mut connection, &io) => match accepted {
                Some(Ok((request, respond))) => request::begin(&front, request, respond),
                Some(Err(error)) => {
                    tracing::debug!(service = %client.cluster.name(), peer = %client.peer, %error, "connection failed");
                    break;
                }
                None => break,
            },
            () = forsaken => break,
        }
    }
    // Streams that still run hear of the end when the connection is dropped.
}

/// The next request; nothing at the connection's end. What there is to be written goes out before it waits.
async fn next(
    connection: &mut Connection<Gathered, Bytes>,
    io: &Gathered,
) -> Option<Result<(Request<RecvStream>, SendResponse), h2::Error>> {
    std::future::poll_fn(|cx| {
        let accepted = connection.poll_accept(cx);
        // Whatever was to be written is gathered; more may be after a request that has come.
        match accepted.is_pending().then(|| io.poll_end_turn(cx)) {
            Some(Poll::Ready(Err(error))) => {
                tracing::debug!(%error, "a connection cannot be written to");
                Poll::Ready(None)
            }
            _ => accepted,
        }
    })
    .await
}

/// Waits for the last stream to end.
async fn idle_again(front: &Front) {
    std::future::poll_fn(|_| if front.streams.get() == 0 { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// Waits until the client has given up too many; the stream that was one too many wakes this task.
async fn abused(front: &Front) {
    std::future::poll_fn(|_| if front.is_abused() { Poll::Ready(()) } else { Poll::Pending }).await;
}

fn settings(limits: &ClientLimits) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(FRAME_BUDGET)
        .enable_connect_protocol();
    builder
}

impl Front {
    fn client(&self) -> &Client {
        &self.seat.client
    }

    /// The client has given up a stream that began then. A call that it gave up for its own deadline, by whatever clock,
    /// is none that nobody wanted.
    fn gives_up(&self, begun: Instant, deadline: Option<Instant>) {
        let lasted = begun.elapsed();
        let is_due = |end: Instant| {
            let given = end.saturating_duration_since(begun);
            given >= SHORTEST_DEADLINE && lasted >= given / 2
        };
        if lasted < SOON && !deadline.is_some_and(is_due) {
            self.given_up.set(self.given_up.get() + 1);
        }
    }

    /// Half of the streams, or more, were given up as soon as they had begun.
    fn is_abused(&self) -> bool {
        self.given_up.get() * 2 >= self.ended.get().max(JUDGED_STREAMS)
    }

    /// No stream is open: the time until the next one is limited.
    fn rests(&self) {
        self.client().enter(Phase::Idle, Instant::now());
        self.seat.rests();
    }

    /// For answers without one (RFC 9110, section 6.6.1).
    fn date(&self) -> Option<HeaderValue> {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
        let mut date = self.date.borrow_mut();
        match &*date {
            Some((when, value)) if *when == second => Some(value.clone()),
            _ => {
                let value = HeaderValue::from_str(&httpdate::fmt_http_date(now)).ok()?;
                *date = Some((second, value.clone()));
                Some(value)
            }
        }
    }
}

/// One stream's place among those that are open; given back on drop.
#[derive(Debug)]
struct Open(Rc<Front>);

impl Open {
    fn take(front: &Rc<Front>) -> Self {
        let before = front.streams.replace(front.streams.get() + 1);
        if before == 0 {
            front.client().enter_at_sweep(Phase::Busy);
        }
        Self(Rc::clone(front))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let left = self.0.streams.get() - 1;
        self.0.streams.set(left);
        self.0.ended.set(self.0.ended.get() + 1);
        if left == 0 {
            self.0.rests();
        }
        if left == 0 || self.0.is_abused() {
            self.0.client().wake();
        }
    }
}

/// What a stream is written with.
type SendStream = h2::SendStream<Bytes>;
type SendResponse = h2::server::SendResponse<Bytes>;
