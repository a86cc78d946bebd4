//! The bodies that the instance answers with.

use crate::pattern;
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use std::convert::Infallible;
use std::time::Duration;

pub type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// Bytes of one piece of a streamed body.
const PIECE: u64 = 16 * 1024;

/// All at once, with a length.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// The first `length` bytes of the pattern; made while it is sent.
pub fn pattern(length: u64) -> Body {
    streamed(stream::unfold(0, move |from: u64| async move {
        let to = from.saturating_add(PIECE).min(length);
        (from < to).then(|| (Frame::data(Bytes::from(pattern::bytes(from..to))), to))
    }))
}

/// Ten lines, the first at once, each further one `pause` later.
pub fn drip(pause: Duration) -> Body {
    streamed(stream::unfold(0, move |line| async move {
        if line > 0 {
            tokio::time::sleep(pause).await;
        }
        (line < 10).then(|| (Frame::data(Bytes::from(format!("{line}\n"))), line + 1))
    }))
}

/// A short text and one trailer.
pub fn with_trailer(text: &'static str, name: &'static str, value: &'static str) -> Body {
    let mut trailers = HeaderMap::new();
    trailers.insert(name, HeaderValue::from_static(value));
    streamed(stream::iter([Frame::data(Bytes::from_static(text.as_bytes())), Frame::trailers(trailers)]))
}

fn streamed(frames: impl Stream<Item = Frame<Bytes>> + Send + 'static) -> Body {
    use futures_util::StreamExt;
    StreamBody::new(frames.map(Ok::<_, Infallible>)).map_err(|never| match never {}).boxed_unsync()
}
