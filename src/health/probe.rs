//! One probe of one address: a question, an answer, a time limit.

use super::http::HttpProbe;
use super::{CheckKind, CheckSettings, tcp};
use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

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
    Tcp,
}

/// Why a probe failed, in words for people.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("{}", in_words(.0))]
    Connect(#[source] io::Error),
    #[error("timed out after {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    #[error("{}", exchange_in_words(.0))]
    Exchange(#[source] hyper::Error),
    #[error("status {got}, expected {expected}")]
    Status { got: u16, expected: String },
    #[error("body does not contain {0:?}")]
    Body(String),
    #[error("cannot ask: {0}")]
    Request(#[source] http::Error),
}

impl Probe {
    pub fn new(settings: &CheckSettings) -> Self {
        let kind = match &settings.kind {
            CheckKind::Http(check) => Kind::Http(Box::new(HttpProbe::new(check.clone()))),
            CheckKind::Tcp => Kind::Tcp,
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
        let asking = async {
            match &mut self.kind {
                Kind::Http(probe) => probe.ask(addr).await,
                Kind::Tcp => tcp::connect(addr).await.map(drop),
            }
        };
        tokio::time::timeout(self.timeout, asking).await.unwrap_or(Err(ProbeError::TimedOut(self.timeout)))
    }

    /// Looks after the kept connection until dropped: notices that the server closed it, closes it when it is old.
    /// Polling this between probes is good manners, not a must.
    pub async fn idle(&mut self) -> Infallible {
        match &mut self.kind {
            Kind::Http(probe) => probe.idle().await,
            Kind::Tcp => std::future::pending().await,
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

fn exchange_in_words(error: &hyper::Error) -> String {
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let cut = error.is_incomplete_message()
        || error.is_canceled()
        || io.is_some_and(|io| io.kind() == io::ErrorKind::UnexpectedEof);
    match io {
        _ if cut => "connection closed before the answer was complete".to_owned(),
        Some(io) => in_words(io),
        None if error.is_parse() => format!("the answer is no HTTP/1.1: {error}"),
        None => error.to_string(),
    }
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
            (ProbeError::Status { got: 503, expected: "200-299".to_owned() }, "status 503, expected 200-299"),
            (ProbeError::Body("ready".to_owned()), "body does not contain \"ready\""),
        ] {
            assert_eq!(error.to_string(), words);
        }
    }
}
