//! What the attempts, the body and the answer of one stream's request share.

use super::{SendResponse, SendStream};
use crate::proxy::headers;
use crate::upstream::Head;
use http::{HeaderMap, Response, StatusCode};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::task::{Context, Poll};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Bytes of interim responses that a client gets for one request; further ones are dropped. Their flow is not controlled,
/// and nobody may count on them (RFC 9110, section 15.2).
const INTERIM_BYTES: usize = 64 << 10;

/// One stream.
pub(in crate::proxy) struct Stream {
    respond: RefCell<SendResponse>,
    /// When a part of either body moved.
    moved: Cell<Instant>,
    /// The request's body is on its way.
    uploading: Cell<bool>,
    /// It is not any more.
    pub(super) uploaded: Notify,
    /// Bytes of interim responses so far.
    interim: Cell<usize>,
    /// When a gRPC call is over, whatever has come of its answer.
    deadline: Cell<Option<Instant>>,
    /// The answer has begun: nothing comes before it any more.
    answered: Cell<bool>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("moved", &self.moved).field("uploading", &self.uploading).finish()
    }
}

impl Stream {
    pub(super) fn new(respond: SendResponse, now: Instant) -> Self {
        Self {
            respond: RefCell::new(respond),
            moved: Cell::new(now),
            uploading: Cell::new(false),
            uploaded: Notify::new(),
            interim: Cell::new(0),
            deadline: Cell::new(None),
            answered: Cell::new(false),
        }
    }

    /// Passes an instance's interim response on.
    pub fn inform(&self, head: &Head) {
        let bytes = self.interim.get() + head.fields.size();
        if bytes <= INTERIM_BYTES {
            self.interim.set(bytes);
            self.send_interim(head.status, headers::interim_to_stream(&head.fields));
        }
    }

    /// The request's body is wanted (RFC 9110, section 10.1.1).
    pub(super) fn ask_for_body(&self) {
        self.send_interim(StatusCode::CONTINUE, HeaderMap::new());
    }

    fn send_interim(&self, status: StatusCode, headers: HeaderMap) {
        if self.answered.get() {
            return;
        }
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        // A stream that is over needs none.
        let _ = self.respond.borrow_mut().send_informational(response);
    }

    /// Sends the head of the answer; `end` says that it is all.
    pub(super) fn respond(&self, head: Response<()>, end: bool) -> Result<SendStream, h2::Error> {
        self.answered.set(true);
        self.respond.borrow_mut().send_response(head, end)
    }

    /// The client has given the stream up, or the connection is over; to be asked before the answer has begun.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.respond.borrow_mut().poll_reset(cx).map(|_| ())
    }

    pub(super) fn ends_by(&self, deadline: Option<Instant>) {
        self.deadline.set(deadline);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline.get()
    }

    pub(super) fn moves(&self) {
        self.moved.set(Instant::now());
    }

    pub(super) fn moved(&self) -> Instant {
        self.moved.get()
    }

    pub(super) fn set_uploading(&self, uploading: bool) {
        if self.uploading.replace(uploading) && !uploading {
            self.uploaded.notify_one();
        }
    }

    pub(super) fn is_uploading(&self) -> bool {
        self.uploading.get()
    }
}
