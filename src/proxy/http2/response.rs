//! An answer on its way down a stream, no faster than the client takes it.

use super::websocket::Tunnel;
use super::{Front, SendStream, Stream};
use crate::proxy::error::Fault;
use crate::proxy::headers::trailers_to_stream;
use crate::proxy::relay::{Exchange, ResponseBody};
use crate::rt::Alarm;
use bytes::Bytes;
use h2::Reason;
use http::{HeaderValue, Response, header};
use http_body::Body;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// What becomes of a request.
#[expect(clippy::large_enum_variant, reason = "it is moved once, and a box would be one for each request")]
pub(super) enum Ready {
    Answer(Response<ResponseBody>),
    Tunnel(Box<Tunnel>),
}

/// Why nothing more is sent.
enum Over {
    /// The client has given it up, or is gone.
    Gone,
    /// Nothing moved for too long.
    Stalled,
    /// The deadline has come.
    Late,
    /// The instance broke off.
    Broken,
}

/// A stream, and how long it may stand still.
struct Line<'a> {
    stream: &'a Stream,
    send: SendStream,
    alarm: &'a Rc<Alarm>,
    idle: Duration,
    deadline: Option<Instant>,
}

/// Sends the answer, closes the account of its request, and lets the upload end that may go on beyond it. `bare`: without
/// the body, whatever there is.
pub(super) async fn send(
    front: &Front,
    stream: &Stream,
    answer: Response<ResponseBody>,
    exchange: Exchange,
    bare: bool,
) {
    let (mut parts, body) = answer.into_parts();
    let (idle, begun) = (exchange.cluster.settings.timeouts.idle, exchange.started);
    let mut body = body.closing(exchange);
    let length = Body::size_hint(&body).exact().filter(|length| *length > 0);
    if let (Some(length), false) = (length, parts.headers.contains_key(header::CONTENT_LENGTH)) {
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if !parts.headers.contains_key(header::DATE) {
        parts.headers.extend(front.date().map(|date| (header::DATE, date)));
    }
    let end = bare || body.is_end_stream();
    let has_length = parts.headers.contains_key(header::CONTENT_LENGTH);
    let Ok(send) = stream.respond(Response::from_parts(parts, ()), end) else { return };
    let worker = &front.seat.worker;
    let mut line = Line { stream, send, alarm: &worker.alarm, idle, deadline: stream.deadline() };
    line.stream.moves();
    if !end {
        match line.relay(&mut body).await {
            Ok(()) => {}
            Err(Over::Gone) => return front.gives_up(begun, stream.deadline()),
            Err(Over::Stalled) => {
                body.time_out();
                return line.send.send_reset(Reason::CANCEL);
            }
            Err(Over::Late) => {
                if has_length || line.send.send_trailers(Fault::too_late()).is_err() {
                    line.send.send_reset(Reason::CANCEL);
                }
            }
            // A clean end would pass it off as whole (RFC 9113, section 8.1).
            Err(Over::Broken) => return line.send.send_reset(Reason::INTERNAL_ERROR),
        }
    }
    drop(body);
    line.deadline = None;
    line.let_upload_end().await;
}

impl Line<'_> {
    /// Sends the body to its end, each part when the one before it has gone.
    async fn relay(&mut self, body: &mut ResponseBody) -> Result<(), Over> {
        loop {
            let frame = self.watched(|_, cx| Pin::new(&mut *body).poll_frame(cx)).await?;
            let Some(frame) = frame else {
                return self.send.send_data(Bytes::new(), true).map_err(|_| Over::Gone);
            };
            match frame.map_err(|_| Over::Broken)?.into_data() {
                Ok(data) => {
                    let last = body.is_end_stream();
                    self.data(data, last).await?;
                    if last {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        let trailers = trailers_to_stream(trailers);
                        return self.send.send_trailers(trailers).map_err(|_| Over::Gone);
                    }
                }
            }
        }
    }

    async fn data(&mut self, mut data: Bytes, last: bool) -> Result<(), Over> {
        if data.is_empty() && last {
            return self.send.send_data(data, true).map_err(|_| Over::Gone);
        }
        while !data.is_empty() {
            self.send.reserve_capacity(data.len());
            let room = match self.send.capacity() {
                0 => self.watched(|send, cx| send.poll_capacity(cx)).await?,
                room => Some(Ok(room)),
            };
            let Some(Ok(room)) = room else { return Err(Over::Gone) };
            let part = data.split_to(room.min(data.len()));
            let end = last && data.is_empty();
            self.send.send_data(part, end).map_err(|_| Over::Gone)?;
            self.stream.moves();
        }
        Ok(())
    }

    /// The request's body may be longer than its answer took; when nothing moves any more, it is refused without blame
    /// (RFC 9113, section 8.1).
    async fn let_upload_end(&mut self) {
        if !self.stream.is_uploading() {
            return;
        }
        let stream = self.stream;
        let mut ended = std::pin::pin!(stream.uploaded.notified());
        if matches!(self.watched(|_, cx| ended.as_mut().poll(cx)).await, Err(Over::Stalled)) {
            self.send.send_reset(Reason::NO_ERROR);
        }
    }

    /// Waits for something, but not for ever, nor for a client that is gone.
    async fn watched<T>(
        &mut self,
        mut poll: impl FnMut(&mut SendStream, &mut Context<'_>) -> Poll<T>,
    ) -> Result<T, Over> {
        let Self { stream, send, alarm, idle, deadline: end } = self;
        let mut waiting = std::pin::pin!(std::future::poll_fn(|cx| {
            if send.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Over::Gone));
            }
            poll(send, cx).map(Ok)
        }));
        loop {
            let (now, mut deadline) = (Instant::now(), stream.moved() + *idle);
            if let Some(end) = *end {
                if now >= end {
                    return Err(Over::Late);
                }
                deadline = deadline.min(end);
            }
            if now >= deadline {
                return Err(Over::Stalled);
            }
            if let Some(outcome) = alarm.timeout_at(now, deadline, waiting.as_mut()).await {
                return outcome;
            }
        }
    }
}
