//! Responses of the admin address: text, JSON, refusals, streams.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{Either, Full};
use serde::Serialize;
use std::convert::Infallible;

/// All at once, or as it comes.
pub(super) type Body = Either<Full<Bytes>, UnsyncBoxBody<Bytes, Infallible>>;
pub(super) type Answer = Response<Body>;

const JSON: &str = "application/json";

/// Why there is no better answer.
#[derive(Serialize)]
struct Refusal<'a> {
    error: &'static str,
    detail: &'a str,
}

pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    whole(status, "text/plain; charset=utf-8", text.into())
}

pub(super) fn json(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(bytes) => whole(StatusCode::OK, JSON, bytes.into()),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

pub(super) fn refuse(status: StatusCode, error: &'static str, detail: &str) -> Answer {
    let mut answer = json(&Refusal { error, detail });
    *answer.status_mut() = status;
    answer
}

pub(super) fn whole(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    with_headers(status, kind, Either::Left(Full::new(body)))
}

pub(super) fn stream(kind: &'static str, body: UnsyncBoxBody<Bytes, Infallible>) -> Answer {
    with_headers(StatusCode::OK, kind, Either::Right(body))
}

fn with_headers(status: StatusCode, kind: &'static str, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // Each answer is of one moment, and none is a page that a browser should make of it what it likes.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// How much the client wants a media type (RFC 9110, section 12.5.1): 0 to 1; wildcards do not count.
pub(super) fn quality(headers: &HeaderMap, media: &str) -> f32 {
    let values = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    let offers = values.flat_map(|value| value.split(',')).filter_map(|offer| {
        let mut parts = offer.split(';').map(str::trim);
        parts.next().filter(|name| name.eq_ignore_ascii_case(media))?;
        let q = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        Some(q.map_or(1.0, |q| q.parse().unwrap_or(0.0)))
    });
    offers.fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_offer_for_a_media_type_counts() {
        let mut headers = HeaderMap::new();
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,\
                          application/openmetrics-text; version=0.0.1; q=0.75, text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        headers.append(header::ACCEPT, HeaderValue::from_static(prometheus));
        headers.append(header::ACCEPT, HeaderValue::from_static("Text/Event-Stream"));
        assert!((quality(&headers, "application/openmetrics-text") - 0.75).abs() < 1e-6);
        assert!((quality(&headers, "text/plain") - 0.3).abs() < 1e-6);
        assert!((quality(&headers, "text/event-stream") - 1.0).abs() < 1e-6);
        assert!(quality(&headers, "text/html").abs() < 1e-6);
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/plain;q=none"));
        assert!(quality(&headers, "text/plain").abs() < 1e-6);
    }
}
