//! One request out and one response head back on a connection.

use super::UpstreamBody;
use super::error::Cause;
use super::head::Head;
use super::outgoing::{Framing, Outgoing};
use super::wire::Line;
use bytes::Bytes;
use http::StatusCode;
use http_body::Body;
use std::task::{Poll, ready};

/// What is asked of an instance, but for the body.
pub struct Sending<'a> {
    /// The request's head as it is written, its empty line included.
    pub head: &'a [u8],
    /// As the head says.
    pub framing: Framing,
    /// The method is HEAD: the response has no body, whatever it says.
    pub to_head: bool,
    /// It is gRPC.
    pub grpc: bool,
    /// It asks to switch protocols.
    pub upgrade: bool,
    /// Hears of interim responses (RFC 9110, section 15.2).
    pub interim: &'a dyn Fn(&Head),
}

/// What an instance answered.
#[derive(Debug)]
pub struct Reply {
    pub head: Head,
    pub body: UpstreamBody,
}

/// Sends and waits for the head of the final response, which may come before everything is sent.
pub(super) async fn exchange<B>(
    line: &Line,
    outgoing: &mut Outgoing<B>,
    ask: &Sending<'_>,
) -> Result<Head, Cause>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    std::future::poll_fn(|cx| {
        let wire = &mut *line.borrow_mut();
        if !outgoing.is_over()
            && !wire.is_broken()
            && let Poll::Ready(Err(error)) = outgoing.poll(cx, wire, ask.head)
        {
            return Poll::Ready(Err(error.into()));
        }
        loop {
            while let Some(head) = Head::take(&mut wire.input)? {
                if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS {
                    (ask.interim)(&head);
                    if head.status == StatusCode::CONTINUE {
                        // The client hears of it when its body is asked for, and only before the final response, which
                        // may have come in the same piece.
                        if !outgoing.is_over()
                            && !wire.is_broken()
                            && let Poll::Ready(Err(error)) = outgoing.poll(cx, wire, ask.head)
                        {
                            return Poll::Ready(Err(error.into()));
                        }
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                } else {
                    return Poll::Ready(Ok(head));
                }
            }
            match ready!(wire.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(Err(wire.take_break().map_or(Cause::Closed, Cause::Io))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(wire.take_break().unwrap_or(error).into())),
            }
        }
    })
    .await
}
