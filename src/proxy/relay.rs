//! A response on its way to the client, and the account of its request.

use super::client::Client;
use super::grpc;
use super::http2::Stream;
use super::route::Way;
use super::upload::Refusal;
use super::worker::Worker;
use crate::cluster::{Booth, Ticket};
use crate::model::Outcome;
use crate::upstream::{BrokenBody, UpstreamBody};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::{Instant, Sleep, sleep_until};

/// One request's account; closed when it is dropped, with the last byte of the response.
#[derive(Debug)]
pub(super) struct Exchange {
    pub worker: Rc<Worker>,
    pub cluster: Rc<Booth>,
    pub way: Way,
    pub client: Arc<Client>,
    /// One of many on its connection; `None` if it has the connection for itself.
    pub stream: Option<Rc<Stream>>,
    pub started: Instant,
    /// When the answer's head came, and in which turn of the client's task.
    answered: Cell<Option<(u32, Instant)>>,
    /// The answer's status; 499 until there is one.
    pub code: u16,
    /// The client went away amid its upload: the answer reaches nobody.
    pub unheard: Cell<bool>,
}

impl Exchange {
    /// What is counted when the client went away before there was an answer.
    const CLIENT_WENT_AWAY: u16 = 499;

    pub fn open(
        worker: Rc<Worker>,
        (cluster, way): (Rc<Booth>, Way),
        client: Arc<Client>,
        now: Instant,
    ) -> Self {
        client.begin();
        Self::new(worker, (cluster, way), client, None, now)
    }

    /// One that shares its connection with others.
    pub fn on_stream(
        worker: Rc<Worker>,
        led: (Rc<Booth>, Way),
        client: Arc<Client>,
        stream: Rc<Stream>,
        now: Instant,
    ) -> Self {
        Self::new(worker, led, client, Some(stream), now)
    }

    fn new(
        worker: Rc<Worker>,
        (cluster, way): (Rc<Booth>, Way),
        client: Arc<Client>,
        stream: Option<Rc<Stream>>,
        now: Instant,
    ) -> Self {
        Self {
            worker,
            cluster,
            way,
            client,
            stream,
            started: now,
            answered: Cell::new(None),
            code: Self::CLIENT_WENT_AWAY,
            unheard: Cell::new(false),
        }
    }
}

impl Exchange {
    /// The head of an answer is here.
    pub fn saw_head(&self, now: Instant) {
        self.answered.set(Some((self.client.turn(), now)));
    }

    /// Now. An answer that came in one piece ends in the turn in which it began: a second look at the clock would cost
    /// more than what happened since.
    fn end(&self) -> Instant {
        match self.answered.get() {
            Some((turn, now)) if self.stream.is_none() && turn == self.client.turn() => now,
            _ => Instant::now(),
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let now = self.end();
        let took = now.saturating_duration_since(self.started);
        self.cluster.tally(self.worker.index).request(self.code, took);
        tracing::debug!(service = %self.cluster.name(), code = self.code, ?took, peer = %self.client.peer, "request");
        if self.stream.is_none() {
            self.client.end(now);
        }
    }
}

/// The body of a response to the client.
#[derive(Debug)]
pub(super) struct ResponseBody {
    content: Content,
    /// Dropped with the body.
    exchange: Option<Exchange>,
}

#[derive(Debug)]
enum Content {
    Full(Option<Bytes>),
    Relay(Box<Relay>),
}

/// An instance's body, and the ticket that lives until its last byte.
#[derive(Debug)]
struct Relay {
    body: UpstreamBody,
    ticket: Option<Ticket>,
    /// What a complete answer counts as.
    outcome: Outcome,
    client: Arc<Client>,
    /// The instance was asked for more and had nothing.
    starved: bool,
    /// The deadline of a call that has its connection for itself.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Dropped with the last byte.
    _refusal: Option<Refusal>,
}

impl ResponseBody {
    pub fn empty() -> Self {
        Self { content: Content::Full(None), exchange: None }
    }

    pub fn full(text: String) -> Self {
        Self { content: Content::Full(Some(text.into())), exchange: None }
    }

    /// `outcome` is what the attempt was once its last byte has come.
    pub fn relay(
        body: UpstreamBody,
        ticket: Ticket,
        outcome: Outcome,
        client: &Arc<Client>,
        refusal: Option<Refusal>,
    ) -> Self {
        let client = Arc::clone(client);
        let ticket = Some(ticket);
        let relay =
            Relay { body, ticket, outcome, client, starved: false, deadline: None, _refusal: refusal };
        Self { content: Content::Relay(Box::new(relay)), exchange: None }
    }

    /// Has it break off then: HTTP/1.1 has no other end for what is not whole.
    pub fn ends_by(&mut self, deadline: Instant) {
        if let Content::Relay(relay) = &mut self.content {
            relay.deadline = Some(Box::pin(sleep_until(deadline)));
        }
    }

    /// The client has not taken it in time, or the instance has not sent it: the attempt is told, and no more of it comes.
    pub fn time_out(&mut self) {
        if let Content::Relay(relay) = &mut self.content {
            let outcome = if relay.starved { Outcome::Timeout } else { Outcome::Abandoned };
            relay.finish(outcome);
        }
    }

    /// Closes the account when the body is gone.
    pub fn closing(mut self, exchange: Exchange) -> Self {
        self.exchange = Some(exchange);
        self
    }
}

impl Relay {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        if self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            // It did what it was asked to until then.
            self.finish(Outcome::Abandoned);
            return Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::TimedOut).into())));
        }
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.starved = frame.is_pending();
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(failure) = frame.trailers_ref().and_then(grpc::failed_at_last)
        {
            self.outcome = failure;
        }
        let ended = match &frame {
            Poll::Pending => return frame,
            Poll::Ready(Some(Ok(_))) if !self.body.is_end_stream() => return frame,
            Poll::Ready(Some(Ok(_)) | None) => self.outcome,
            Poll::Ready(Some(Err(_))) => Outcome::Reset,
        };
        self.finish(ended);
        frame
    }

    fn finish(&mut self, outcome: Outcome) {
        if let Some(ticket) = self.ticket.take() {
            ticket.finish(outcome);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Hyper drops a body that is known to be empty without asking for it.
        let outcome = match () {
            () if self.body.is_end_stream() => self.outcome,
            () if self.starved && self.client.is_aborted() => Outcome::Timeout,
            () => Outcome::Abandoned,
        };
        self.finish(outcome);
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        match &mut self.content {
            Content::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Relay(relay) => relay.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Full(bytes) => bytes.is_none(),
            Content::Relay(relay) => relay.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Content::Relay(relay) => relay.body.size_hint(),
        }
    }
}
