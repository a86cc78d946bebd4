//! A response body that gives its connection back with its last byte.

use super::chunks::{Chunks, Piece};
use super::h2::{Incoming, Tunnel as Multiplexed};
use super::head::{Length, Malformed};
use super::pool::Lease;
use super::tunnel::Tunnel;
use super::wire::Wire;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// The body of an instance's response. Dropped before its end, it takes the connection with it, or the stream of one
/// that carries several.
#[derive(Debug)]
pub struct UpstreamBody(Kind);

#[derive(Debug)]
enum Kind {
    One(Exclusive),
    Two(Box<Incoming>),
    TwoSwitched(Box<Multiplexed>),
}

/// A body that has a connection to itself.
#[derive(Debug)]
struct Exclusive {
    /// Until the end.
    lease: Option<Lease>,
    rest: Rest,
}

/// What of it is still to come.
#[derive(Debug)]
enum Rest {
    Known(u64),
    Chunked(Chunks),
    UntilClose,
}

/// Why it did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum BrokenBody {
    #[error("reading the response body: {0}")]
    Io(#[from] io::Error),
    #[error("the response body ended early")]
    Incomplete,
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("reading the response body: {0}")]
    Http2(#[from] ::h2::Error),
}

impl UpstreamBody {
    /// Of a connection that is given back with its last byte.
    ///
    /// # Errors
    /// If what is here of it begins as none.
    pub(super) fn exclusive(lease: Lease, length: Length) -> Result<Self, Malformed> {
        Ok(Self(Kind::One(Exclusive::new(lease, length)?)))
    }

    /// One that leaves HTTP behind: its connection was not given back.
    pub(super) fn switched(lease: Lease) -> Self {
        Self(Kind::One(Exclusive { lease: Some(lease), rest: Rest::Known(0) }))
    }

    pub(super) fn multiplexed(body: Incoming) -> Self {
        Self(Kind::Two(Box::new(body)))
    }

    pub(super) fn multiplexed_tunnel(tunnel: Multiplexed) -> Self {
        Self(Kind::TwoSwitched(Box::new(tunnel)))
    }

    /// What follows a response that switched protocols.
    pub fn into_tunnel(self) -> Option<Tunnel> {
        match self.0 {
            Kind::One(mut body) => body.lease.take().map(Lease::into_tunnel),
            Kind::Two(_) => None,
            Kind::TwoSwitched(tunnel) => Some(Tunnel::multiplexed(tunnel)),
        }
    }
}

impl Exclusive {
    fn new(lease: Lease, length: Length) -> Result<Self, Malformed> {
        let mut rest = match length {
            Length::Known(length) => Rest::Known(length),
            Length::Chunked => Rest::Chunked(Chunks::default()),
            Length::UntilClose => Rest::UntilClose,
        };
        if let Rest::Chunked(chunks) = &mut rest {
            chunks.begin(&mut lease.line().borrow_mut().input)?;
        }
        let mut body = Self { lease: Some(lease), rest };
        if matches!(body.rest, Rest::Known(0)) {
            body.ended();
        }
        Ok(body)
    }

    fn ended(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

impl Rest {
    fn ended(&self) -> bool {
        match self {
            Self::Known(left) => *left == 0,
            Self::Chunked(chunks) => chunks.ended(),
            Self::UntilClose => false,
        }
    }

    /// The next piece of the body; whole bodies mostly come in one.
    fn poll(&mut self, cx: &mut Context<'_>, wire: &mut Wire) -> Poll<Result<Piece, BrokenBody>> {
        loop {
            let piece = match self {
                Self::Known(0) => Piece::End,
                Self::Chunked(chunks) => chunks.take(&mut wire.input)?,
                Self::Known(_) | Self::UntilClose if wire.input.is_empty() => Piece::More,
                Self::Known(left) => {
                    let bytes = wire.take_input(*left);
                    *left -= bytes.len() as u64;
                    Piece::Bytes(bytes)
                }
                Self::UntilClose => Piece::Bytes(wire.take_input(u64::MAX)),
            };
            if piece != Piece::More {
                return Poll::Ready(Ok(piece));
            }
            if ready!(wire.poll_fill(cx))? == 0 {
                let end = if matches!(self, Self::UntilClose) {
                    Ok(Piece::End)
                } else {
                    Err(BrokenBody::Incomplete)
                };
                return Poll::Ready(end);
            }
        }
    }
}

impl Exclusive {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        let Self { lease, rest } = self;
        let Some(held) = lease else { return Poll::Ready(None) };
        let piece = ready!(rest.poll(cx, &mut held.line().borrow_mut()));
        let frame = match piece {
            Ok(Piece::Bytes(bytes)) => Frame::data(bytes),
            Ok(Piece::Trailers(trailers)) => Frame::trailers(trailers),
            Ok(Piece::End | Piece::More) => {
                self.ended();
                return Poll::Ready(None);
            }
            Err(error) => {
                self.lease = None;
                return Poll::Ready(Some(Err(error)));
            }
        };
        if self.rest.ended() {
            self.ended();
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        match &mut self.0 {
            Kind::One(body) => body.poll_frame(cx),
            Kind::Two(body) => body.poll_frame(cx),
            Kind::TwoSwitched(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::One(body) => body.lease.is_none() || body.rest.ended(),
            Kind::Two(body) => body.is_end_stream(),
            Kind::TwoSwitched(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::One(body) => match &body.rest {
                Rest::Known(left) => SizeHint::with_exact(*left),
                Rest::Chunked(_) | Rest::UntilClose => SizeHint::default(),
            },
            Kind::Two(body) => body.size_hint(),
            Kind::TwoSwitched(_) => SizeHint::with_exact(0),
        }
    }
}
