//! A request's body on its way onto a stream, as fast as the instance takes it.

use crate::net::field::may_trail;
use crate::upstream::Framing;
use crate::upstream::outgoing::BodyError;
use ::h2::SendStream;
use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::timeout;

/// One body, and how far it got.
#[derive(Debug)]
pub(super) struct Upload<B> {
    body: B,
    /// Bytes that must still come, if the head said how many there are.
    left: Option<u64>,
    data: Bytes,
    trailers: Option<HeaderMap>,
    /// The body's last byte was taken over.
    ended: bool,
    /// Nothing more is sent: all of it was, or the instance takes no more.
    over: bool,
    /// Bytes that were sent.
    sent: u64,
}

impl<B> Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// `over`: there is none.
    pub fn new(body: B, framing: Framing, over: bool) -> Self {
        let left = match framing {
            Framing::Empty => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        };
        Self { body, left, data: Bytes::new(), trailers: None, ended: false, over, sent: 0 }
    }

    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Sends the rest beside the answer; once that is over, only as long as the instance goes on taking it.
    ///
    /// # Errors
    /// As [`Self::poll`]; and if the instance has taken nothing for `patience`.
    pub async fn finish(
        &mut self,
        stream: &mut SendStream<Bytes>,
        answered: &Cell<bool>,
        patience: Duration,
    ) -> Result<(), BodyError> {
        loop {
            let sent = self.sent;
            match timeout(patience, poll_fn(|cx| self.poll(cx, stream))).await {
                Ok(ended) => return ended,
                Err(_) if answered.get() && self.sent == sent => return Err(BodyError::Stuck),
                Err(_) => {}
            }
        }
    }

    /// Sends until the end of the body, or until the instance takes no more: what it answers is read anyway.
    ///
    /// # Errors
    /// If the body broke off, or is not as long as the head said.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut SendStream<Bytes>,
    ) -> Poll<Result<(), BodyError>> {
        while !self.over {
            if !self.data.is_empty() {
                if !ready!(self.poll_send(cx, stream)) {
                    self.over = true;
                }
            } else if let Some(trailers) = self.trailers.take() {
                self.over = true;
                // A stream that was reset says so where its answer is awaited.
                let _ = stream.send_trailers(trailers);
            } else if self.ended {
                self.over = true;
                let _ = stream.send_data(Bytes::new(), true);
            } else {
                let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
                let frame = frame.transpose().map_err(|error| BodyError::Failed(error.into()))?;
                let Some(frame) = frame else {
                    self.end(None)?;
                    continue;
                };
                match frame.into_data() {
                    Ok(data) => self.take(data)?,
                    Err(frame) => self.end(frame.into_trailers().ok())?,
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what the instance has room for; `false` if it takes nothing any more.
    fn poll_send(&mut self, cx: &mut Context<'_>, stream: &mut SendStream<Bytes>) -> Poll<bool> {
        stream.reserve_capacity(self.data.len());
        while stream.capacity() == 0 {
            match ready!(stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(false),
            }
        }
        let part = self.data.split_to(stream.capacity().min(self.data.len()));
        self.sent += part.len() as u64;
        let last = self.ended && self.data.is_empty() && self.trailers.is_none();
        self.over |= last;
        Poll::Ready(stream.send_data(part, last).is_ok())
    }

    fn take(&mut self, data: Bytes) -> Result<(), BodyError> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(data.len() as u64).ok_or(BodyError::Length)?;
            self.ended = *left == 0;
        }
        self.ended |= self.body.is_end_stream() && self.left.is_none();
        self.data = data;
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), BodyError> {
        if self.left.is_some_and(|left| left > 0) {
            return Err(BodyError::Length);
        }
        self.ended = true;
        self.trailers = trailers.map(allowed).filter(|trailers| !trailers.is_empty());
        Ok(())
    }
}

/// Without what has no place after a body (RFC 9110, section 6.5.1).
fn allowed(trailers: HeaderMap) -> HeaderMap {
    let mut allowed = HeaderMap::with_capacity(trailers.len());
    for (name, value) in trailers.iter().filter(|(name, _)| may_trail(name.as_str().as_bytes())) {
        allowed.append(name, value.clone());
    }
    allowed
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn trailers_that_route_or_vouch_stay_here() {
        let mut trailers = HeaderMap::new();
        for name in ["x-sum", "host", "content-length", "authorization", "x-forwarded-for"] {
            trailers.insert(HeaderName::from_static(name), HeaderValue::from_static("0"));
        }
        let kept: Vec<_> = allowed(trailers).keys().map(|name| name.to_string()).collect();
        assert_eq!(kept, ["x-sum"]);
    }
}
