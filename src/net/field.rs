//! The header fields that mean something to a proxy.

/// Which field it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Connection,
    ContentLength,
    ContentType,
    Date,
    Expect,
    ForwardedFor,
    ForwardedHost,
    ForwardedProto,
    GrpcStatus,
    GrpcTimeout,
    Host,
    IdempotencyKey,
    KeepAlive,
    MaxForwards,
    ProxyConnection,
    Te,
    Traceparent,
    Trailer,
    TransferEncoding,
    Upgrade,
    Via,
    RetryAfter,
    Other,
}

impl Field {
    /// By its name, in any case. The length tells most of them apart: this runs for every field of every message.
    pub fn of(name: &[u8]) -> Self {
        let first = name.first().map_or(0, u8::to_ascii_lowercase);
        let found = match (name.len(), first) {
            (2, _) => is(name, b"te").then_some(Self::Te),
            (3, _) => is(name, b"via").then_some(Self::Via),
            (4, b'h') => is(name, b"host").then_some(Self::Host),
            (4, _) => is(name, b"date").then_some(Self::Date),
            (6, _) => is(name, b"expect").then_some(Self::Expect),
            (7, b'u') => is(name, b"upgrade").then_some(Self::Upgrade),
            (7, _) => is(name, b"trailer").then_some(Self::Trailer),
            (10, b'k') => is(name, b"keep-alive").then_some(Self::KeepAlive),
            (10, _) => is(name, b"connection").then_some(Self::Connection),
            (11, b'r') => is(name, b"retry-after").then_some(Self::RetryAfter),
            (11, b'g') => is(name, b"grpc-status").then_some(Self::GrpcStatus),
            (11, _) => is(name, b"traceparent").then_some(Self::Traceparent),
            (12, b'g') => is(name, b"grpc-timeout").then_some(Self::GrpcTimeout),
            (12, b'm') => is(name, b"max-forwards").then_some(Self::MaxForwards),
            (12, _) => is(name, b"content-type").then_some(Self::ContentType),
            (14, _) => is(name, b"content-length").then_some(Self::ContentLength),
            (15, b'i') => is(name, b"idempotency-key").then_some(Self::IdempotencyKey),
            (15, _) => is(name, b"x-forwarded-for").then_some(Self::ForwardedFor),
            (16, b'p') => is(name, b"proxy-connection").then_some(Self::ProxyConnection),
            (16, _) => is(name, b"x-forwarded-host").then_some(Self::ForwardedHost),
            (17, b't') => is(name, b"transfer-encoding").then_some(Self::TransferEncoding),
            (17, _) => is(name, b"x-forwarded-proto").then_some(Self::ForwardedProto),
            _ => None,
        };
        found.unwrap_or(Self::Other)
    }

    /// It concerns one connection only, even if `Connection` does not name it (RFC 9110, section 7.6.1).
    pub fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::Te
                | Self::TransferEncoding
                | Self::Upgrade
        )
    }
}

/// Whether a field may come after the body, where it is no part of the head any more: nothing that frames, routes or
/// controls a message, or says who sends it (RFC 9110, section 6.5.1).
pub fn may_trail(name: &[u8]) -> bool {
    let field = Field::of(name);
    let heads_only = matches!(
        field,
        Field::ContentLength
            | Field::ContentType
            | Field::Expect
            | Field::ForwardedFor
            | Field::ForwardedHost
            | Field::ForwardedProto
            | Field::GrpcTimeout
            | Field::Host
            | Field::MaxForwards
            | Field::Trailer
            | Field::Via
    );
    let others: [&[u8]; 6] = [
        b"authorization",
        b"proxy-authorization",
        b"cookie",
        b"set-cookie",
        b"content-encoding",
        b"content-range",
    ];
    !field.is_hop_by_hop() && !heads_only && !others.iter().any(|other| other.eq_ignore_ascii_case(name))
}

/// Whether the name is the known one, which is in lower case; in one sweep over both, without a branch.
///
/// The bit that makes letters small makes a letter of no other character of a name, and leaves the hyphen alone
/// (RFC 9110, section 5.6.2).
fn is<const LENGTH: usize>(name: &[u8], known: &[u8; LENGTH]) -> bool {
    let Ok(name) = <&[u8; LENGTH]>::try_from(name) else { return false };
    name.iter().zip(known).fold(0, |different, (byte, known)| different | ((byte | 0x20) ^ known)) == 0
}

/// The fields that `Connection` names, beyond those that never go on (RFC 9110, section 7.6.1). Mostly none.
#[derive(Debug, Default)]
pub struct Named<'a>(Vec<&'a [u8]>);

impl<'a> Named<'a> {
    /// Takes in one value of `Connection`.
    pub fn add(&mut self, value: &'a [u8]) {
        let known = |name: &&[u8]| {
            let field = Field::of(name);
            // Framing and routing are not the client's to strip.
            let kept = matches!(field, Field::ContentLength | Field::Host);
            kept || field.is_hop_by_hop() || name.is_empty() || name.eq_ignore_ascii_case(b"close")
        };
        self.0.extend(tokens(value).filter(|name| !known(name)));
    }

    pub fn has(&self, name: &[u8]) -> bool {
        self.0.iter().any(|named| named.eq_ignore_ascii_case(name))
    }
}

/// The members of a list-valued field.
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Whether the list has `token`, in any case and with any parameters.
pub fn lists(value: &[u8], token: &str) -> bool {
    tokens(value).any(|member| {
        let bare = member.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        bare.eq_ignore_ascii_case(token.as_bytes())
    })
}

/// A transfer coding that we would remove without decoding it.
pub fn is_other_coding(value: &[u8]) -> bool {
    !value.eq_ignore_ascii_case(b"chunked") && !value.eq_ignore_ascii_case(b"identity")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case_and_lookalikes_are_not() {
        for (name, field) in [
            ("te", Field::Te),
            ("Host", Field::Host),
            ("DATE", Field::Date),
            ("x-Forwarded-For", Field::ForwardedFor),
            ("Idempotency-Key", Field::IdempotencyKey),
            ("Transfer-Encoding", Field::TransferEncoding),
            ("Proxy-Connection", Field::ProxyConnection),
            ("TRAILER", Field::Trailer),
            ("Grpc-Status", Field::GrpcStatus),
            ("grpc-timeout", Field::GrpcTimeout),
            ("Max-Forwards", Field::MaxForwards),
            ("Content-Type", Field::ContentType),
            ("tf", Field::Other),
            ("hast", Field::Other),
            ("transfer_encoding", Field::Other),
            ("", Field::Other),
        ] {
            assert_eq!(Field::of(name.as_bytes()), field, "{name}");
        }
    }

    #[test]
    fn connection_names_what_is_not_known_anyway() {
        let mut named = Named::default();
        named.add(b"keep-alive, X-Secret ,, host, Content-Length, close");
        assert!(named.has(b"x-secret") && named.0.len() == 1);
        assert!(lists(b"gzip;q=1, Trailers ;q=0.5", "trailers") && !lists(b"trailersx", "trailers"));
    }
}
