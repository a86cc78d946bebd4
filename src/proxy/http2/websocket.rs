//! WebSockets on a stream (RFC 8441): towards the instance they begin as an upgrade in HTTP/1.1.

use super::body::release;
use super::{Front, SendStream, Stream};
use crate::cluster::Ticket;
use crate::model::Outcome;
use crate::net::field::Field;
use crate::net::websocket::accept_of;
use crate::proxy::headers;
use crate::proxy::upgrade;
use crate::upstream::{self, Head, UpstreamBody};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use h2::RecvStream;
use h2::ext::Protocol;
use http::{HeaderValue, Method, Response, request};
use rand::RngExt;
use rand::rngs::SmallRng;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const KEY: &str = "sec-websocket-key";
const VERSION: &str = "sec-websocket-version";
const ACCEPT: &str = "sec-websocket-accept";

/// Bytes that are written at once.
const BLOCK: usize = 16 << 10;

/// What the instance has to prove that it has understood.
pub(super) struct Key(String);

/// Makes an upgrade out of an extended CONNECT; every other request stays as it is.
///
/// # Errors
/// The text says what is wrong.
pub(super) fn translate(parts: &mut request::Parts, rng: &mut SmallRng) -> Result<Option<Key>, &'static str> {
    let Some(protocol) = parts.extensions.remove::<Protocol>() else { return Ok(None) };
    if protocol.as_str() != "websocket" {
        return Err("a :protocol other than websocket (RFC 8441, section 4)");
    }
    if parts.headers.contains_key(http::header::CONTENT_LENGTH) {
        // The GET that it becomes has no body: the instance would take the next request for it.
        return Err("a WebSocket's handshake has no Content-Length (RFC 9113, section 8.5)");
    }
    parts.method = Method::GET;
    let key = BASE64.encode(rng.random::<[u8; 16]>());
    let headers = &mut parts.headers;
    headers.insert(http::header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(http::header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(KEY, HeaderValue::from_str(&key).map_err(|_| "no key")?);
    headers.entry(VERSION).or_insert(HeaderValue::from_static("13"));
    Ok(Some(Key(key)))
}

/// The head of the answer to the client, and the connection to the instance.
///
/// # Errors
/// If the instance has not done what it was asked for.
pub(super) fn switched(
    key: &Key,
    head: &Head,
    body: UpstreamBody,
) -> Result<(Response<()>, upstream::Tunnel), &'static str> {
    if head.status != http::StatusCode::SWITCHING_PROTOCOLS {
        // To the client it would look as if it had.
        return Err("the instance answers a WebSocket's handshake, but does not switch protocols");
    }
    let to_websocket = head.fields.all(Field::Upgrade).any(|value| value.eq_ignore_ascii_case(b"websocket"));
    let expected = accept_of(key.0.as_bytes());
    let mut proofs = head.fields.iter().filter(|(_, name, _)| name.eq_ignore_ascii_case(ACCEPT.as_bytes()));
    if !to_websocket || !proofs.any(|(_, _, value)| value == expected.as_bytes()) {
        return Err("the instance has not understood a WebSocket's handshake (RFC 6455, section 4.2.2)");
    }
    let to = body.into_tunnel().ok_or("the instance's connection is gone")?;
    let mut response = Response::new(());
    *response.headers_mut() = headers::to_stream(head);
    response.headers_mut().remove(ACCEPT);
    Ok((response, to))
}

/// A stream and a connection that belong together from now on.
pub(super) struct Tunnel {
    pub head: Response<()>,
    pub recv: RecvStream,
    pub to: upstream::Tunnel,
    pub ticket: Ticket,
    /// Of the service that it belongs to.
    pub idle: Duration,
}

impl Tunnel {
    /// Carries bytes until both sides have ended, one has failed, or nothing moves any more.
    pub async fn carry(self, front: &Front, stream: &Stream) {
        let Self { mut head, recv, to, ticket, idle } = self;
        if !head.headers().contains_key(http::header::DATE) {
            head.headers_mut().extend(front.date().map(|date| (http::header::DATE, date)));
        }
        match stream.respond(head, false) {
            Ok(send) => {
                let from = Pipe { recv, send, read: Bytes::new() };
                upgrade::carry(from, to, idle).await;
                ticket.finish(Outcome::Success);
            }
            Err(_) => ticket.finish(Outcome::Abandoned),
        }
    }
}

/// A stream as bytes. Dropped before it was shut down, it is reset, as RFC 8441, section 5, wants it.
struct Pipe {
    recv: RecvStream,
    send: SendStream,
    /// What of the last part was not asked for yet.
    read: Bytes,
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.read.is_empty() {
            match ready!(self.recv.poll_data(cx)) {
                Some(data) => self.read = data.map_err(io::Error::other)?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let bytes = self.read.len().min(buf.remaining());
        buf.put_slice(&self.read.split_to(bytes));
        release(&mut self.recv, bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.send.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.send.reserve_capacity(buf.len().min(BLOCK));
        let room = match self.send.capacity() {
            0 => match ready!(self.send.poll_capacity(cx)) {
                Some(room) => room.map_err(io::Error::other)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            },
            room => room,
        };
        let (part, _) = buf.split_at(room.min(buf.len()).min(BLOCK));
        self.send.send_data(Bytes::copy_from_slice(part), false).map_err(io::Error::other)?;
        Poll::Ready(Ok(part.len()))
    }

    /// The connection's own task writes it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send.send_data(Bytes::new(), true).map_err(io::Error::other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use rand::SeedableRng;

    #[test]
    fn a_websocket_becomes_an_upgrade_and_other_requests_stay() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut parts = Request::get("http://a/").body(()).unwrap().into_parts().0;
        assert!(translate(&mut parts, &mut rng).unwrap().is_none());
        let connect = |protocol: &'static str| {
            let request = Request::connect("http://a/chat").extension(Protocol::from_static(protocol));
            request.body(()).unwrap().into_parts().0
        };
        assert!(translate(&mut connect("connect-udp"), &mut rng).is_err());
        let mut parts = connect("websocket");
        let key = translate(&mut parts, &mut rng).unwrap().unwrap();
        assert_eq!((parts.method.as_str(), parts.uri.path()), ("GET", "/chat"));
        let field = |name: &str| parts.headers.get(name).unwrap().to_str().unwrap();
        assert_eq!((field("upgrade"), field("connection")), ("websocket", "upgrade"));
        assert_eq!((field("sec-websocket-version"), field("sec-websocket-key")), ("13", &*key.0));
        assert_eq!(BASE64.decode(key.0).unwrap().len(), 16);
    }
}
