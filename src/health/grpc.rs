//! One question of gRPC's health checking protocol over HTTP/2 (grpc/doc/health-checking.md), and whether the answer
//! passes.

use super::ProbeError;
use super::dial::Dialer;
use super::http2::{Kept, Link};
use bytes::{BufMut, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, StatusCode, Version, header};
use prost::Message;
use std::convert::Infallible;
use std::net::SocketAddr;

const AGENT: &str = concat!("outrigger/", env!("CARGO_PKG_VERSION"), " (health check)");
/// How much of an answer is read: its message has two bytes.
const LIMIT: usize = 64 * 1024;
/// What stands before a message: that it is not compressed, and its length in four bytes.
const PREFIX: usize = 5;

/// Asks over a connection of its own, kept while the server keeps it.
#[derive(Debug)]
pub(super) struct GrpcProbe {
    /// Empty: the server as a whole.
    service: String,
    dialer: Dialer,
    kept: Option<Kept>,
}

/// What the server said.
#[derive(Debug)]
struct Answer {
    http: StatusCode,
    /// `grpc-status` and `grpc-message`.
    status: Option<(String, String)>,
    /// The messages.
    body: BytesMut,
}

/// `grpc.health.v1.HealthCheckRequest`
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// What a server says that does not pass.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GrpcRefusal {
    #[error("gRPC health: {0}")]
    NotServing(&'static str),
    #[error(
        "the instance knows no gRPC service {0:?} (NOT_FOUND): give the name that it reports its health by, or grpc = true"
    )]
    UnknownService(String),
    #[error(
        "the instance has no gRPC health service (UNIMPLEMENTED): add grpc.health.v1.Health to it, or check with tcp = true"
    )]
    Unimplemented,
    #[error("gRPC status {status}{}", if message.is_empty() { String::new() } else { format!(": {message}") })]
    Status { status: String, message: String },
    #[error("status {0}, expected 200: no gRPC at this address")]
    Http(u16),
    #[error("an answer without a health status")]
    Empty,
}

impl GrpcProbe {
    pub(super) fn new(service: String, dialer: Dialer) -> Self {
        Self { service, dialer, kept: None }
    }

    pub(super) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    pub(super) async fn ask(&mut self, addr: SocketAddr) -> Result<(), ProbeError> {
        // A server closes its connections as it likes: failure on a kept one only means that a new one is needed.
        if let Some(mut link) = self.reuse(addr)
            && let Ok(answer) = link.call(self.dialer.scheme(), addr, &self.service).await
        {
            return self.judge(addr, link, &answer);
        }
        let mut link = Link::open(self.dialer.dial(addr).await?).await?;
        let answer = link.call(self.dialer.scheme(), addr, &self.service).await?;
        self.judge(addr, link, &answer)
    }

    /// Never ends; see `Probe::idle`.
    pub(super) async fn idle(&mut self) -> Infallible {
        Kept::idle(&mut self.kept).await
    }

    fn reuse(&mut self, addr: SocketAddr) -> Option<Link> {
        self.kept.take()?.reuse(addr)
    }

    fn judge(&mut self, addr: SocketAddr, link: Link, answer: &Answer) -> Result<(), ProbeError> {
        self.kept = Some(Kept::new(addr, link));
        Ok(answer.verdict(&self.service)?)
    }
}

impl Link {
    async fn call(&mut self, scheme: &str, addr: SocketAddr, service: &str) -> Result<Answer, ProbeError> {
        let request = Request::builder()
            .version(Version::HTTP_2)
            .method(Method::POST)
            .uri(format!("{scheme}://{addr}/grpc.health.v1.Health/Check"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header(header::USER_AGENT, AGENT)
            .body(())
            .map_err(ProbeError::Request)?;
        let message = framed(service);
        let calling = |sender: SendRequest<Bytes>| async move {
            let mut sender = sender.ready().await?;
            let (response, mut body) = sender.send_request(request, false)?;
            body.send_data(message, true)?;
            let (head, body) = response.await?.into_parts();
            Answer::read(head.status, &head.headers, body).await
        };
        Ok(self.drive(calling).await?)
    }
}

impl Answer {
    async fn read(http: StatusCode, headers: &HeaderMap, mut stream: RecvStream) -> Result<Self, h2::Error> {
        let mut body = BytesMut::new();
        while body.len() < LIMIT
            && let Some(data) = stream.data().await
        {
            let data = data?;
            stream.flow_control().release_capacity(data.len())?;
            body.extend_from_slice(&data);
        }
        // A server with nothing to say but its status says it in the head.
        let status = match status_in(headers) {
            None if body.len() < LIMIT => stream.trailers().await?.as_ref().and_then(status_in),
            said => said,
        };
        Ok(Self { http, status, body })
    }

    fn verdict(&self, service: &str) -> Result<(), GrpcRefusal> {
        if self.http != StatusCode::OK {
            return Err(GrpcRefusal::Http(self.http.as_u16()));
        }
        match &self.status {
            Some((status, _)) if status == "0" => {}
            Some((status, _)) if status == "5" => {
                return Err(GrpcRefusal::UnknownService(service.to_owned()));
            }
            Some((status, _)) if status == "12" => return Err(GrpcRefusal::Unimplemented),
            Some((status, message)) => {
                return Err(GrpcRefusal::Status { status: status.clone(), message: message.clone() });
            }
            None => return Err(GrpcRefusal::Empty),
        }
        let message = self.body.get(PREFIX..).filter(|_| self.body.first() == Some(&0));
        let answer = message.and_then(|message| HealthCheckResponse::decode(message).ok());
        match answer.ok_or(GrpcRefusal::Empty)?.status {
            1 => Ok(()),
            2 => Err(GrpcRefusal::NotServing("NOT_SERVING")),
            3 => Err(GrpcRefusal::NotServing("SERVICE_UNKNOWN")),
            _ => Err(GrpcRefusal::NotServing("UNKNOWN")),
        }
    }
}

/// The question as it is sent.
fn framed(service: &str) -> Bytes {
    let message = HealthCheckRequest { service: service.to_owned() }.encode_to_vec();
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(&message);
    framed.freeze()
}

fn status_in(fields: &HeaderMap) -> Option<(String, String)> {
    let text = |name| fields.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    Some((text("grpc-status")?, text("grpc-message").unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(http: u16, status: Option<&str>, body: &[u8]) -> Result<(), GrpcRefusal> {
        let status = status.map(|status| (status.to_owned(), "why".to_owned()));
        let http = StatusCode::from_u16(http).unwrap();
        Answer { http, status, body: BytesMut::from(body) }.verdict("a.B")
    }

    #[test]
    fn questions_are_framed_as_the_protocol_wants() {
        assert_eq!(&framed("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&framed("a.B")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
    }

    #[test]
    fn only_serving_passes_and_the_rest_is_told_in_words() {
        assert_eq!(verdict(200, Some("0"), &[0, 0, 0, 0, 2, 8, 1]), Ok(()));
        for (http, status, body, words) in [
            (200, Some("0"), &[0, 0, 0, 0, 2, 8, 2][..], "gRPC health: NOT_SERVING"),
            (200, Some("0"), &[0, 0, 0, 0, 2, 8, 3], "gRPC health: SERVICE_UNKNOWN"),
            (200, Some("0"), &[0, 0, 0, 0, 0], "gRPC health: UNKNOWN"),
            (200, Some("0"), b"", "an answer without a health status"),
            (200, Some("0"), &[1, 0, 0, 0, 2, 8, 1], "an answer without a health status"),
            (200, None, &[0, 0, 0, 0, 2, 8, 1], "an answer without a health status"),
            (200, Some("14"), b"", "gRPC status 14: why"),
            (404, None, b"", "status 404, expected 200: no gRPC at this address"),
        ] {
            assert_eq!(verdict(http, status, body).unwrap_err().to_string(), words);
        }
        assert!(verdict(200, Some("12"), b"").unwrap_err().to_string().contains("tcp = true"));
        assert!(verdict(200, Some("5"), b"").unwrap_err().to_string().contains("\"a.B\""));
    }
}
