//! The body of a request on a stream.

use super::Stream;
use bytes::Bytes;
use h2::RecvStream;
use http_body::Frame;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// Its parts as they come. The client may send more only when the instance has taken what came before: whoever asks for
/// the next part is done with the last one.
#[derive(Debug)]
pub(in crate::proxy) struct StreamBody {
    recv: RecvStream,
    stream: Rc<Stream>,
    length: Option<u64>,
    /// Bytes that were handed out last.
    taken: usize,
    /// The client waits to be asked for it.
    waits: bool,
}

impl StreamBody {
    /// `length` is the whole body's, if the head told it; `waits` says that the client waits for `100 Continue`.
    pub(super) fn new(recv: RecvStream, stream: &Rc<Stream>, length: Option<u64>, waits: bool) -> Self {
        stream.set_uploading(true);
        Self { recv, stream: Rc::clone(stream), length, taken: 0, waits }
    }

    pub fn length(&self) -> Option<u64> {
        self.length
    }

    pub fn is_over(&self) -> bool {
        self.recv.is_end_stream()
    }

    pub fn set_uploading(&self, uploading: bool) {
        self.stream.set_uploading(uploading);
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if std::mem::take(&mut self.waits) && !self.is_over() {
            self.stream.ask_for_body();
        }
        release(&mut self.recv, std::mem::take(&mut self.taken));
        Poll::Ready(match ready!(self.recv.poll_data(cx)) {
            Some(Ok(data)) => {
                self.stream.moves();
                self.taken = data.len();
                if self.is_over() {
                    // It is about the other streams alone.
                    release(&mut self.recv, std::mem::take(&mut self.taken));
                }
                Some(Ok(Frame::data(data)))
            }
            Some(Err(error)) => Some(Err(error)),
            None => match ready!(self.recv.poll_trailers(cx)) {
                Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
                Err(error) => Some(Err(error)),
            },
        })
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        // The stream may live on, and what it owes the connection with it.
        release(&mut self.recv, self.taken);
    }
}

/// Lets the client send so much more.
pub(super) fn release(recv: &mut RecvStream, bytes: usize) {
    if bytes > 0 {
        // It fails for a stream that is over, and then it does not matter.
        let _ = recv.flow_control().release_capacity(bytes);
    }
}
