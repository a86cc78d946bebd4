//! What can go wrong with DNS. None of it says anything about the instances.

use super::DnsName;
use hickory_resolver::net::{DnsError as Semantic, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use std::net::SocketAddr;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// It is not known whom to ask.
    #[error("{path}: {problem}; [dns] servers = [\"HOST:PORT\"] or ?server=HOST:PORT need no such file")]
    System { path: String, problem: String },
    /// Nobody can be asked.
    #[error("{0}")]
    Settings(String),
    /// A server says that it cannot tell: SERVFAIL, REFUSED and the like.
    #[error("{} answered {code} to {} {}", .asked.server, .asked.name, .asked.kind)]
    Code { asked: Box<Asked>, code: String },
    /// A server names others instead of asking them: it is none for us.
    #[error("{} does not know {} and only names other servers: a resolver's address is needed", .asked.server, .asked.name)]
    Referral { asked: Box<Asked> },
    #[error("{} did not answer {} {} within {timeout:?}", .asked.server, .asked.name, .asked.kind)]
    Timeout { asked: Box<Asked>, timeout: Duration },
    /// No answer that can be read.
    #[error("{}, asked for {} {}: {problem}", .asked.server, .asked.name, .asked.kind)]
    Exchange { asked: Box<Asked>, problem: String },
    /// One family cannot be told, the other could.
    #[error("{error}; the other family it does answer: ?family={other} asks for that alone")]
    Half { error: Box<DnsError>, other: u8 },
    /// Aliases that point at each other, or too many in a row.
    #[error("{name} leads through more than {limit} aliases")]
    Aliases { name: DnsName, limit: usize },
}

/// Who was asked for what.
#[derive(Clone, Debug)]
pub struct Asked {
    pub(super) server: SocketAddr,
    pub(super) name: DnsName,
    pub(super) kind: RecordType,
}

impl DnsError {
    /// Of a question that a server did not answer.
    pub(super) fn of(error: NetError, asked: Asked, timeout: Duration) -> Self {
        let asked = Box::new(asked);
        match error {
            NetError::Dns(Semantic::ResponseCode(code)) => Self::Code { asked, code: mnemonic(code) },
            NetError::Timeout => Self::Timeout { asked, timeout },
            NetError::Io(error) => Self::Exchange { asked, problem: error.to_string() },
            other => Self::Exchange { asked, problem: other.to_string() },
        }
    }
}

/// What everybody calls a response code (RFC 1035, 2136, 6895).
fn mnemonic(code: ResponseCode) -> String {
    match code {
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        ResponseCode::NotAuth => "NOTAUTH".to_owned(),
        other => format!("code {} ({other})", u16::from(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_server_the_question_and_the_code() {
        let server = ([127, 0, 0, 1], 53).into();
        let name = DnsName::new("orders.internal.").unwrap();
        let asked = Asked { server, name, kind: RecordType::AAAA };
        let of = |error| DnsError::of(error, asked.clone(), Duration::from_secs(2)).to_string();
        let code = |code| of(NetError::Dns(Semantic::ResponseCode(code)));
        assert_eq!(code(ResponseCode::ServFail), "127.0.0.1:53 answered SERVFAIL to orders.internal AAAA");
        assert_eq!(code(ResponseCode::Refused), "127.0.0.1:53 answered REFUSED to orders.internal AAAA");
        assert_eq!(
            code(ResponseCode::BADVERS),
            "127.0.0.1:53 answered code 16 (Bad option versions) to orders.internal AAAA"
        );
        assert_eq!(of(NetError::Timeout), "127.0.0.1:53 did not answer orders.internal AAAA within 2s");
    }
}
