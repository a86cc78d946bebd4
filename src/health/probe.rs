//! One probe of one address: a question, an answer, a time limit.

use super::dial::Dialer;
use super::grpc::GrpcProbe;
use super::http::HttpProbe;
use super::{CheckKind, CheckSettings, GrpcRefusal};
use crate::net::tls::TlsFailure;
use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

/// Asks one target. Keeps its HTTP connection between probes; dropping it closes that.
#[derive(Debug)]
pub struct Probe {
    kind: Kind,
    timeout: Duration,
    port: Option<u16>,
}

#[derive(Debug)]
enum Kind {
    Http(Box<HttpProbe>),
    Grpc(Box<GrpcProbe>),
    Tcp(Dialer),
}

/// Why a probe failed, in words for people.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("{}", in_words(.0))]
    Connect(#[source] io::Error),
    #[error("timed out after {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    #[error("timed out after {} in the TLS handshake", humantime::format_duration(*.0))]
    Handshake(Duration),
    #[error(transparent)]
    Tls(#[from] TlsFailure),
    #[error("{}", exchange_in_words(.0))]
    Exchange(#[source] hyper::Error),
    /// A server that wants a client certificate may end the connection so fast that its saying so is lost.
    #[error("{} (no client certificate is configured)", exchange_in_words(.0))]
    Anonymous(#[source] hyper::Error),
    #[error("{}", http2_in_words(.0, "gRPC"))]
    Http2(#[from] h2::Error),
    /// Of an HTTP check.
    #[error("{}", http2_in_words(.0, "HTTP/2"))]
    NoHttp2(#[source] h2::Error),
    #[error("the instance does not agree on HTTP/2 over TLS (ALPN), and the service is set to http = \"2\"")]
    NotAgreed,
    #[error(transparent)]
    Grpc(#[from] GrpcRefusal),
    #[error("status {got}, expected {expected}")]
    Status { got: u16, expected: String },
    #[error("body does not contain {0:?}")]
    Body(String),
    #[error("cannot ask: {0}")]
    Request(#[source] http::Error),
}

impl Probe {
    pub fn new(settings: &CheckSettings) -> Self {
        Self::of(settings, None)
    }

    /// With what the registry calls the target, for TLS that has no name of its own.
    pub(super) fn of(settings: &CheckSettings, name: Option<String>) -> Self {
        let dialer = Dialer::new(settings.tls.clone()).called(name);
        let kind = match &settings.kind {
            CheckKind::Http(check) => Kind::Http(Box::new(HttpProbe::new(check.clone(), dialer))),
            CheckKind::Grpc(service) => Kind::Grpc(Box::new(GrpcProbe::new(service.clone(), dialer))),
            CheckKind::Tcp => Kind::Tcp(dialer),
        };
        Self { kind, timeout: settings.timeout, port: settings.port }
    }

    /// Asks `addr`, at the port of the settings if they name one. Takes at most the settings' timeout. Cancel-safe: a
    /// dropped call costs the kept connection.
    ///
    /// # Errors
    /// If the target does not pass, or (see [`ProbeError::is_ours`]) could not be asked.
    pub async fn ask(&mut self, mut addr: SocketAddr) -> Result<(), ProbeError> {
        if let Some(port) = self.port {
            addr.set_port(port);
        }
        let (limit, begin) = (self.timeout, Instant::now());
        let asking = async {
            match &mut self.kind {
                Kind::Http(probe) => probe.ask(addr).await,
                Kind::Grpc(probe) => probe.ask(addr).await,
                Kind::Tcp(dialer) => dialer.knock(addr, || limit.saturating_sub(begin.elapsed()) / 2).await,
            }
        };
        match tokio::time::timeout(limit, asking).await {
            Ok(answer) => answer,
            Err(_) if self.dialer().was_handshaking() => Err(ProbeError::Handshake(limit)),
            Err(_) => Err(ProbeError::TimedOut(limit)),
        }
    }

    /// Looks after the kept connection until dropped: notices that the server closed it, closes it when it is old.
    /// Polling this between probes is good manners, not a must.
    pub async fn idle(&mut self) -> Infallible {
        match &mut self.kind {
            Kind::Http(probe) => probe.idle().await,
            Kind::Grpc(probe) => probe.idle().await,
            Kind::Tcp(_) => std::future::pending().await,
        }
    }

    fn dialer(&self) -> &Dialer {
        match &self.kind {
            Kind::Http(probe) => probe.dialer(),
            Kind::Grpc(probe) => probe.dialer(),
            Kind::Tcp(dialer) => dialer,
        }
    }
}

impl ProbeError {
    /// The process itself is out of file descriptors (ENFILE, EMFILE): that says nothing about the target.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Connect(error) if matches!(error.raw_os_error(), Some(23 | 24)))
    }
}

/// `connection refused`, without the system's number where the kind says it all.
fn in_words(error: &io::Error) -> String {
    use io::ErrorKind as Kind;
    match error.kind() {
        kind @ (Kind::ConnectionRefused
        | Kind::ConnectionReset
        | Kind::ConnectionAborted
        | Kind::HostUnreachable
        | Kind::NetworkUnreachable
        | Kind::NetworkDown
        | Kind::BrokenPipe
        | Kind::TimedOut) => kind.to_string(),
        _ => error.to_string(),
    }
}

/// The connection ended before its time.
pub(super) fn is_cut(error: &hyper::Error) -> bool {
    use io::ErrorKind as Kind;
    let of_stream = |io: &io::Error| {
        TlsFailure::of_stream(io).is_none()
            && matches!(io.kind(), Kind::UnexpectedEof | Kind::ConnectionReset | Kind::BrokenPipe)
    };
    error.is_incomplete_message() || error.is_canceled() || cause(error).is_some_and(of_stream)
}

fn exchange_in_words(error: &hyper::Error) -> String {
    let io = cause(error);
    let cut = error.is_incomplete_message()
        || error.is_canceled()
        || io.is_some_and(|io| io.kind() == io::ErrorKind::UnexpectedEof);
    match io {
        _ if cut => "connection closed before the answer was complete".to_owned(),
        Some(io) => TlsFailure::of_stream(io).map_or_else(|| in_words(io), |failure| failure.to_string()),
        None if error.is_parse() => format!("the answer is no HTTP/1.1: {error}"),
        None => error.to_string(),
    }
}

fn http2_in_words(error: &h2::Error, wanted: &str) -> String {
    match error.get_io() {
        Some(io) if io.kind() == io::ErrorKind::UnexpectedEof => {
            "connection closed before the answer was complete".to_owned()
        }
        Some(io) => TlsFailure::of_stream(io).map_or_else(|| in_words(io), |failure| failure.to_string()),
        None if error.is_go_away() || error.is_reset() => format!("the answer is no {wanted}: {error}"),
        None => error.to_string(),
    }
}

fn cause(error: &hyper::Error) -> Option<&io::Error> {
    error.source()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_shortage_is_no_evidence() {
        for (number, ours) in [(23, true), (24, true), (99, false), (104, false), (110, false), (111, false)]
        {
            let error = ProbeError::Connect(io::Error::from_raw_os_error(number));
            assert_eq!(error.is_ours(), ours, "{error}");
        }
    }

    #[test]
    fn failures_are_told_in_words() {
        for (error, words) in [
            (ProbeError::Connect(io::ErrorKind::ConnectionRefused.into()), "connection refused"),
            (ProbeError::TimedOut(Duration::from_secs(2)), "timed out after 2s"),
            (ProbeError::TimedOut(Duration::from_millis(250)), "timed out after 250ms"),
            (ProbeError::Handshake(Duration::from_secs(2)), "timed out after 2s in the TLS handshake"),
            (TlsFailure::NoTls.into(), "no TLS there"),
            (ProbeError::Status { got: 503, expected: "200-299".to_owned() }, "status 503, expected 200-299"),
            (ProbeError::Body("ready".to_owned()), "body does not contain \"ready\""),
        ] {
            assert_eq!(error.to_string(), words);
        }
    }
}
