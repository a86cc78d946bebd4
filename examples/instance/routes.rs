//! What the instance answers, by path.
//!
//! | path | answer |
//! |---|---|
//! | `/status/CODE` | this status |
//! | `/delay/MS` | after so many milliseconds |
//! | `/bytes/N`, `/chunked/N` | N bytes of the pattern, with a length or chunked |
//! | `/echo` | the request's body, as it comes, trailers included |
//! | `/digest` | length and FNV-1a of the request's body, then its trailers, a line each |
//! | `/headers` | the request as JSON: method, uri, version, headers (hyper keeps their names in lower case) |
//! | `/health`, `POST /health/set/CODE` | 200 until set otherwise |
//! | `/count` | requests seen by path, as JSON, without those for `/count` |
//! | `/trailers` | a chunked body and the trailer `x-trailer` |
//! | `/slow-body/MS` | ten lines, each so many milliseconds after the one before |
//! | `/retry-after/CODE/SECS` | this status with Retry-After |
//! | any other | 200 and the instance's name |
//!
//! Every answer names the instance in `x-instance` and counts the connections in `x-connection`.

use crate::Instance;
use crate::body::{self, Body};
use crate::pattern::Digest;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, TRAILER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::str::FromStr;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

type Answer = Response<Body>;

pub async fn answer(
    instance: &Instance,
    connection: u64,
    request: Request<Incoming>,
) -> Result<Answer, hyper::Error> {
    let path = request.uri().path().to_owned();
    let spared = path == "/count" || path.starts_with("/health");
    if path != "/count" {
        let mut seen = instance.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen.entry(path.clone()).or_default() += 1;
    }
    if !spared {
        tokio::time::sleep(instance.delay).await;
    }
    let mut answer = match instance.status {
        Some(status) if !spared => with_status(status, instance),
        _ => route(instance, &path, request).await?,
    };
    let headers = answer.headers_mut();
    if let Ok(name) = HeaderValue::from_str(&instance.name) {
        headers.insert("x-instance", name);
    }
    headers.insert("x-connection", connection.into());
    Ok(answer)
}

async fn route(instance: &Instance, path: &str, request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    Ok(match segments.as_slice() {
        ["status", code] => with(code, |code| with_status(code, instance)),
        ["delay", ms] => match ms.parse() {
            Ok(ms) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                named(instance)
            }
            Err(_) => unreadable(),
        },
        ["bytes", length] => with(length, |length: u64| {
            let mut answer = Response::new(body::pattern(length));
            answer.headers_mut().insert(CONTENT_LENGTH, length.into());
            answer
        }),
        ["chunked", length] => with(length, |length| Response::new(body::pattern(length))),
        ["echo"] => echo(request),
        ["digest"] => digest(request).await?,
        ["headers"] => headers(&request),
        ["health"] => with_status(
            StatusCode::from_u16(instance.health.load(Relaxed)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            instance,
        ),
        ["health", "set", code] if request.method() == Method::POST => with(code, |code: StatusCode| {
            instance.health.store(code.as_u16(), Relaxed);
            named(instance)
        }),
        ["count"] => {
            let seen = instance.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
            json(&serde_json::json!(seen))
        }
        ["trailers"] => {
            let mut answer = Response::new(body::with_trailer("before the trailer\n", "x-trailer", "done"));
            answer.headers_mut().insert(TRAILER, HeaderValue::from_static("x-trailer"));
            answer
        }
        ["slow-body", ms] => with(ms, |ms| Response::new(body::drip(Duration::from_millis(ms)))),
        ["retry-after", code, seconds] => with(code, |code| {
            with(seconds, |seconds: u64| {
                let mut answer = with_status(code, instance);
                answer.headers_mut().insert(RETRY_AFTER, seconds.into());
                answer
            })
        }),
        _ => named(instance),
    })
}

/// The request's body and what describes it, sent while it is still coming.
fn echo(request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let mut answer = Response::new(body.boxed_unsync());
    for name in [CONTENT_TYPE, TRAILER] {
        if let Some(value) = head.headers.get(&name) {
            answer.headers_mut().insert(name, value.clone());
        }
    }
    answer
}

async fn digest(request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    let mut body = request.into_body();
    let (mut length, mut digest, mut trailers) = (0, Digest::new(), String::new());
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        if let Some(piece) = frame.data_ref() {
            length += piece.len();
            digest.add(piece);
        }
        for (name, value) in frame.trailers_ref().into_iter().flatten() {
            trailers += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
        }
    }
    Ok(Response::new(body::whole(format!("{length} {}\n{trailers}", digest.text()))))
}

fn headers(request: &Request<Incoming>) -> Answer {
    let headers: Vec<_> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
        .collect();
    json(&serde_json::json!({
        "method": request.method().as_str(),
        "uri": request.uri().to_string(),
        "version": format!("{:?}", request.version()),
        "headers": headers,
    }))
}

fn json(value: &serde_json::Value) -> Answer {
    let mut answer = Response::new(body::whole(value.to_string()));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn named(instance: &Instance) -> Answer {
    with_status(StatusCode::OK, instance)
}

fn with_status(status: StatusCode, instance: &Instance) -> Answer {
    let mut answer = Response::new(body::whole(instance.name.clone()));
    *answer.status_mut() = status;
    answer
}

/// Answers with what a part of the path says, or that it says nothing.
fn with<T: FromStr>(segment: &str, answer: impl FnOnce(T) -> Answer) -> Answer {
    segment.parse().map_or_else(|_| unreadable(), answer)
}

fn unreadable() -> Answer {
    let mut answer = Response::new(body::whole("a number in this path cannot be read\n"));
    *answer.status_mut() = StatusCode::BAD_REQUEST;
    answer
}
