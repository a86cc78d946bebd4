//! Bytes both ways between a client and an instance; each direction ends by itself.

use super::watch::{Streams, Verdict, Watch};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How often one direction may read before others have their turn: about a megabyte.
const TURNS: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Instance,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Both sides have said all.
    Done,
    /// This side broke off: the other one is to hear of it as an abrupt end.
    Broke(Side),
    /// We ended it.
    Cut(Verdict),
}

/// One direction. While its receiver is slow it holds what was read at once, and reads no more.
#[derive(Debug, Default)]
struct Way {
    held: Vec<u8>,
    /// Bytes of it that are written.
    written: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The sender has ended; what is held goes out yet, and then the end.
    Ending,
    Done,
    /// The receiver takes no more. What it says is still passed on.
    Refused,
}

/// The sender broke off.
struct BrokenOff;

/// Carries bytes until it is over. `answered` hears of the instance's first bytes.
pub(super) async fn run(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    instance: &mut (impl AsyncRead + AsyncWrite + Unpin),
    watch: &Watch,
    streams: &Streams,
    mut answered: impl FnMut(),
) -> End {
    let (mut up, mut down) = (Way::default(), Way::default());
    poll_fn(|cx| {
        watch.by(cx.waker());
        if let Some(verdict) = watch.verdict() {
            return Poll::Ready(End::Cut(verdict));
        }
        if let Poll::Ready(Err(BrokenOff)) = up.poll(cx, client, instance, watch, streams, &mut || {}) {
            return Poll::Ready(End::Broke(Side::Client));
        }
        if let Poll::Ready(Err(BrokenOff)) = down.poll(cx, instance, client, watch, streams, &mut answered) {
            return Poll::Ready(End::Broke(Side::Instance));
        }
        match (up.state, down.state) {
            (State::Done, State::Done) => Poll::Ready(End::Done),
            // The instance has said all and hears no more: what it said must not be lost to a reset.
            (State::Refused, State::Done) => Poll::Ready(End::Done),
            (State::Refused, State::Refused) => Poll::Ready(End::Broke(Side::Instance)),
            (State::Done, State::Refused) => Poll::Ready(End::Broke(Side::Client)),
            _ => Poll::Pending,
        }
    })
    .await
}

impl Way {
    /// Ready when the direction is over; an error when the sender broke off.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        watch: &Watch,
        streams: &Streams,
        read: &mut dyn FnMut(),
    ) -> Poll<Result<(), BrokenOff>> {
        for _ in 0..TURNS {
            if matches!(self.state, State::Done | State::Refused) {
                return Poll::Ready(Ok(()));
            }
            if let Err(_error) = ready!(self.poll_flush(cx, to, watch)) {
                *self = Self { state: State::Refused, ..Self::default() };
                continue;
            }
            if self.state == State::Ending {
                // Whoever hung up meanwhile does not miss it.
                let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                self.state = State::Done;
                continue;
            }
            let mut block = streams.block.borrow_mut();
            let mut buf = ReadBuf::new(&mut block);
            match ready!(Pin::new(&mut *from).poll_read(cx, &mut buf)) {
                Ok(()) if buf.filled().is_empty() => self.state = State::Ending,
                Ok(()) => {
                    watch.moved.set(true);
                    read();
                    match Pin::new(&mut *to).poll_write(cx, buf.filled()) {
                        Poll::Ready(Ok(count)) => self.hold(buf.filled().get(count..).unwrap_or_default()),
                        Poll::Ready(Err(_)) => self.state = State::Refused,
                        Poll::Pending => self.hold(buf.filled()),
                    }
                }
                Err(_) => return Poll::Ready(Err(BrokenOff)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn hold(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
        watch: &Watch,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self.held.get(self.written..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut *to).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
            watch.moved.set(true);
        }
        if self.written > 0 {
            // It may be long until the receiver is slow again.
            (self.held, self.written) = (Vec::new(), 0);
        }
        // Over TLS what was written may still be here.
        Pin::new(to).poll_flush(cx)
    }
}
