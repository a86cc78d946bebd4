//! A request body that is streamed, and kept up to a limit so that it can be sent again.

use super::client::Client;
use super::http2::StreamBody;
use crate::upstream::Framing;
use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// How long an instance may stay silent on `Expect: 100-continue` before the body is sent anyway
/// (RFC 9110, section 10.1.1 forbids to wait for ever; one second is what curl waits).
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// Frames below this many bytes are kept joined: a client may send its body byte by byte.
const BLOCK: usize = 8 * 1024;

/// Bytes of bodies that are kept, taken from what all requests share; given back on drop.
#[derive(Debug)]
pub(super) struct Charge {
    shared: Arc<AtomicUsize>,
    size: usize,
}

/// Who waits for a body to be whole: it gets a copy.
type Wanted = Box<dyn FnOnce(Bytes, Charge)>;

/// The client's body, shared by all attempts of one request. `None` inside: there is no body.
#[derive(Debug)]
pub(super) struct Upload(Option<Rc<RefCell<Source>>>);

/// A request's body as it comes from the client.
#[derive(Debug)]
pub(super) enum Inflow {
    /// By hyper, on a connection that carries one request at a time; and which of them it is.
    Alone(Incoming, Arc<Client>, u32),
    /// On one of many streams.
    Stream(Box<StreamBody>),
}

struct Source {
    incoming: Inflow,
    /// Whose turn it is: an abandoned attempt must not take bytes from its successor.
    attempt: u32,
    kept: Vec<Kept>,
    /// Bytes of the body in it.
    kept_bytes: usize,
    /// What it costs: those bytes and what holds them.
    charged: usize,
    /// More came than is kept.
    overflowed: bool,
    limit: usize,
    /// Bytes that all requests of the process may still keep.
    shared: Arc<AtomicUsize>,
    ended: bool,
    progress: Instant,
    /// The current attempt has asked for more and the client had nothing.
    starved: bool,
    /// The body will never be whole: who asks again must not take the silence after it for its end.
    failed: bool,
    /// The client went away before the end.
    broke_off: bool,
    /// The attempt that waits for the client.
    waiting: Option<Waker>,
    /// What holds the current attempt back.
    gate: Option<Arc<Gate>>,
    wanted: Option<Wanted>,
}

/// Part of a body, copied: what comes in would pin the whole of a read buffer.
#[derive(Debug)]
enum Kept {
    Data(Vec<u8>),
    Trailers(Box<http::HeaderMap>),
}

/// One attempt's view of the body.
#[derive(Debug)]
pub(super) struct RequestBody(Option<Play>);

#[derive(Debug)]
struct Play {
    source: Rc<RefCell<Source>>,
    attempt: u32,
    /// Kept parts sent so far.
    at: usize,
    gate: Option<(Arc<Gate>, Pin<Box<Sleep>>)>,
}

/// Holds a body back until the instance says `100 Continue`. The lock is held for a moment only.
#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<Barrier>);

#[derive(Debug, Default)]
struct Barrier {
    state: State,
    /// The attempt that waits.
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Shut,
    Open,
    /// The final answer is here, and the body is not wanted any more.
    Held,
    /// That answer is complete.
    Refused,
}

/// A body that the instance does not want; dropped with the end of the answer, it ends the instance's connection,
/// which waits for a body that will not come.
#[derive(Debug)]
pub(super) struct Refusal(Arc<Gate>);

#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error("the client's body broke off: {0}")]
    Client(#[from] hyper::Error),
    #[error("the client's body broke off")]
    Failed,
    #[error("the client's stream broke off: {0}")]
    Stream(#[from] h2::Error),
    #[error("another attempt has taken over")]
    Superseded,
    #[error("the instance answered without the body")]
    Unwanted,
}

impl Gate {
    pub fn open(&self) {
        self.turn(State::Shut, State::Open);
    }

    /// `false` if it was in another state.
    fn turn(&self, from: State, to: State) -> bool {
        let mut barrier = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let turned = barrier.state == from;
        if turned {
            barrier.state = to;
            if let Some(waker) = barrier.waker.take() {
                waker.wake();
            }
        }
        turned
    }

    fn state(&self, cx: &Context<'_>) -> State {
        let mut barrier = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        barrier.waker = Some(cx.waker().clone());
        barrier.state
    }
}

impl Drop for Refusal {
    fn drop(&mut self) {
        self.0.turn(State::Held, State::Refused);
    }
}

impl Inflow {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Alone(body, ..) => body.is_end_stream(),
            Self::Stream(body) => body.is_over(),
        }
    }

    /// Its whole length, if that is known.
    fn length(&self) -> Option<u64> {
        match self {
            Self::Alone(body, ..) => body.size_hint().exact(),
            Self::Stream(body) => body.length(),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match self {
            Self::Alone(body, ..) => Pin::new(body).poll_frame(cx).map_err(UploadError::Client),
            Self::Stream(body) => body.poll_frame(cx).map_err(UploadError::Stream),
        }
    }

    /// Whether more of it is to come.
    fn set_uploading(&self, uploading: bool) {
        match self {
            Self::Alone(_, client, request) => client.set_uploading(*request, uploading),
            Self::Stream(body) => body.set_uploading(uploading),
        }
    }

    /// The rest of it will not be read.
    fn leave_unread(&self) {
        match self {
            Self::Alone(_, client, request) => client.leave_unread(*request),
            Self::Stream(body) => body.set_uploading(false),
        }
    }
}

impl Upload {
    /// There is no body.
    pub fn none() -> Self {
        Self(None)
    }

    /// Keeps up to `limit` bytes, as long as `shared` lasts.
    pub fn new(incoming: Inflow, limit: usize, shared: &Arc<AtomicUsize>) -> Self {
        Self(Some(Rc::new(RefCell::new(Source {
            incoming,
            attempt: 0,
            kept: Vec::new(),
            kept_bytes: 0,
            charged: 0,
            overflowed: false,
            limit,
            shared: Arc::clone(shared),
            ended: false,
            progress: Instant::now(),
            starved: false,
            failed: false,
            broke_off: false,
            waiting: None,
            gate: None,
            wanted: None,
        }))))
    }

    /// The body from its beginning, for one more attempt; earlier ones end here.
    pub fn play(&self, gate: Option<Arc<Gate>>) -> RequestBody {
        RequestBody(self.0.as_ref().map(|source| {
            let attempt = {
                let mut source = source.borrow_mut();
                source.attempt += 1;
                source.starved = false;
                source.gate.clone_from(&gate);
                if let Some(waker) = source.waiting.take() {
                    waker.wake();
                }
                source.attempt
            };
            let gate = gate.map(|gate| (gate, Box::pin(tokio::time::sleep(CONTINUE_WAIT))));
            Play { source: Rc::clone(source), attempt, at: 0, gate }
        }))
    }

    /// How its end is told to an instance.
    pub fn framing(&self, chunked: bool) -> Framing {
        match &self.0 {
            None => Framing::Empty,
            Some(source) if !chunked => {
                source.borrow().incoming.length().map_or(Framing::Chunked, Framing::Length)
            }
            Some(_) => Framing::Chunked,
        }
    }

    /// The instance has answered: if it never asked for the body that is held back, it will not get it.
    pub fn refused(&self) -> Option<Refusal> {
        let gate = self.0.as_ref()?.borrow().gate.clone()?;
        gate.turn(State::Shut, State::Held).then(|| Refusal(gate))
    }

    /// It can be sent again from its beginning.
    pub fn is_replayable(&self) -> bool {
        self.0.as_ref().is_none_or(|source| {
            let source = source.borrow();
            !source.overflowed && !source.failed
        })
    }

    /// Since when nothing more is awaited from the client: `now` while it is the client that we wait for. `None` if
    /// there is no body.
    pub fn handed_over(&self, now: Instant) -> Option<Instant> {
        let source = self.0.as_ref()?.borrow();
        Some(if source.starved { now } else { source.progress })
    }

    /// Since when we wait for the client, if we do.
    pub fn starved(&self) -> Option<Instant> {
        let source = self.0.as_ref()?.borrow();
        source.starved.then_some(source.progress)
    }

    /// Hands `wanted` a copy of all of it but trailers once its end is here: now, if there is none. Never, if it is not
    /// kept as a whole, or if that copy were more than all requests together may keep.
    pub fn when_whole(&self, wanted: impl FnOnce(Bytes, Charge) + 'static) {
        match &self.0 {
            None => wanted(Bytes::new(), Charge { shared: Arc::default(), size: 0 }),
            Some(source) => source.borrow_mut().wanted = Some(Box::new(wanted)),
        }
    }

    /// The client went away before the end.
    pub fn broke_off(&self) -> bool {
        self.0.as_ref().is_some_and(|source| source.borrow().broke_off)
    }
}

impl Source {
    /// Boundaries between frames are not kept: they mean nothing (RFC 9112, section 7.1).
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if self.overflowed {
            return;
        }
        if let Some(data) = frame.data_ref() {
            let joins =
                matches!(self.kept.last(), Some(Kept::Data(last)) if last.len() + data.len() <= BLOCK);
            let around = if joins { 0 } else { size_of::<Kept>() };
            if self.kept_bytes + data.len() > self.limit || !self.charge(data.len() + around) {
                return self.overflow();
            }
            self.kept_bytes += data.len();
            match self.kept.last_mut() {
                Some(Kept::Data(last)) if joins => last.extend_from_slice(data),
                _ => self.kept.push(Kept::Data(data.to_vec())),
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            let text: usize = trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
            let slots = trailers.capacity() * size_of::<(http::HeaderName, http::HeaderValue)>();
            if !self.charge(text + slots + size_of::<Kept>() + size_of::<http::HeaderMap>()) {
                return self.overflow();
            }
            self.kept.push(Kept::Trailers(Box::new(trailers.clone())));
        }
    }

    /// Takes so much from what all requests share; `false` if there is not enough.
    fn charge(&mut self, size: usize) -> bool {
        let taken = take(&self.shared, size);
        if taken {
            self.charged += size;
        }
        taken
    }

    /// The end is here.
    fn is_whole(&mut self) {
        let Some(wanted) = self.wanted.take() else { return };
        let size = self.kept_bytes;
        if self.overflowed || !take(&self.shared, size) {
            return;
        }
        let charge = Charge { shared: Arc::clone(&self.shared), size };
        let data = self.kept.iter().filter_map(|kept| match kept {
            Kept::Data(data) => Some(&**data),
            Kept::Trailers(_) => None,
        });
        wanted(data.collect::<Vec<_>>().concat().into(), charge);
    }

    fn overflow(&mut self) {
        self.overflowed = true;
        self.wanted = None;
        self.let_go();
    }

    fn let_go(&mut self) {
        self.kept = Vec::new();
        self.shared.fetch_add(std::mem::take(&mut self.charged), Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { attempt, kept_bytes, ended, .. } = self;
        let mut shown = f.debug_struct("Source");
        shown.field("attempt", attempt).field("kept_bytes", kept_bytes).field("ended", ended).finish()
    }
}

fn take(shared: &AtomicUsize, size: usize) -> bool {
    shared.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(size)).is_ok()
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shared.fetch_add(self.size, Ordering::Relaxed);
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.let_go();
        if !self.ended {
            self.incoming.leave_unread();
        }
    }
}

/// The client's side ended, and not our patience with what came from it.
fn is_end(error: &UploadError) -> bool {
    match error {
        UploadError::Client(error) => is_end_of_connection(error),
        UploadError::Stream(error) => error.is_remote() || error.is_io(),
        UploadError::Failed | UploadError::Superseded | UploadError::Unwanted => false,
    }
}

fn is_end_of_connection(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return !matches!(io.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData);
        }
        source = cause.source();
    }
    error.is_incomplete_message() || error.is_closed()
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let Some(play) = &mut self.0 else { return Poll::Ready(None) };
        if let Some((gate, patience)) = &mut play.gate {
            match gate.state(cx) {
                State::Open => {}
                State::Shut => {
                    ready!(patience.as_mut().poll(cx));
                    gate.open();
                }
                State::Held => return Poll::Pending,
                State::Refused => return Poll::Ready(Some(Err(UploadError::Unwanted))),
            }
            play.gate = None;
        }
        let mut source = play.source.borrow_mut();
        if source.attempt != play.attempt {
            return Poll::Ready(Some(Err(UploadError::Superseded)));
        }
        if let Some(kept) = source.kept.get(play.at) {
            play.at += 1;
            return Poll::Ready(Some(Ok(match kept {
                Kept::Data(data) => Frame::data(Bytes::copy_from_slice(data)),
                Kept::Trailers(trailers) => Frame::trailers((**trailers).clone()),
            })));
        }
        if source.ended {
            return Poll::Ready(None);
        }
        if source.failed {
            return Poll::Ready(Some(Err(UploadError::Failed)));
        }
        let frame = source.incoming.poll_frame(cx);
        source.starved = frame.is_pending();
        if source.starved {
            source.waiting = Some(cx.waker().clone());
        }
        let frame = ready!(frame).transpose().inspect_err(|error| {
            source.failed = true;
            source.broke_off = is_end(error);
        })?;
        source.progress = Instant::now();
        if let Some(frame) = &frame {
            source.keep(frame);
            // It may have joined what this attempt has sent before; and what was let go has been sent too.
            play.at = source.kept.len().max(1);
        }
        // Nothing follows the trailers.
        source.ended = frame.as_ref().is_none_or(Frame::is_trailers) || source.incoming.is_end_stream();
        source.incoming.set_uploading(!source.ended);
        if source.ended {
            source.is_whole();
        }
        Poll::Ready(frame.map(Ok))
    }
}
