//! Remembers how a connection began: what is no HTTP/2 may be something that has a name.

use crate::net::tls::TlsFailure;
use crate::upstream::socket::Socket;
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// So many bytes tell what it is.
const ENOUGH: usize = 5;

/// What came first, and why TLS ended the connection, if it did.
#[derive(Debug, Default)]
pub(super) struct Seen {
    first: Vec<u8>,
    /// How often something came.
    pub reads: u64,
    pub refused: Option<TlsFailure>,
}

impl Seen {
    /// What the instance speaks instead of HTTP/2, if it can be told.
    pub fn other(&self) -> Option<&'static str> {
        match &self.first[..] {
            [21 | 22, 3, ..] => {
                Some("the instance speaks TLS, and the service is not set to: give tls = true")
            }
            first if first.starts_with(b"HTTP/") => Some("the instance speaks HTTP/1.1 and not HTTP/2"),
            _ => None,
        }
    }
}

/// A socket that is listened in on.
#[derive(Debug)]
pub(super) struct Sniffed {
    pub socket: Socket,
    pub seen: Rc<RefCell<Seen>>,
}

impl AsyncRead for Sniffed {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.socket).poll_read(cx, buf);
        match &read {
            Poll::Ready(Ok(())) => {
                let mut seen = this.seen.borrow_mut();
                seen.reads += 1;
                if seen.first.len() < ENOUGH {
                    let new = buf.filled().get(before..).unwrap_or_default();
                    seen.first.extend(new.iter().take(ENOUGH));
                }
            }
            Poll::Ready(Err(error)) => this.seen.borrow_mut().refused = TlsFailure::of_stream(error),
            Poll::Pending => {}
        }
        read
    }
}

impl AsyncWrite for Sniffed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
