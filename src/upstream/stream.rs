//! The socket to an instance as hyper sees it: what the instance said before it hung up is still heard.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A server that refuses an upload answers and closes while the upload is still coming, and its system resets the
/// connection for the bytes that nobody read (RFC 9112, section 9.6). Hyper would drop the answer at the failing
/// write; here the failure waits until everything that came was read.
#[derive(Debug)]
pub(super) struct Stream {
    socket: TcpStream,
    /// A write failed; more bytes lead nowhere.
    broken: bool,
    /// The last byte was read.
    ended: bool,
    heard: Heard,
}

/// Whether any byte has come since the last request went out; shared with the connection's user.
///
/// Both run on one thread; it is an atomic because hyper wants a socket that could be sent to another.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard(Arc<AtomicBool>);

impl Heard {
    pub fn forget(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Stream {
    pub fn new(socket: TcpStream) -> Self {
        Self { socket, broken: false, ended: false, heard: Heard::default() }
    }

    pub fn heard(&self) -> Heard {
        self.heard.clone()
    }

    /// The outcome of a write of `length` bytes that the socket answered with `written`.
    fn outcome(&mut self, written: io::Result<usize>, length: usize) -> io::Result<usize> {
        if written.is_err() && !self.ended {
            self.broken = true;
            return Ok(length);
        }
        written
    }

    /// What a write of `length` bytes comes to without the socket being asked.
    fn without_socket(&self, length: usize) -> Option<io::Result<usize>> {
        match (self.broken, self.ended) {
            (false, _) => None,
            (true, false) => Some(Ok(length)),
            (true, true) => Some(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.socket).poll_read(cx, buf));
        if buf.filled().len() > before {
            self.heard.0.store(true, Ordering::Relaxed);
        }
        self.ended |= read.is_err() || buf.filled().len() == before;
        Poll::Ready(read)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(known) = self.without_socket(buf.len()) {
            return Poll::Ready(known);
        }
        let written = ready!(Pin::new(&mut self.socket).poll_write(cx, buf));
        Poll::Ready(self.outcome(written, buf.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|buf| buf.len()).sum();
        if let Some(known) = self.without_socket(length) {
            return Poll::Ready(known);
        }
        let written = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, bufs));
        Poll::Ready(self.outcome(written, length))
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

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockRef;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn an_answer_before_a_reset_is_read_after_a_write_has_failed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = Stream::new(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        let (mut peer, _) = listener.accept().await.unwrap();
        peer.write_all(b"too large").await.unwrap();
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        // The reset is here once the socket itself refuses.
        while !stream.broken {
            stream.write_all(b"more").await.unwrap();
        }
        stream.write_all(b"and more").await.unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"too large");
        let error = stream.write_all(b"in vain").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
