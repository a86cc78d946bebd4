//! What may be named as a host.

use memchr::memchr;
use std::net::Ipv6Addr;

/// Whether it is `uri-host [ ":" port ]` (RFC 9110, section 7.2; RFC 3986, section 3.2.2). Nothing at all is a host too:
/// it is what a client sends whose URI has none.
pub(super) fn is_host(value: &[u8]) -> bool {
    let (host_is_fine, port) = match value.strip_prefix(b"[") {
        Some(rest) => {
            let Some((literal, port)) = memchr(b']', rest).and_then(|end| rest.split_at_checked(end)) else {
                return false;
            };
            (is_ip_literal(literal), port.get(1..).unwrap_or_default())
        }
        None => {
            let (name, port) = value.split_at(memchr(b':', value).unwrap_or(value.len()));
            (is_name(name) && (port.is_empty() || !name.is_empty()), port)
        }
    };
    host_is_fine && (port.is_empty() || port.strip_prefix(b":").is_some_and(is_port))
}

/// A registered name or an IPv4 address.
fn is_name(text: &[u8]) -> bool {
    if text.iter().all(is_plain) {
        return true;
    }
    let mut parts = text.split(|byte| *byte == b'%');
    // What comes before the first percent sign; each of the others begins with a code.
    parts.next().is_some_and(|part| part.iter().all(is_plain))
        && parts.all(|part| {
            part.split_at_checked(2).is_some_and(|(code, rest)| {
                code.iter().all(u8::is_ascii_hexdigit) && rest.iter().all(is_plain)
            })
        })
}

/// Unreserved, or a delimiter within a component (RFC 3986, sections 2.2 and 2.3).
fn is_plain(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
        )
}

/// An IPv6 address, or one of a future version.
fn is_ip_literal(text: &[u8]) -> bool {
    if let Some(future) = text.strip_prefix(b"v").or(text.strip_prefix(b"V")) {
        let (version, rest) = future.split_at(memchr(b'.', future).unwrap_or(future.len()));
        return !version.is_empty()
            && version.iter().all(u8::is_ascii_hexdigit)
            && rest.len() > 1
            && rest.iter().all(|byte| is_plain(byte) || *byte == b':');
    }
    std::str::from_utf8(text).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

/// Digits and nothing else; none is the default port.
fn is_port(text: &[u8]) -> bool {
    text.is_empty()
        || text.iter().all(u8::is_ascii_digit)
            && std::str::from_utf8(text).is_ok_and(|text| text.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_what_only_looks_like_one() {
        for host in [
            "",
            "a",
            "a.b",
            "A_b-c~1.example.",
            "a:",
            "a:0",
            "a:65535",
            "127.0.0.1:80",
            "[::1]",
            "[::1]:8080",
            "[::1]:",
            "[v1.a:b]",
            "a%2Fb",
            "a%c3%A9:1",
            "a,b",
            "!$&'()*+;=",
        ] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            ":80",
            "a b",
            "a:b",
            "a:65536",
            "a:-1",
            "a:+1",
            "a:1:2",
            "a:1 ",
            "a/b",
            "a?b",
            "a#b",
            "a@b",
            "u:p@a",
            "[::1",
            "::1",
            "[::1]a",
            "[::1]80",
            "[::g]",
            "[]",
            "[v1]",
            "[v.a]",
            "[fe80::1%25eth0]",
            "a%",
            "a%2",
            "a%2g",
            "%zz",
            "a\\b",
            "a\"b",
            "a<b>",
            "a,b c",
            "caf\u{e9}",
            "a\tb",
            "a]",
            "http://a",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }
}
