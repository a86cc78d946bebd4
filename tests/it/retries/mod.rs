//! What is tried again, where, how often, and what never is.

mod bodies;
mod bounds;
mod connects;
mod kept_alive;
mod resets;
mod statuses;

use crate::support::client::{self, Response, Sendable};
use crate::support::{Sidecar, pattern};
use http::Request;

/// A POST to `/digest` with so many bytes of the pattern.
fn post(length: u64, key: Option<&str>) -> Request<impl Sendable + use<>> {
    let mut request = Request::post("/digest");
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    request.body(client::full(pattern::bytes(0..length))).expect("a request")
}

/// What `/digest` answers to that.
fn digest(length: u64) -> String {
    let mut digest = pattern::Digest::new();
    digest.add(&pattern::bytes(0..length));
    format!("{length} {}\n", digest.text())
}

/// Sends to `web` and reads the answer; fails the test without one.
async fn send<B: Sendable>(sidecar: &Sidecar, request: Request<B>) -> Response {
    client::request(sidecar.service("web"), request).await.expect("an answer")
}

/// The code of an answer of the sidecar's own.
fn code(answer: &Response) -> &str {
    answer.header("x-outrigger-error").and_then(|facts| facts.split(';').next()).unwrap_or_default()
}
