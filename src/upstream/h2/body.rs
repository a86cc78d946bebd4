//! A response body on a stream, taken no faster than the client takes it.

use super::link::Slot;
use crate::upstream::BrokenBody;
use ::h2::RecvStream;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::AbortHandle;

/// How long the formal end of a body is waited for that has all its bytes.
const MOMENT: Duration = Duration::from_secs(1);

/// The body of a response. Dropped before its end, it resets the stream, so that the instance stops.
#[derive(Debug)]
pub(in crate::upstream) struct Incoming {
    recv: Option<RecvStream>,
    /// Bytes that must still come, if the head said how many there are.
    left: Option<u64>,
    in_trailers: bool,
    /// What sends the request's body, which may go on after the response.
    upload: Option<AbortHandle>,
    slot: Option<Rc<Slot>>,
    /// Shared with the upload: it has come to its end.
    answered: Rc<Cell<bool>>,
}

impl Incoming {
    /// `length` is how long the body is, if that is known; nothing is expected after so many bytes.
    pub fn new(recv: RecvStream, length: Option<u64>, slot: Rc<Slot>) -> Self {
        let mut body = Self {
            recv: Some(recv),
            left: length,
            in_trailers: false,
            upload: None,
            slot: Some(slot),
            answered: Rc::default(),
        };
        body.finish_if_ended();
        body
    }

    /// Whether it has come to its end, as that changes.
    pub fn answered(&self) -> Rc<Cell<bool>> {
        Rc::clone(&self.answered)
    }

    /// Its end before its time ends the upload, too.
    pub fn with_upload(&mut self, upload: AbortHandle) {
        if self.recv.is_some() {
            self.upload = Some(upload);
        }
    }

    pub fn is_end_stream(&self) -> bool {
        self.left == Some(0) || self.recv.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    pub fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        loop {
            let Some(recv) = &mut self.recv else { return Poll::Ready(None) };
            if self.in_trailers {
                let trailers = ready!(recv.poll_trailers(cx));
                let short = self.left.is_some_and(|left| left > 0);
                self.finish();
                return Poll::Ready(match trailers {
                    Err(error) => Some(Err(error.into())),
                    Ok(_) if short => Some(Err(BrokenBody::Incomplete)),
                    Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
                });
            }
            match ready!(recv.poll_data(cx)) {
                None => self.in_trailers = true,
                Some(Err(error)) => {
                    self.give_up();
                    return Poll::Ready(Some(Err(error.into())));
                }
                Some(Ok(bytes)) => {
                    // Handed over is taken: whoever asks for a frame has room for it.
                    let _ = recv.flow_control().release_capacity(bytes.len());
                    if let Some(left) = &mut self.left {
                        *left = left.saturating_sub(bytes.len() as u64);
                        if *left == 0 {
                            // Mostly the stream's end came with the last byte, or is right behind it.
                            let _ = recv.poll_data(cx);
                        }
                    }
                    self.finish_if_ended();
                    if !bytes.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(bytes))));
                    }
                }
            }
        }
    }

    fn finish_if_ended(&mut self) {
        if self.recv.as_ref().is_some_and(RecvStream::is_end_stream) {
            self.finish();
        }
    }

    /// It has come to its end; an upload goes on.
    fn finish(&mut self) {
        self.answered.set(true);
        (self.recv, self.upload, self.slot) = (None, None, None);
        if self.left.is_some() {
            self.left = Some(0);
        }
    }

    /// It has not, and will not.
    fn give_up(&mut self) {
        if let Some(upload) = self.upload.take() {
            upload.abort();
        }
        (self.recv, self.slot) = (None, None);
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let Some(mut recv) = self.recv.take() else { return };
        match self.slot.take() {
            // A reset now would look as if nobody had wanted what is all there.
            Some(slot) if self.left == Some(0) => {
                let tasks = slot.link().tasks.clone();
                tasks.spawn("end of stream", async move {
                    let end = poll_fn(|cx| recv.poll_data(cx));
                    let _ = tokio::time::timeout(MOMENT, end).await;
                    drop(slot);
                });
            }
            _ => {
                drop(recv);
                self.give_up();
            }
        }
    }
}
