//! The header fields that mean something to a proxy.

/// Which field it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Connection,
    ContentLength,
    ContentType,
    Date,
    Expect,
    ForwardedFor,
    ForwardedHost,
    ForwardedProto,
    Host,
    IdempotencyKey,
    KeepAlive,
    ProxyConnection,
    Te,
    Traceparent,
    Trailer,
    TransferEncoding,
    Upgrade,
    Via,
    Other,
}

impl Field {
    /// By its name, in any case. The length tells most of them apart: this runs for every field of every message.
    pub fn of(name: &[u8]) -> Self {
        let (known, field): (&[u8], _) = match (name.len(), name.first()) {
            (2, _) => (b"te", Self::Te),
            (3, _) => (b"via", Self::Via),
            (4, Some(b'h' | b'H')) => (b"host", Self::Host),
            (4, _) => (b"date", Self::Date),
            (6, _) => (b"expect", Self::Expect),
            (7, Some(b'u' | b'U')) => (b"upgrade", Self::Upgrade),
            (7, _) => (b"trailer", Self::Trailer),
            (10, Some(b'k' | b'K')) => (b"keep-alive", Self::KeepAlive),
            (10, _) => (b"connection", Self::Connection),
            (11, _) => (b"traceparent", Self::Traceparent),
            (12, _) => (b"content-type", Self::ContentType),
            (14, _) => (b"content-length", Self::ContentLength),
            (15, Some(b'i' | b'I')) => (b"idempotency-key", Self::IdempotencyKey),
            (15, _) => (b"x-forwarded-for", Self::ForwardedFor),
            (16, Some(b'p' | b'P')) => (b"proxy-connection", Self::ProxyConnection),
            (16, _) => (b"x-forwarded-host", Self::ForwardedHost),
            (17, Some(b't' | b'T')) => (b"transfer-encoding", Self::TransferEncoding),
            (17, _) => (b"x-forwarded-proto", Self::ForwardedProto),
            _ => return Self::Other,
        };
        if name.eq_ignore_ascii_case(known) { field } else { Self::Other }
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

/// The fields that `Connection` names, beyond those that never go on (RFC 9110, section 7.6.1). Mostly none.
#[derive(Debug, Default)]
pub(super) struct Named<'a>(Vec<&'a [u8]>);

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
pub(super) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Whether the list has `token`, in any case and with any parameters.
pub(super) fn lists(value: &[u8], token: &str) -> bool {
    tokens(value).any(|member| {
        let bare = member.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        bare.eq_ignore_ascii_case(token.as_bytes())
    })
}

/// A transfer coding that we would remove without decoding it.
pub(super) fn is_other_coding(value: &[u8]) -> bool {
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
