//! One request out and one response head back on a stream.

use super::body::Incoming;
use super::link::{Link, Slot};
use super::request::translate;
use super::tunnel::Tunnel;
use super::upload::Upload;
use crate::net::field::Field;
use crate::upstream::error::Cause;
use crate::upstream::head::{Head, Length};
use crate::upstream::{Reply, STUCK, SendError, Sending, Stage, UpstreamBody};
use ::h2::client::{ResponseFuture, SendRequest};
use ::h2::{Reason, RecvStream, SendStream};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Body;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};

/// A request whose head was handed over.
#[derive(Debug)]
pub(in crate::upstream) struct Begun {
    response: ResponseFuture,
    stream: SendStream<Bytes>,
    slot: Slot,
    reused: bool,
    /// There is no body.
    ends: bool,
    /// It asks for a WebSocket.
    accept: Option<String>,
}

/// Why a request did not begin.
#[derive(Debug)]
pub(in crate::upstream) enum Refused {
    /// The connection takes no more of them.
    Closed,
    Untranslatable(&'static str),
}

/// Puts the request's head onto a stream of its own.
pub(in crate::upstream) fn begin(
    mut sender: SendRequest<Bytes>,
    slot: Slot,
    reused: bool,
    ask: &Sending<'_>,
    websocket: bool,
    addr: SocketAddr,
) -> Result<Begun, Refused> {
    let translated = translate(ask.head, ask.framing, websocket, slot.link().secure, addr);
    let translated = translated.map_err(Refused::Untranslatable)?;
    match sender.send_request(translated.request, translated.ends) {
        Ok((response, stream)) => {
            Ok(Begun { response, stream, slot, reused, ends: translated.ends, accept: translated.accept })
        }
        Err(_) => {
            slot.link().retire();
            Err(Refused::Closed)
        }
    }
}

/// Doubts the connection when it is dropped without an answer.
struct Waiting {
    link: Option<Rc<Link>>,
    /// Of the link, when the request began.
    reads: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            link.doubt(self.reads);
        }
    }
}

impl Begun {
    /// Sends the body and waits for the head of the final response, which may come before everything is sent.
    ///
    /// # Errors
    /// [`SendError`] tells how far the request got.
    pub async fn exchange<B>(self, body: B, ask: &Sending<'_>) -> Result<Reply, SendError>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Self { mut response, mut stream, slot, reused, ends, accept } = self;
        let mut upload = Upload::new(body, ask.framing, ends || accept.is_some());
        let mut waiting = Waiting { link: Some(Rc::clone(slot.link())), reads: slot.link().reads() };
        let answered = poll_fn(|cx| {
            if !upload.is_over()
                && let Poll::Ready(Err(error)) = upload.poll(cx, &mut stream)
            {
                return Poll::Ready(Err(Cause::Body(error)));
            }
            let mut goes_on = false;
            while let Poll::Ready(Some(interim)) = response.poll_informational(cx) {
                match interim {
                    Ok(head) if head.status() == StatusCode::SWITCHING_PROTOCOLS => {
                        return Poll::Ready(Err(Cause::Protocol(SWITCHED.into())));
                    }
                    Ok(head) => {
                        goes_on |= head.status() == StatusCode::CONTINUE;
                        (ask.interim)(&Head::of(head.status(), head.headers(), |_| true));
                    }
                    // The response itself says it again.
                    Err(_) => break,
                }
            }
            // The client hears of "100 Continue" when its body is asked for, and only before the final response, which may
            // have come at once.
            if goes_on && !upload.is_over() {
                if let Poll::Ready(Err(error)) = upload.poll(cx, &mut stream) {
                    return Poll::Ready(Err(Cause::Body(error)));
                }
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(ready!(Pin::new(&mut response).poll(cx)).map_err(Cause::Http2))
        });
        let answered = answered.await;
        waiting.link = None;
        match answered {
            Ok(response) => match accept {
                Some(accept) if response.status().is_success() => {
                    Ok(switched(response, stream, slot, &accept))
                }
                // Nothing more is asked of whoever does not switch.
                Some(_) => reply(response, None::<(Upload<B>, _)>, slot, ask),
                None => reply(response, (!upload.is_over()).then_some((upload, stream)), slot, ask),
            },
            Err(cause @ Cause::Body(_)) => {
                stream.send_reset(Reason::CANCEL);
                Err(SendError { stage: Stage::Head, reused, heard: false, source: cause })
            }
            Err(Cause::Http2(error)) => Err(judge(error, reused, slot.link())),
            Err(source) => Err(SendError { stage: Stage::Head, reused, heard: false, source }),
        }
    }
}

const SWITCHED: &str = "101 has no place in HTTP/2 (RFC 9113, section 8.6)";

/// What the failure of a stream says about what the instance has seen of its request.
fn judge(error: ::h2::Error, reused: bool, link: &Link) -> SendError {
    let (stage, reused, heard) = match error.reason() {
        // Streams beyond the last one that a GOAWAY names were not seen (RFC 9113, section 6.8): another connection to
        // the same instance will do.
        _ if error.is_go_away() && error.is_remote() => {
            link.retire();
            (Stage::Unsent, true, false)
        }
        // Nor was what is refused (section 8.7), but the instance may have too much to do.
        Some(Reason::REFUSED_STREAM) if error.is_remote() => (Stage::Unsent, false, false),
        // We ended it ourselves, for too much of something: the instance of this request has done nothing.
        Some(Reason::ENHANCE_YOUR_CALM) if error.is_library() => {
            link.retire();
            (Stage::Head, reused, false)
        }
        Some(_) => (Stage::Head, reused, true),
        None => {
            link.retire();
            (Stage::Head, reused, false)
        }
    };
    let source = match error.reason() {
        Some(reason) if error.is_library() && reason != Reason::ENHANCE_YOUR_CALM => {
            Cause::Protocol(format!("invalid HTTP/2 response: {}", reason.description()))
        }
        _ => Cause::Http2(error),
    };
    SendError { stage, reused, heard, source }
}

/// A response has begun. What is still to be sent of its request goes on beside it.
fn reply<B>(
    response: Response<RecvStream>,
    sending: Option<(Upload<B>, SendStream<Bytes>)>,
    slot: Slot,
    ask: &Sending<'_>,
) -> Result<Reply, SendError>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (parts, recv) = response.into_parts();
    let malformed = |source: Cause| SendError { stage: Stage::Head, reused: false, heard: true, source };
    // What has trailers ends with them, whatever its length.
    let kind = parts.headers.get(header::CONTENT_TYPE);
    let trailed = parts.headers.contains_key(header::TRAILER)
        || kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let head = Head::of(parts.status, &parts.headers, |_| true);
    let length = match head.body_length(ask.to_head).map_err(|error| malformed(error.into()))? {
        Length::Known(_) if trailed && !ask.to_head => None,
        Length::Known(length) => Some(length),
        Length::Chunked | Length::UntilClose => None,
    };
    let head = if length.is_none() {
        Head::of(parts.status, &parts.headers, |field| field != Field::ContentLength)
    } else {
        head
    };
    let slot = Rc::new(slot);
    let mut body = Incoming::new(recv, length, Rc::clone(&slot));
    if let Some((mut upload, mut stream)) = sending {
        let (tasks, answered) = (slot.link().tasks.clone(), body.answered());
        body.with_upload(tasks.spawn("upload", async move {
            let sent = upload.finish(&mut stream, &answered, STUCK).await;
            if sent.is_err() {
                // The instance must not take what it has for the whole.
                stream.send_reset(Reason::CANCEL);
            }
            drop(slot);
        }));
    }
    Ok(Reply { head, body: UpstreamBody::multiplexed(body) })
}

/// A WebSocket, as HTTP/1.1 would have it (RFC 8441, section 5).
fn switched(response: Response<RecvStream>, stream: SendStream<Bytes>, slot: Slot, accept: &str) -> Reply {
    let (mut parts, recv) = response.into_parts();
    parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    parts.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(accept) {
        parts.headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    let head = Head::of(StatusCode::SWITCHING_PROTOCOLS, &parts.headers, |_| true);
    Reply { head, body: UpstreamBody::multiplexed_tunnel(Tunnel::new(stream, recv, slot)) }
}
