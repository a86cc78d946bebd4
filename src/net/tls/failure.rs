//! Why a server and we did not come together, in words for people.

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};
use std::io;

/// A handshake that failed, or an end that TLS has a reason for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsFailure {
    /// What came is no TLS.
    #[error("no TLS there")]
    NoTls,
    /// The connection ended before the handshake did. Servers without TLS do that, and confused ones with it.
    #[error("TLS: connection closed during the handshake")]
    Closed,
    #[error("TLS: certificate not trusted (unknown issuer)")]
    Untrusted,
    /// Somebody else is called as the authority that we trust; often that is the same one with a new key.
    #[error("TLS: certificate not trusted (not signed by the issuer that it names)")]
    Unsigned,
    #[error("TLS: certificate is for other names than {0}")]
    OtherName(String),
    #[error("TLS: certificate expired")]
    Expired,
    #[error("TLS: certificate not valid yet")]
    NotYetValid,
    /// It has another fault.
    #[error("TLS: certificate not accepted ({0})")]
    Certificate(String),
    #[error("TLS: the server wants a client certificate")]
    Anonymous,
    /// The server ended it, and says why.
    #[error("TLS: refused by the server ({0})")]
    Refused(String),
    /// What the registry calls the server.
    #[error("TLS: {0:?} (tls_server_name) is no host's name or IP address")]
    BadName(String),
    #[error("TLS: {0}")]
    Other(String),
}

impl TlsFailure {
    /// `name` is the server's, as we call it; `anonymous` is whoever has no certificate to show.
    pub(super) fn of_handshake(error: &io::Error, name: &ServerName<'_>, anonymous: bool) -> Self {
        use io::ErrorKind as Kind;
        match (reason(error), error.kind()) {
            // Before TLS 1.3 most servers have no other word for it that they want a client certificate.
            (Some(Error::AlertReceived(alert @ AlertDescription::HandshakeFailure)), _) if anonymous => {
                Self::Refused(format!("{alert:?}; no client certificate is configured"))
            }
            (Some(reason), _) => Self::of(reason, Some(name)),
            (None, Kind::UnexpectedEof | Kind::ConnectionReset | Kind::BrokenPipe) => Self::Closed,
            (None, _) => Self::Other(error.to_string()),
        }
    }

    /// The reason that TLS has for the failure of a stream, if it is TLS that failed.
    pub fn of_stream(error: &io::Error) -> Option<Self> {
        Some(Self::of(reason(error)?, None))
    }

    /// The server has judged our certificate, or the lack of one: it says so before it looks at a request.
    pub fn is_of_our_certificate(error: &io::Error) -> bool {
        use AlertDescription as Alert;
        let Some(Error::AlertReceived(alert)) = reason(error) else { return false };
        matches!(
            alert,
            Alert::CertificateRequired
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied
                | Alert::DecryptError
                | Alert::HandshakeFailure
        )
    }

    fn of(error: &Error, name: Option<&ServerName<'_>>) -> Self {
        use CertificateError as Fault;
        use InvalidMessage as Odd;
        match error {
            Error::InvalidMessage(
                Odd::InvalidContentType | Odd::UnknownProtocolVersion | Odd::MessageTooLarge,
            ) => Self::NoTls,
            Error::InvalidCertificate(fault) => match fault {
                Fault::UnknownIssuer => Self::Untrusted,
                Fault::BadSignature => Self::Unsigned,
                Fault::NotValidForName | Fault::NotValidForNameContext { .. } => {
                    Self::OtherName(name.map_or_else(|| "ours".into(), |name| name.to_str().into_owned()))
                }
                Fault::Expired | Fault::ExpiredContext { .. } => Self::Expired,
                Fault::NotValidYet | Fault::NotValidYetContext { .. } => Self::NotYetValid,
                Fault::Other(other) if other.0.to_string() == "CaUsedAsEndEntity" => {
                    Self::Certificate("it is made for an authority, not for a server: CA:TRUE".into())
                }
                other => Self::Certificate(other.to_string()),
            },
            Error::NoCertificatesPresented => Self::Certificate("there is none".into()),
            Error::AlertReceived(AlertDescription::CertificateRequired) => Self::Anonymous,
            Error::AlertReceived(alert) => Self::Refused(format!("{alert:?}")),
            other => Self::Other(other.to_string()),
        }
    }
}

/// What TLS itself has against it.
fn reason(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_in_words() {
        let name = ServerName::try_from("orders.internal").unwrap();
        let wrapped = |error: Error| io::Error::new(io::ErrorKind::InvalidData, error);
        let words = |error: Error| TlsFailure::of_handshake(&wrapped(error), &name, false).to_string();
        for (error, expected) in [
            (CertificateError::UnknownIssuer.into(), "TLS: certificate not trusted (unknown issuer)"),
            (
                CertificateError::NotValidForName.into(),
                "TLS: certificate is for other names than orders.internal",
            ),
            (CertificateError::Expired.into(), "TLS: certificate expired"),
            (CertificateError::NotValidYet.into(), "TLS: certificate not valid yet"),
            (InvalidMessage::InvalidContentType.into(), "no TLS there"),
            (
                Error::AlertReceived(AlertDescription::CertificateRequired),
                "TLS: the server wants a client certificate",
            ),
            (
                Error::AlertReceived(AlertDescription::NoApplicationProtocol),
                "TLS: refused by the server (NoApplicationProtocol)",
            ),
        ] {
            assert_eq!(words(error), expected);
        }
        let closed = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(TlsFailure::of_handshake(&closed, &name, false), TlsFailure::Closed);
        let refused = wrapped(Error::AlertReceived(AlertDescription::HandshakeFailure));
        for (anonymous, words) in [
            (false, "TLS: refused by the server (HandshakeFailure)"),
            (true, "TLS: refused by the server (HandshakeFailure; no client certificate is configured)"),
        ] {
            assert_eq!(TlsFailure::of_handshake(&refused, &name, anonymous).to_string(), words);
        }
        assert_eq!(TlsFailure::of_stream(&closed), None, "an end is not TLS's business");
    }
}
