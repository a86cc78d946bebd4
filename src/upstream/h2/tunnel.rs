//! A stream that has left HTTP behind (RFC 8441): bytes both ways.

use super::link::Slot;
use ::h2::{Reason, RecvStream, SendStream};
use bytes::{Buf, Bytes};
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Its two directions, each of which ends by itself. Dropped before both have, the stream is reset.
#[derive(Debug)]
pub(in crate::upstream) struct Tunnel {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// Came and was not taken yet.
    input: Bytes,
    finished: bool,
    _slot: Slot,
}

impl Tunnel {
    pub fn new(send: SendStream<Bytes>, recv: RecvStream, slot: Slot) -> Self {
        Self { send, recv, input: Bytes::new(), finished: false, _slot: slot }
    }
}

fn broken(error: ::h2::Error) -> io::Error {
    if error.is_io() {
        error.into_io().unwrap_or_else(|| ErrorKind::BrokenPipe.into())
    } else {
        io::Error::new(ErrorKind::ConnectionReset, error)
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.input.is_empty() {
            match ready!(this.recv.poll_data(cx)) {
                Some(Ok(bytes)) => this.input = bytes,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = this.input.len().min(buf.remaining());
        buf.put_slice(this.input.get(..count).unwrap_or_default());
        this.input.advance(count);
        // The instance may send as much again.
        this.recv.flow_control().release_capacity(count).map_err(broken)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.send.reserve_capacity(buf.len());
        while this.send.capacity() == 0 {
            match ready!(this.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(ErrorKind::BrokenPipe.into())),
            }
        }
        let count = this.send.capacity().min(buf.len());
        let part = Bytes::copy_from_slice(buf.get(..count).unwrap_or_default());
        Poll::Ready(this.send.send_data(part, false).map(|()| count).map_err(broken))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.finished, true) {
            self.send.send_data(Bytes::new(), true).map_err(broken)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if !self.finished {
            self.send.send_reset(Reason::CANCEL);
        }
    }
}
