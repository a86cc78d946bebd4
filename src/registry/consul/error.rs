//! What can go wrong with Consul, and which of it somebody must mend.

use crate::registry::TlsError;

#[derive(Debug, thiserror::Error)]
pub enum ConsulError {
    /// The settings cannot work; found before any request.
    #[error("{0}")]
    Settings(String),
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The token could not be had; no request was made.
    #[error("the token file {path} {problem}")]
    Token { path: String, problem: String },
    /// No whole answer: connection, deadline, size, shape.
    #[error("{agent}: {problem}")]
    Exchange { agent: String, problem: String },
    /// A whole answer that says no.
    #[error("{agent} answered {status}: {text}")]
    Status { agent: String, status: u16, text: String },
}

/// What somebody must mend before the same request can succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The token is unknown or may not do this.
    Permission,
    Filter,
    Datacenter,
    /// Anything else that Consul calls a bad request.
    Request,
}

impl ConsulError {
    /// `None` if the same request may succeed later by itself.
    ///
    /// Consul answers 500 to much that is the client's fault, so the texts count (`agent/http.go` and
    /// `agent/consul/filter.go` of Consul 1.8 produce them).
    pub fn refusal(&self) -> Option<Refusal> {
        let Self::Status { status, text, .. } = self else { return None };
        let says = |part: &str| text.contains(part);
        match status {
            401 | 403 => Some(Refusal::Permission),
            400 | 500 if says("boolean expression evaluator") => Some(Refusal::Filter),
            400 | 500 if says("No path to datacenter") => Some(Refusal::Datacenter),
            500 if says("ACL not found") || says("Permission denied") => Some(Refusal::Permission),
            400 => Some(Refusal::Request),
            _ => None,
        }
    }

    /// Whether another agent might do better.
    pub fn is_of_the_agent(&self) -> bool {
        match self {
            Self::Exchange { .. } => true,
            Self::Status { .. } => self.refusal().is_none(),
            Self::Settings(_) | Self::Tls(_) | Self::Token { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, text: &str) -> ConsulError {
        ConsulError::Status { agent: "127.0.0.1:8500".into(), status, text: text.into() }
    }

    #[test]
    fn what_somebody_must_mend_is_told_from_what_heals_by_itself() {
        let cases = [
            (403, "ACL not found", Some(Refusal::Permission)),
            (403, "Permission denied", Some(Refusal::Permission)),
            (500, "rpc error making call: ACL not found", Some(Refusal::Permission)),
            (500, "Failed to create boolean expression evaluator: 1:4", Some(Refusal::Filter)),
            (500, "No path to datacenter", Some(Refusal::Datacenter)),
            (400, "Bad request: Invalid query parameter: \"ns\"", Some(Refusal::Request)),
            (500, "No cluster leader", None),
            (500, "rpc error making call: EOF", None),
            (429, "Your IP is issuing too many concurrent connections", None),
            (503, "", None),
            (301, "redirect", None),
        ];
        for (code, text, refusal) in cases {
            assert_eq!(status(code, text).refusal(), refusal, "{code} {text}");
            assert_eq!(status(code, text).is_of_the_agent(), refusal.is_none(), "{code} {text}");
        }
    }
}
