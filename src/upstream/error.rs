//! How far a request got before it failed: that decides what may be tried again.

use super::head::Malformed;
use super::outgoing::BodyError;
use crate::net::tls::TlsFailure;
use rustix::io::Errno;
use std::io;

/// A request without a response head.
#[derive(Debug, thiserror::Error)]
#[error("{stage}{}: {source}", if *.reused { " on a kept-alive connection" } else { "" })]
pub struct SendError {
    pub stage: Stage,
    /// The connection had carried another request before.
    pub reused: bool,
    /// Some byte of an answer came: the instance has seen the request.
    pub heard: bool,
    pub source: Cause,
}

/// How far it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// No connection.
    Connect,
    /// A connection, but not one byte of the request left.
    Unsent,
    /// The instance may have seen the request; no response head came.
    Head,
}

#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no connection in time")]
    Timeout,
    /// The instance and we do not come together over TLS; `name` is what we call it.
    #[error("{}", in_words(.why, .name))]
    Tls { why: TlsFailure, name: String },
    #[error("connection closed")]
    Closed,
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// What came back is not what was to be spoken.
    #[error("{0}")]
    Protocol(String),
    #[error("{0}")]
    Http2(::h2::Error),
    #[error("{0}")]
    Body(#[from] BodyError),
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting",
            Self::Unsent => "before sending",
            Self::Head => "before the response head",
        })
    }
}

/// The failure, and whom we took the instance for unless the failure says so itself.
fn in_words(why: &TlsFailure, name: &str) -> String {
    match why {
        TlsFailure::NoTls => "the instance speaks no TLS, and the service is set to tls".to_owned(),
        TlsFailure::OtherName(_) | TlsFailure::BadName(_) => why.to_string(),
        why if name.is_empty() => why.to_string(),
        why => format!("{why}, asked for as {name}"),
    }
}

impl SendError {
    pub(super) fn connect(source: impl Into<Cause>) -> Self {
        Self { stage: Stage::Connect, reused: false, heard: false, source: source.into() }
    }

    /// The same failure, told to somebody else who waited for the same connection.
    pub(super) fn again(&self) -> Self {
        let source = match &self.source {
            Cause::Io(error) => Cause::Io(match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(error.kind(), error.to_string()),
            }),
            Cause::Timeout => Cause::Timeout,
            Cause::Tls { why, name } => Cause::Tls { why: why.clone(), name: name.clone() },
            Cause::Malformed(malformed) => Cause::Malformed(*malformed),
            Cause::Protocol(why) => Cause::Protocol(why.clone()),
            Cause::Closed | Cause::Body(_) | Cause::Http2(_) => Cause::Closed,
        };
        Self { source, ..*self }
    }

    /// What came back was no HTTP.
    pub fn is_protocol(&self) -> bool {
        matches!(self.source, Cause::Malformed(_) | Cause::Protocol(_))
    }

    /// This process, or the whole machine, has no file descriptor left: that says nothing of the instance.
    pub fn is_out_of_files(&self) -> bool {
        let Cause::Io(error) = &self.source else { return false };
        matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
    }

    /// Our own request body failed: the client's upload broke off.
    pub fn is_upload(&self) -> bool {
        matches!(self.source, Cause::Body(_))
    }
}
