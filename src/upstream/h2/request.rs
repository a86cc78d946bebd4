//! A request head as HTTP/1.1 writes it, in HTTP/2's form (RFC 9113, section 8.3; RFC 8441 for WebSockets).

use crate::net::field::{Field, lists};
use crate::net::websocket::accept_of;
use crate::upstream::Framing;
use ::h2::ext::Protocol;
use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version, header};
use httparse::{EMPTY_HEADER, Status};
use std::net::SocketAddr;

/// Most requests have fewer fields ...
const FEW_FIELDS: usize = 64;
/// ... and no client may send more than 4096, to which we add a few.
const MOST_FIELDS: usize = 4200;

/// A request as it goes onto a stream.
#[derive(Debug)]
pub(super) struct Translated {
    pub request: Request<()>,
    /// Nothing follows its head.
    pub ends: bool,
    /// It asks for a WebSocket: what `Sec-WebSocket-Accept` must answer.
    pub accept: Option<String>,
}

/// Whether a head that asks to switch protocols asks for a WebSocket.
pub(in crate::upstream) fn is_websocket(head: &[u8]) -> bool {
    let mut room = [EMPTY_HEADER; FEW_FIELDS];
    let mut request = httparse::Request::new(&mut room);
    // What cannot be read here is no WebSocket's.
    let _ = request.parse(head);
    request
        .headers
        .iter()
        .any(|field| Field::of(field.name.as_bytes()) == Field::Upgrade && lists(field.value, "websocket"))
}

/// Translates a head that we wrote ourselves. `addr` is the authority if its Host is none.
///
/// # Errors
/// What of it has no place in HTTP/2.
pub(super) fn translate(
    head: &[u8],
    framing: Framing,
    websocket: bool,
    secure: bool,
    addr: SocketAddr,
) -> Result<Translated, &'static str> {
    let mut room = [EMPTY_HEADER; FEW_FIELDS];
    let mut parsed = httparse::Request::new(&mut room);
    let mut more;
    let mut status = parsed.parse(head);
    if status == Err(httparse::Error::TooManyHeaders) {
        more = vec![EMPTY_HEADER; MOST_FIELDS];
        parsed = httparse::Request::new(&mut more);
        status = parsed.parse(head);
    }
    let (Ok(Status::Complete(_)), Some(method), Some(path)) = (status, parsed.method, parsed.path) else {
        return Err("the request head has too many fields for HTTP/2");
    };
    let mut request = Request::new(());
    let mut authority = None;
    let mut key = None;
    let headers = request.headers_mut();
    headers.reserve(parsed.headers.len());
    for header in parsed.headers.iter() {
        match Field::of(header.name.as_bytes()) {
            Field::Host => authority = authority_of(header.value),
            Field::Te if lists(header.value, "trailers") => {
                headers.insert(header::TE, HeaderValue::from_static("trailers"));
            }
            field if field.is_hop_by_hop() => {}
            // The stream carries the tunnel, and no body.
            Field::ContentLength if websocket => {}
            _ if websocket && header.name.eq_ignore_ascii_case("sec-websocket-key") => {
                key = Some(header.value);
            }
            _ => {
                let name = HeaderName::from_bytes(header.name.as_bytes());
                let value = HeaderValue::from_bytes(header.value);
                let (Ok(name), Ok(value)) = (name, value) else {
                    return Err("a request field has no form in HTTP/2");
                };
                headers.append(name, value);
            }
        }
    }
    let authority = match authority {
        Some(authority) => authority,
        None => addr.to_string().parse().map_err(|_| "no authority")?,
    };
    let path = PathAndQuery::from_maybe_shared(Bytes::copy_from_slice(path.as_bytes()))
        .map_err(|_| "the request target has no form in HTTP/2")?;
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(authority);
    parts.path_and_query = Some(path);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| "the request target has no form in HTTP/2")?;
    *request.version_mut() = Version::HTTP_2;
    let mut accept = None;
    if websocket {
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        accept = Some(accept_of(key.unwrap_or_default()));
    } else {
        *request.method_mut() = Method::from_bytes(method.as_bytes()).map_err(|_| "no method")?;
    }
    let ends = !websocket && matches!(framing, Framing::Empty | Framing::Length(0));
    Ok(Translated { request, ends, accept })
}

/// A Host without what has no place in `:authority` (RFC 9113, section 8.3.1); `None` if it is none.
fn authority_of(host: &[u8]) -> Option<Authority> {
    let bare = host.rsplit(|byte| *byte == b'@').next().unwrap_or_default();
    Authority::from_maybe_shared(Bytes::copy_from_slice(bare)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, framing: Framing, websocket: bool) -> Translated {
        let addr = "10.0.0.1:80".parse().unwrap();
        translate(text.as_bytes(), framing, websocket, websocket, addr).unwrap()
    }

    #[test]
    fn a_head_becomes_pseudo_headers_and_fields() {
        let text = "POST /a?b=c HTTP/1.1\r\nHost: user@shop.test:81\r\nX-Camel: 1\r\nx-camel:  2 \r\n\
                    Connection: te\r\nTE: gzip, trailers\r\nKeep-Alive: 5\r\nTransfer-Encoding: chunked\r\n\
                    Content-Type: application/grpc\r\nvia: 1.1 outrigger\r\n\r\n";
        let Translated { request, ends, accept } = of(text, Framing::Chunked, false);
        assert_eq!((request.method(), ends, accept), (&Method::POST, false, None));
        assert_eq!(request.uri().to_string(), "http://shop.test:81/a?b=c");
        let fields: Vec<_> =
            request.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(
            fields,
            [
                ("x-camel", "1"),
                ("x-camel", "2"),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("via", "1.1 outrigger")
            ]
        );
    }

    #[test]
    fn what_has_no_body_ends_with_its_head_and_the_asterisk_stays() {
        let star = of("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", Framing::Empty, false);
        assert!(star.ends);
        assert_eq!(star.request.uri().path(), "*");
        for host in ["", "a b", "\u{e9}"] {
            let text = format!("GET / HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n\r\n");
            let of = of(&text, Framing::Length(0), false);
            assert_eq!(of.request.uri().authority().unwrap(), "10.0.0.1:80", "{host:?}");
            assert!(of.ends);
        }
    }

    #[test]
    fn a_websocket_becomes_an_extended_connect() {
        let text = "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        assert!(is_websocket(text.as_bytes()));
        assert!(!is_websocket(b"GET / HTTP/1.1\r\nhost: websocket\r\nupgrade: other\r\n\r\n"));
        let Translated { request, ends, accept } = of(text, Framing::Empty, true);
        // The example of RFC 6455, section 1.3.
        assert_eq!(accept.as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!((request.method(), ends), (&Method::CONNECT, false));
        assert_eq!(request.uri().to_string(), "https://a/chat");
        assert_eq!(request.extensions().get::<Protocol>().unwrap().as_str(), "websocket");
        assert_eq!(request.headers().len(), 1);
    }

    #[test]
    fn a_head_with_many_fields_is_translated_too() {
        let many = "x: y\r\n".repeat(4100);
        let text = format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n");
        assert_eq!(of(&text, Framing::Empty, false).request.headers().len(), 4100);
    }
}
