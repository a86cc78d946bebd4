//! The answers of our own: the only place that turns errors into responses.

use super::grpc;
use super::relay::ResponseBody;
use crate::cluster::{Cluster, PickError, Presence};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use std::fmt::Write;
use std::net::SocketAddr;
use tokio::time::Instant;

/// What gRPC says of a call whose time is over.
const DEADLINE_EXCEEDED: &str = "4";

/// Why a request gets an answer from us instead of an instance's.
#[derive(Debug)]
pub(super) enum Fault {
    /// No target could be chosen.
    Pick(PickError),
    /// This process has no file descriptor left for a connection to an instance.
    OutOfFiles,
    ConnectFailed(String),
    Reset(String),
    Protocol(String),
    /// This instance did not answer in time.
    Timeout(SocketAddr),
    /// The request came through this sidecar before.
    Loop,
    /// None of the port's routes matches.
    NoRoute,
    /// We refuse to guess what was meant.
    BadRequest(&'static str),
    /// Hyper could not read the request.
    Malformed,
    /// It is of a version of HTTP that is none of HTTP/1.
    Version,
    HeadTooLarge,
    TargetTooLong,
    /// The client's upload broke off.
    UploadFailed,
}

impl Fault {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Pick(_) | Self::OutOfFiles => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConnectFailed(_) | Self::Reset(_) | Self::Protocol(_) => StatusCode::BAD_GATEWAY,
            Self::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::BadRequest(_) | Self::Malformed | Self::UploadFailed => StatusCode::BAD_REQUEST,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
        }
    }

    /// The word in the header, the body and the log.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Pick(PickError::Undiscovered | PickError::Empty) => "no_endpoints",
            Self::Pick(PickError::NoneEligible | PickError::Exhausted) => "no_usable_endpoint",
            Self::Pick(PickError::Saturated) | Self::OutOfFiles => "overloaded",
            Self::ConnectFailed(_) => "connect_failed",
            Self::Reset(_) => "upstream_reset",
            Self::Protocol(_) => "upstream_protocol",
            Self::Timeout(_) => "timeout",
            Self::Loop => "loop",
            Self::NoRoute => "no_route",
            Self::BadRequest(_)
            | Self::Malformed
            | Self::Version
            | Self::HeadTooLarge
            | Self::TargetTooLong
            | Self::UploadFailed => "bad_request",
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Pick(error) => error.to_string(),
            Self::OutOfFiles => "the sidecar has no file descriptor left (ulimit -n)".to_owned(),
            Self::ConnectFailed(why) | Self::Reset(why) | Self::Protocol(why) => why.clone(),
            Self::Timeout(instance) => format!("{instance}: no response head in time"),
            Self::Loop => "the chosen instance is this sidecar itself, or the request came round".to_owned(),
            Self::NoRoute => "no route of this port matches the request".to_owned(),
            Self::BadRequest(why) => (*why).to_owned(),
            Self::Malformed => "the request cannot be read as HTTP/1.1 (RFC 9112)".to_owned(),
            Self::Version => {
                "this version of HTTP is not spoken: HTTP/1.0 and HTTP/1.1 are, and HTTP/2 behind its preface \
                 (RFC 9110, section 15.6.6)"
                    .to_owned()
            }
            Self::HeadTooLarge => "the request head is larger than the limit".to_owned(),
            Self::TargetTooLong => "the request target is longer than 65,534 bytes".to_owned(),
            Self::UploadFailed => "the request body broke off".to_owned(),
        }
    }

    /// The status code of gRPC (grpc/doc/statuscodes.md).
    fn grpc_status(&self) -> &'static str {
        match self {
            Self::Pick(PickError::Saturated) | Self::OutOfFiles | Self::HeadTooLarge => "8",
            Self::Pick(_) | Self::ConnectFailed(_) | Self::Reset(_) => "14",
            Self::Timeout(_) => DEADLINE_EXCEEDED,
            Self::NoRoute => "12",
            _ => "13",
        }
    }

    fn retry_after(&self) -> bool {
        matches!(
            self,
            Self::Pick(PickError::Undiscovered | PickError::Empty | PickError::Saturated) | Self::OutOfFiles
        )
    }

    fn closes(&self) -> bool {
        self.code() == "bad_request"
    }

    fn body(&self, service: &str) -> String {
        let body = serde_json::json!({ "error": self.code(), "service": service, "detail": self.detail() });
        format!("{body}\n")
    }

    /// The whole response.
    pub fn response(&self, cluster: &Cluster, grpc: bool, now: Instant) -> Response<ResponseBody> {
        let service = cluster.name().as_str();
        let mut response = if grpc {
            let mut response = Response::new(ResponseBody::empty());
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from_static(self.grpc_status()));
            if let Ok(message) =
                HeaderValue::try_from(grpc::message(&format!("{}: {}", self.code(), self.detail())))
            {
                headers.insert("grpc-message", message);
            }
            response
        } else {
            let mut response = Response::new(ResponseBody::full(self.body(service)));
            *response.status_mut() = self.status();
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        };
        let headers = response.headers_mut();
        if self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.closes() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Ok(facts) = HeaderValue::from_str(&self.facts(cluster, now)) {
            headers.insert("x-outrigger-error", facts);
        }
        response
    }

    /// `CODE; service=…; known=3; usable=0; source_age=12s`
    fn facts(&self, cluster: &Cluster, now: Instant) -> String {
        let snapshot = cluster.snapshot();
        let known = snapshot.members.iter().filter(|m| m.presence != Presence::Draining).count();
        let mut facts = format!(
            "{}; service={}; known={known}; usable={}",
            self.code(),
            cluster.name(),
            snapshot.usable()
        );
        // Of the freshest, if there are several.
        if let Some(age) = cluster.sources.iter().filter_map(|source| source.view(now).age).min() {
            // Writing to a String cannot fail.
            let _ = write!(facts, "; source_age={}s", age.as_secs());
        }
        facts
    }

    /// What ends a gRPC call whose answer has begun when its deadline comes.
    pub fn too_late() -> HeaderMap {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(DEADLINE_EXCEEDED));
        let why = "timeout: the deadline came amid the answer";
        trailers.insert("grpc-message", HeaderValue::from_static(why));
        trailers
    }

    /// The whole response as bytes, for a request that hyper could not read; the connection closes after it.
    pub fn raw(&self, service: &str) -> Vec<u8> {
        let (status, code, body) = (self.status(), self.code(), self.body(service));
        format!(
            "HTTP/1.1 {} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\
             x-outrigger-error: {code}; service={service}\r\n\r\n{body}",
            status.as_u16(),
            status.canonical_reason().unwrap_or_default(),
            body.len(),
        )
        .into_bytes()
    }
}
