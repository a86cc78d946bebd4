//! A request on its way to an instance: its head, then its body as it comes.

use super::wire::Wire;
use crate::net::field::may_trail;
use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::Body;
use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// How the end of a request's body is told (RFC 9112, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// By its length, which the head says.
    Length(u64),
    /// In chunks, as the head says.
    Chunked,
}

/// One request, and how far it got.
#[derive(Debug)]
pub(super) struct Outgoing<B> {
    /// Bytes of the head that were sent.
    head_sent: usize,
    body: B,
    framing: Framing,
    /// The size line of a chunk, or the trailers.
    lead: Vec<u8>,
    lead_sent: usize,
    data: Bytes,
    /// The line break after a chunk.
    tail: &'static [u8],
    /// The body's last byte was taken over.
    ended: bool,
    /// What was taken over was sent.
    flushed: bool,
}

/// The body cannot be sent as the head promised it.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("{0}")]
    Failed(Box<dyn std::error::Error + Send + Sync>),
    #[error("the body is shorter or longer than its Content-Length")]
    Length,
    #[error("the instance takes no more of it")]
    Stuck,
}

impl<B> Outgoing<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub fn new(body: B, framing: Framing) -> Self {
        Self {
            head_sent: 0,
            body,
            framing,
            lead: Vec::new(),
            lead_sent: 0,
            data: Bytes::new(),
            tail: b"",
            ended: framing == Framing::Empty,
            flushed: false,
        }
    }

    /// Not one byte of it has left.
    pub fn is_untouched(&self) -> bool {
        self.head_sent == 0
    }

    /// The whole head has left.
    pub fn is_past_head(&self, head: &[u8]) -> bool {
        self.head_sent >= head.len()
    }

    /// All of it has left.
    pub fn is_over(&self) -> bool {
        self.ended && self.flushed
    }

    /// Sends until the end of the body, or until the wire takes no more: see [`Wire`].
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut Wire,
        head: &[u8],
    ) -> Poll<Result<(), BodyError>> {
        loop {
            // The first bytes of a body that is here already go in one write with the head.
            let waiting = !self.ended && self.data.is_empty() && self.lead.is_empty() && self.tail.is_empty();
            let starved = waiting && !self.take_frame(cx)?;
            if let Err(error) = ready!(self.poll_flush(cx, wire, head)) {
                wire.broke(error);
                return Poll::Ready(Ok(()));
            }
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            if starved {
                return Poll::Pending;
            }
        }
    }

    /// Takes the next part of the body over; `false` if it is not here yet.
    fn take_frame(&mut self, cx: &mut Context<'_>) -> Result<bool, BodyError> {
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => return Ok(false),
            Poll::Ready(frame) => frame.transpose().map_err(|error| BodyError::Failed(error.into()))?,
        };
        let Some(frame) = frame else {
            self.end(None)?;
            return Ok(true);
        };
        match frame.into_data() {
            Ok(data) => self.take_data(data)?,
            Err(frame) => self.end(frame.into_trailers().ok().as_ref())?,
        }
        Ok(true)
    }

    fn take_data(&mut self, data: Bytes) -> Result<(), BodyError> {
        match &mut self.framing {
            Framing::Empty => return if data.is_empty() { Ok(()) } else { Err(BodyError::Length) },
            Framing::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(BodyError::Length)?;
                self.ended = *left == 0;
            }
            // A chunk without bytes would be the last one.
            Framing::Chunked if data.is_empty() => return Ok(()),
            Framing::Chunked => {
                // Writing to a Vec cannot fail.
                let _ = write!(self.lead, "{:x}\r\n", data.len());
                self.tail = b"\r\n";
            }
        }
        self.data = data;
        Ok(())
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), BodyError> {
        match self.framing {
            Framing::Empty | Framing::Length(0) => {}
            Framing::Length(_) => return Err(BodyError::Length),
            Framing::Chunked => {
                self.lead.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    if !may_trail(name.as_str().as_bytes()) {
                        continue;
                    }
                    for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                        self.lead.extend_from_slice(part);
                    }
                }
                self.tail = b"\r\n";
            }
        }
        self.ended = true;
        Ok(())
    }

    /// Writes what is at hand.
    fn poll_flush(&mut self, cx: &mut Context<'_>, wire: &mut Wire, head: &[u8]) -> Poll<io::Result<()>> {
        self.flushed = false;
        loop {
            let head_left = head.get(self.head_sent..).unwrap_or_default();
            let lead_left = self.lead.get(self.lead_sent..).unwrap_or_default();
            let parts = [head_left, lead_left, &self.data, self.tail].map(IoSlice::new);
            if parts.iter().all(|part| part.is_empty()) {
                ready!(wire.poll_flush(cx))?;
                self.lead.clear();
                self.lead_sent = 0;
                self.flushed = true;
                return Poll::Ready(Ok(()));
            }
            let mut sent = ready!(wire.poll_send(cx, &parts))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let mut take = |left: usize| {
                let taken = sent.min(left);
                sent -= taken;
                taken
            };
            let (from_head, from_lead) = (take(head_left.len()), take(lead_left.len()));
            let (from_data, from_tail) = (take(self.data.len()), take(self.tail.len()));
            self.head_sent += from_head;
            self.lead_sent += from_lead;
            self.data.advance(from_data);
            self.tail = self.tail.get(from_tail..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::socket::Socket;
    use super::*;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use std::convert::Infallible;
    use std::future::poll_fn;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    const HEAD: &[u8] = b"POST / HTTP/1.1\r\n\r\n";

    /// What comes out at the other end; or why it broke off.
    async fn sent(framing: Framing, frames: Vec<Frame<Bytes>>) -> Result<String, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut wire =
            Wire::new(Socket::Tcp(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap()));
        let (mut peer, _) = listener.accept().await.unwrap();
        let frames = frames.into_iter().map(Ok::<_, Infallible>);
        let mut outgoing = Outgoing::new(StreamBody::new(futures_util::stream::iter(frames)), framing);
        let outcome = poll_fn(|cx| outgoing.poll(cx, &mut wire, HEAD)).await;
        assert_eq!(outgoing.is_over(), outcome.is_ok());
        drop(wire);
        let mut text = String::new();
        peer.read_to_string(&mut text).await.unwrap();
        outcome.map_err(|error| error.to_string())?;
        Ok(text.strip_prefix("POST / HTTP/1.1\r\n\r\n").unwrap().to_owned())
    }

    fn data(text: &'static str) -> Frame<Bytes> {
        Frame::data(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn a_body_is_framed_as_the_head_says() {
        let trailers = Frame::trailers(
            [("x-sum", "1"), ("content-length", "9"), ("host", "h")]
                .into_iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect(),
        );
        assert_eq!(sent(Framing::Empty, vec![]).await.unwrap(), "");
        assert_eq!(sent(Framing::Length(5), vec![data("ab"), data(""), data("cde")]).await.unwrap(), "abcde");
        assert_eq!(sent(Framing::Chunked, vec![]).await.unwrap(), "0\r\n\r\n");
        assert_eq!(
            sent(Framing::Chunked, vec![data("ab"), data(""), data("0123456789abcdef"), trailers])
                .await
                .unwrap(),
            "2\r\nab\r\n10\r\n0123456789abcdef\r\n0\r\nx-sum: 1\r\n\r\n"
        );
    }

    #[tokio::test]
    async fn a_body_of_another_length_breaks_off() {
        for frames in [vec![], vec![data("ab")], vec![data("abc"), data("def")]] {
            let error = sent(Framing::Length(5), frames).await.unwrap_err();
            assert_eq!(error, "the body is shorter or longer than its Content-Length");
        }
    }

    #[tokio::test]
    async fn a_body_larger_than_what_the_peer_takes_waits_for_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut wire =
            Wire::new(Socket::Tcp(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap()));
        let (mut peer, _) = listener.accept().await.unwrap();
        let frames = (0..200).map(|n| Ok::<_, Infallible>(Frame::data(vec![n; 60_000].into())));
        let mut outgoing =
            Outgoing::new(StreamBody::new(futures_util::stream::iter(frames)), Framing::Chunked);
        let sending = async {
            poll_fn(|cx| outgoing.poll(cx, &mut wire, HEAD)).await.unwrap();
            drop(wire);
        };
        let mut came = Vec::new();
        let (_, read) = tokio::join!(sending, peer.read_to_end(&mut came));
        read.unwrap();
        let mut rest = bytes::BytesMut::from(came.strip_prefix(HEAD).unwrap());
        let mut chunks = super::super::chunks::Chunks::default();
        let mut next = 0;
        while let super::super::chunks::Piece::Bytes(bytes) = chunks.take(&mut rest).unwrap() {
            assert!(bytes == vec![next; 60_000], "chunk {next}");
            next += 1;
        }
        assert_eq!((next, rest.len()), (200, 0));
    }
}
