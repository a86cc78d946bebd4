//! The socket to an instance and what was read from it: what the instance said before it hung up is still heard.

use super::socket::Socket;
use bytes::{Bytes, BytesMut};
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;

/// Most answers fit into one read of this many bytes ...
const SMALLEST_READ: usize = 16 << 10;
/// ... and long ones come in reads that grow up to this.
const LARGEST_READ: usize = 256 << 10;

/// A connection, shared by whoever reads the response and whoever still sends the request. All of them run on one
/// thread, and borrow it for one poll.
pub(super) type Line = Rc<RefCell<Wire>>;

/// A server that refuses an upload answers and closes while the upload is still coming, and its system resets the
/// connection for the bytes that nobody read (RFC 9112, section 9.6). A failed write therefore only ends the sending:
/// everything that came is read first.
#[derive(Debug)]
pub(super) struct Wire {
    socket: Socket,
    /// Read, and not yet understood.
    pub input: BytesMut,
    /// Size of the next read.
    room: usize,
    /// Why more bytes lead nowhere.
    broken: Option<io::Error>,
    /// We have ended it ourselves.
    cut: bool,
    /// Some byte has come since the last request went out.
    pub heard: bool,
    /// It has carried a request before.
    pub used: bool,
    /// Another request may follow the one that is being answered.
    pub keep: bool,
    /// A request body is still on its way although its response has begun ...
    pub sending: bool,
    /// ... and is over.
    pub returned: bool,
    /// Bytes that were sent.
    sent: u64,
    /// Since when no more of them were, and how many.
    still: Option<(Instant, u64)>,
}

impl Wire {
    pub fn new(socket: Socket) -> Self {
        Self {
            socket,
            input: BytesMut::new(),
            room: SMALLEST_READ,
            broken: None,
            cut: false,
            heard: false,
            used: false,
            keep: false,
            sending: false,
            returned: false,
            sent: 0,
            still: None,
        }
    }

    /// Reads what is there; 0 at the end.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.input.reserve(self.room);
        let count = ready!(poll_read_buf(Pin::new(&mut self.socket), cx, &mut self.input))?;
        if count == 0 && self.cut {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        self.heard |= count > 0;
        if count >= self.room {
            self.room = (self.room * 4).min(LARGEST_READ);
        }
        Poll::Ready(Ok(count))
    }

    /// Writes some of it.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, parts))?;
        self.sent += count as u64;
        Poll::Ready(Ok(count))
    }

    /// Ends it if its response is over and nothing more of its request could be sent for `patience`: nobody else looks
    /// after it any more.
    pub fn end_if_stuck(&mut self, now: Instant, patience: Duration) {
        match self.still {
            _ if !(self.sending && self.returned) => self.still = None,
            Some((since, sent)) if sent == self.sent => {
                if now.saturating_duration_since(since) >= patience {
                    self.cut();
                }
            }
            _ => self.still = Some((now, self.sent)),
        }
    }

    /// Waits until all of it is with the system.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    /// A write has failed.
    pub fn broke(&mut self, error: io::Error) {
        self.broken.get_or_insert(error);
    }

    /// Why nothing more could be sent, if so.
    pub fn take_break(&mut self) -> Option<io::Error> {
        self.broken.take()
    }

    /// Nothing more can be sent.
    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// The response was read to its end, and nothing came after it: another request may follow.
    pub fn is_clean(&self) -> bool {
        self.keep && self.input.is_empty() && !self.is_broken() && !self.cut
    }

    /// Nothing has come, and nobody has hung up. No system call unless the runtime knows that something has.
    pub fn is_quiet(&mut self) -> bool {
        self.socket.is_quiet()
    }

    /// Ends it for whoever reads or writes now: its end is an error.
    pub fn cut(&mut self) {
        self.cut = true;
        self.socket.cut();
    }

    /// Gives its buffer away while nobody uses it, and takes it for its next use.
    pub fn park(&mut self) -> Option<BytesMut> {
        self.used = true;
        let room = std::mem::replace(&mut self.room, SMALLEST_READ);
        let buffer = std::mem::take(&mut self.input);
        // A large one served one large answer.
        (room == SMALLEST_READ).then_some(buffer)
    }

    /// The bytes that were read, up to `most` of them.
    pub fn take_input(&mut self, most: u64) -> Bytes {
        let count = usize::try_from(most).unwrap_or(usize::MAX).min(self.input.len());
        self.input.split_to(count).freeze()
    }

    pub fn socket(&mut self) -> Pin<&mut Socket> {
        Pin::new(&mut self.socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockRef;
    use std::future::poll_fn;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (Wire, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let wire = Wire::new(Socket::Tcp(stream));
        (wire, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn an_answer_before_a_reset_is_read_after_a_write_has_failed() {
        let (mut wire, mut peer) = pair().await;
        peer.write_all(b"too large").await.unwrap();
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        // The reset is here once the socket itself refuses.
        while poll_fn(|cx| wire.poll_send(cx, &[IoSlice::new(b"more")])).await.is_ok() {
            tokio::task::yield_now().await;
        }
        let read = poll_fn(|cx| wire.poll_fill(cx)).await;
        assert_eq!((read.unwrap(), &wire.input[..]), (9, &b"too large"[..]));
    }

    #[tokio::test]
    async fn a_wire_on_which_something_came_or_ended_is_not_quiet() {
        for hang_up in [true, false] {
            let (mut wire, mut peer) = pair().await;
            assert!(wire.is_quiet());
            peer.write_all(if hang_up { b"" } else { b"?" }).await.unwrap();
            let _kept = (!hang_up).then_some(peer);
            while wire.is_quiet() {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn the_end_of_a_cut_wire_is_an_error() {
        let (mut wire, _peer) = pair().await;
        wire.cut();
        let read = poll_fn(|cx| wire.poll_fill(cx)).await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn what_is_left_of_a_request_after_its_answer_must_go_on() {
        let patience = Duration::from_secs(300);
        let (mut wire, _peer) = pair().await;
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        (wire.sending, wire.returned) = (true, false);
        for seconds in [0, 400] {
            wire.end_if_stuck(at(seconds), patience);
        }
        assert!(!wire.cut, "its response is still read");
        wire.returned = true;
        for seconds in [500, 799] {
            wire.end_if_stuck(at(seconds), patience);
        }
        poll_fn(|cx| wire.poll_send(cx, &[IoSlice::new(b"more")])).await.unwrap();
        for seconds in [800, 1099] {
            wire.end_if_stuck(at(seconds), patience);
        }
        assert!(!wire.cut, "it went on");
        wire.end_if_stuck(at(1100), patience);
        assert!(wire.cut);
    }

    #[tokio::test]
    async fn a_parked_wire_keeps_no_buffer_and_long_answers_get_long_reads() {
        let (mut wire, mut peer) = pair().await;
        let writing = async {
            peer.write_all(&vec![7; 4 << 20]).await.unwrap();
            drop(peer);
        };
        let reading = async {
            let (mut reads, mut bytes) = (0, 0);
            loop {
                let count = poll_fn(|cx| wire.poll_fill(cx)).await.unwrap();
                if count == 0 {
                    break;
                }
                reads += 1;
                bytes += wire.take_input(u64::MAX).len();
            }
            (reads, bytes)
        };
        let (_, (reads, bytes)) = tokio::join!(writing, reading);
        assert_eq!(bytes, 4 << 20);
        assert!(reads < (4 << 20) / SMALLEST_READ, "{reads} reads");
        assert!(wire.park().is_none(), "a large buffer is not kept");
        assert_eq!((wire.input.capacity(), wire.room), (0, SMALLEST_READ));
        assert!(wire.park().is_some());
    }
}
