//! The application's socket as hyper sees it: watched, overtaken by interim responses, and closed with care.

use super::client::{Client, Phase};
use super::error::Fault;
use super::transport::Transport;
use bytes::{Buf, Bytes};
use http::Method;
use memchr::memchr;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// The socket as hyper sees it.
#[derive(Debug)]
pub(super) struct ClientIo {
    stream: Transport,
    client: Arc<Client>,
    /// Read before and not asked for yet.
    ahead: Bytes,
    /// Taken from `early` and not written yet.
    overtaking: Vec<u8>,
    /// Hyper's own answer to a request that it could not read was replaced by ours.
    refused: bool,
}

impl ClientIo {
    /// `ahead` was read from the stream already.
    pub fn new(stream: Transport, ahead: Bytes, client: &Arc<Client>) -> Self {
        let client = Arc::clone(client);
        Self { stream, client, ahead, overtaking: Vec::new(), refused: false }
    }

    /// Takes back what hyper has read and found no request in.
    pub fn put_back(&mut self, mut read: Bytes) {
        if !self.ahead.is_empty() {
            read = [read, std::mem::take(&mut self.ahead)].concat().into();
        }
        // Empty lines before a request are no part of it (RFC 9112, section 2.2).
        let blank = read.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        read.advance(blank);
        self.ahead = read;
    }

    /// The bare socket of a connection that is between two requests; itself if the next one has begun.
    pub fn into_resting(self) -> Result<Transport, Self> {
        // Its room is for those that are awake; and what comes back from `ahead` is heard again.
        drop(self.client.take_heard());
        if self.ahead.is_empty() { Ok(self.stream) } else { Err(self) }
    }

    /// The process stops and no request is here.
    fn is_over(&self) -> bool {
        self.client.is_stopping() && self.client.phase() == Phase::Idle && !self.stream.has_unread()
    }

    fn write_overtaking(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.overtaking.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.overtaking))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.client.moved.store(true, Ordering::Relaxed);
            self.overtaking.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    /// Hyper writes without a request being answered only to refuse one: say it in our words.
    fn replace_refusal(&mut self, bytes: &[u8]) -> bool {
        if self.refused {
            return true;
        }
        if !matches!(self.client.phase(), Phase::Idle | Phase::Head) {
            return false;
        }
        self.refused = true;
        self.client.leave_unread(self.client.request());
        let fault = match bytes.get(..12) {
            Some(b"HTTP/1.1 431") => Fault::HeadTooLarge,
            Some(b"HTTP/1.1 414") => Fault::TargetTooLong,
            _ if is_of_another_version(&self.client.take_heard()) => Fault::Version,
            _ => Fault::Malformed,
        };
        let now = Instant::now();
        self.client.count_refusal(fault.status().as_u16(), now);
        self.client.enter(Phase::Answering, now);
        self.overtaking = fault.raw(self.client.cluster.name().as_str());
        true
    }

    /// Takes over a head from hyper that lacks the fields that are written as they came; `false` if none is due.
    fn complete_head(&mut self, hyper: &[u8]) -> bool {
        let Some(spelled) = self.client.take_spelled() else { return false };
        self.overtaking.clear();
        spelled.complete(hyper, &mut self.overtaking);
        true
    }

    /// Writes the head that was taken over, and in the same call the buffers after it; `taken` bytes of hyper's are
    /// done with even if the socket is full.
    fn write_head(
        &mut self,
        cx: &mut Context<'_>,
        taken: usize,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut parts = [IoSlice::new(&[]); 8];
        let after = bufs.iter().filter(|buf| !buf.is_empty()).skip(1).map(|buf| &**buf);
        let whole = std::iter::once(&*self.overtaking).chain(after);
        parts.iter_mut().zip(whole).for_each(|(part, bytes)| *part = IoSlice::new(bytes));
        let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write_vectored(cx, &parts)? else {
            return Poll::Ready(Ok(taken));
        };
        self.client.moved.store(true, Ordering::Relaxed);
        let of_head = written.min(self.overtaking.len());
        self.overtaking.drain(..of_head);
        Poll::Ready(Ok(taken + written - of_head))
    }

    /// Reads and forgets what the client still sends: a socket that is closed with unread bytes resets the
    /// connection, and the client may lose the answer (RFC 9112, section 9.6).
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut scratch = [MaybeUninit::uninit(); 4096];
        loop {
            let mut buf = ReadBuf::uninit(&mut scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// Whether a head that was refused begins with a whole request line whose only fault is its version: one digit, a dot
/// and another, and the first is not 1 (RFC 9112, section 2.3).
fn is_of_another_version(head: &[u8]) -> bool {
    let blank = head.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let line = head.get(blank..).unwrap_or_default();
    let Some(line) = memchr(b'\n', line).and_then(|end| line.get(..end)?.strip_suffix(b"\r")) else {
        return false;
    };
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let number = version.strip_prefix(b"HTTP/");
    let other = matches!(number, Some([major, b'.', minor])
        if major.is_ascii_digit() && *major != b'1' && minor.is_ascii_digit());
    let visible = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_graphic);
    other && visible(target) && Method::from_bytes(method).is_ok()
}

impl AsyncRead for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.client.is_expired() {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        if self.ahead.is_empty() {
            let read = Pin::new(&mut self.stream).poll_read(cx, buf);
            if read.is_pending() && self.is_over() {
                return Poll::Ready(Ok(()));
            }
            ready!(read)?;
        } else {
            let bytes = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead.split_to(bytes));
        }
        self.client.moved.store(true, Ordering::Relaxed);
        if let Some(bytes @ [_, ..]) = buf.filled().get(before..) {
            if let Err(why) = self.client.hear(bytes) {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
            }
            if self.client.phase() == Phase::Idle {
                self.client.enter_at_sweep(Phase::Head);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.replace_refusal(buf) {
            ready!(self.write_overtaking(cx))?;
            return Poll::Ready(Ok(buf.len()));
        }
        ready!(self.write_overtaking(cx))?;
        if self.complete_head(buf) {
            return self.write_head(cx, buf.len(), &[]);
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        self.client.moved.store(true, Ordering::Relaxed);
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs.iter().find(|b| !b.is_empty()).map_or(&[][..], |b| b);
        if self.replace_refusal(first) {
            ready!(self.write_overtaking(cx))?;
            return Poll::Ready(Ok(bufs.iter().map(|b| b.len()).sum()));
        }
        ready!(self.write_overtaking(cx))?;
        if self.complete_head(first) {
            return self.write_head(cx, first.len(), bufs);
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs));
        self.client.moved.store(true, Ordering::Relaxed);
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Hyper calls this exactly when it has nothing left to write: the only moment at which bytes may overtake.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_overtaking(cx))?;
        // Over TLS what was written may still be here.
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.client.flushed();
        match self.client.phase() {
            Phase::Ending if !self.client.is_uploading() => self.client.rest(),
            Phase::Busy if self.client.has_early() => {
                loop {
                    ready!(self.write_overtaking(cx))?;
                    // More may have come while the socket was full.
                    self.overtaking = self.client.take_early();
                    if self.overtaking.is_empty() {
                        break;
                    }
                }
                ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
                self.client.all_overtaken();
            }
            _ => {}
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let phase = self.client.phase();
        if phase != Phase::Lingering {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            if phase == Phase::Tunnel || !self.client.unread.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
            self.client.enter(Phase::Lingering, Instant::now());
        }
        self.poll_linger(cx)
    }
}
