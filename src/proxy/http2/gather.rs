//! What is written to a client on HTTP/2, gathered until the connection's turn is over.
//!
//! The machinery writes and flushes each frame of a body by itself. Streams that are answered in the same turn share
//! one system call here, and under TLS full records.

use crate::proxy::transport::Rewound;
use crate::proxy::worker::Worker;
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are gathered at most; more are written amid the turn.
const MOST: usize = 64 << 10;

/// A connection; clones are the same one. Dropped, it forgets what is not written yet.
#[derive(Clone, Debug)]
pub(super) struct Gathered(Rc<RefCell<Gathering>>);

#[derive(Debug)]
struct Gathering {
    io: Rewound,
    worker: Rc<Worker>,
    /// What is to be written; room for it only while there is some, and `written` bytes of it are done with.
    out: Vec<u8>,
    written: usize,
    /// Somebody ends the turns.
    by_turns: bool,
}

impl Gathered {
    /// At first nothing is gathered.
    pub fn new(io: Rewound, worker: &Rc<Worker>) -> Self {
        let worker = Rc::clone(worker);
        Self(Rc::new(RefCell::new(Gathering { io, worker, out: Vec::new(), written: 0, by_turns: false })))
    }

    /// From now on a flush is none: what was written goes out with [`Self::poll_end_turn`].
    pub fn by_turns(&self) {
        self.0.borrow_mut().by_turns = true;
    }

    /// Writes what was gathered.
    pub fn poll_end_turn(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.0.borrow_mut();
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }
}

impl Gathering {
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest @ [_, ..]) = self.out.get(self.written..) {
            match ready!(Pin::new(&mut self.io).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        self.written = 0;
        let mut out = std::mem::take(&mut self.out);
        if out.capacity() > 0 {
            out.clear();
            self.worker.gathered.replace(out);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes as much as there is room for: none only of nothing.
    fn poll_take<'a>(
        &mut self,
        cx: &mut Context<'_>,
        parts: impl Iterator<Item = &'a [u8]>,
    ) -> Poll<io::Result<usize>> {
        if self.out.len() >= MOST {
            ready!(self.poll_out(cx))?;
        }
        if self.out.capacity() == 0 {
            self.out = self.worker.gathered.take();
            self.out.reserve(MOST);
        }
        let before = self.out.len();
        for part in parts {
            let room = MOST.saturating_sub(self.out.len());
            self.out.extend_from_slice(part.get(..room).unwrap_or(part));
        }
        Poll::Ready(Ok(self.out.len() - before))
    }
}

impl AsyncRead for Gathered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Gathered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_take(cx, std::iter::once(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_take(cx, bufs.iter().map(|buf| &**buf))
    }

    /// Both parts of a frame come together.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.borrow().by_turns { Poll::Ready(Ok(())) } else { self.poll_end_turn(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_end_turn(cx))?;
        Pin::new(&mut self.0.borrow_mut().io).poll_shutdown(cx)
    }
}
