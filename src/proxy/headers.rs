//! Which header fields go on, which stay here, and which are added.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{Method, Uri, Version, request};
use rand::RngExt;
use rand::rngs::SmallRng;
use std::net::{IpAddr, SocketAddr};

const VIA: HeaderValue = HeaderValue::from_static("1.1 outrigger");
const VIA_1_0: HeaderValue = HeaderValue::from_static("1.0 outrigger");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// A request that came through this many sidecars of our name goes round in circles.
const MOST_HOPS: usize = 8;

/// What the request's head says about how to handle it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Traits {
    /// Safe to repeat (RFC 9110, section 9.2.2), or marked so by an Idempotency-Key.
    pub idempotent: bool,
    /// It asks to switch protocols.
    pub upgrade: bool,
    /// It waits for `100 Continue` before it sends its body.
    pub expects_continue: bool,
    pub grpc: bool,
}

/// Checks what hyper leaves to us; the text says what is wrong.
pub(super) fn check(parts: &request::Parts) -> Result<(), &'static str> {
    if parts.method == Method::CONNECT {
        return Err("CONNECT is not supported: this is a reverse proxy");
    }
    if parts.uri.authority().is_some() && parts.uri.scheme().is_none() {
        return Err("the request target is neither a path nor a whole URI (RFC 9112, section 3.2)");
    }
    if parts.headers.get_all(header::HOST).iter().nth(1).is_some() {
        return Err("more than one Host field (RFC 9112, section 3.2)");
    }
    if parts.version >= Version::HTTP_11 && !parts.headers.contains_key(header::HOST) {
        return Err("no Host field (RFC 9112, section 3.2)");
    }
    if other_coding(&parts.headers) {
        return Err("a transfer coding other than chunked (RFC 9112, section 6.1)");
    }
    // Two framings are two meanings: the classic of request smuggling (RFC 9112, section 6.1).
    if parts.headers.contains_key(header::TRANSFER_ENCODING)
        && (parts.headers.contains_key(header::CONTENT_LENGTH) || parts.version < Version::HTTP_11)
    {
        return Err("Transfer-Encoding beside Content-Length, or in HTTP/1.0 (RFC 9112, section 6.1)");
    }
    Ok(())
}

/// Checks what hyper leaves to us in a response; the text says what is wrong.
pub(super) fn check_answer(headers: &HeaderMap) -> Result<(), &'static str> {
    if other_coding(headers) { Err("a transfer coding other than chunked, unasked") } else { Ok(()) }
}

/// A transfer coding that we would remove without decoding it.
fn other_coding(headers: &HeaderMap) -> bool {
    let known = |value: &HeaderValue| {
        let value = value.as_bytes();
        value.eq_ignore_ascii_case(b"chunked") || value.eq_ignore_ascii_case(b"identity")
    };
    !headers.get_all(header::TRANSFER_ENCODING).iter().all(known)
}

/// Whether the client speaks gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"))
}

/// Whether the request has passed so many sidecars that it must be going in circles.
pub(super) fn came_round(headers: &HeaderMap) -> bool {
    let ours = |value: &HeaderValue| {
        let text = value.to_str().unwrap_or_default();
        text.split(',').filter(|hop| hop.trim().ends_with(" outrigger")).count()
    };
    headers.get_all(header::VIA).iter().map(ours).sum::<usize>() >= MOST_HOPS
}

/// Turns the client's head into the one that the instance gets; `service` is its Host if the client named none.
pub(super) fn to_upstream(
    parts: &mut request::Parts,
    peer: SocketAddr,
    service: &str,
    rng: &mut SmallRng,
) -> Traits {
    let chunked = parts.headers.contains_key(header::TRANSFER_ENCODING);
    let headers = &mut parts.headers;
    let trailers = lists(headers, &header::TE, "trailers");
    // `h2c` is obsolete, some clients offer it with every request, and nothing after the switch would be HTTP/1.1 any
    // more: it is treated as not sent (RFC 9113, section 3.1).
    let upgrade = parts.version == Version::HTTP_11
        && headers.contains_key(header::UPGRADE)
        && !lists(headers, &header::UPGRADE, "h2c")
        && lists(headers, &header::CONNECTION, "upgrade");
    let traits = Traits {
        idempotent: is_idempotent(&parts.method) || headers.contains_key(IDEMPOTENCY_KEY),
        upgrade,
        expects_continue: parts.version == Version::HTTP_11
            && headers
                .get(header::EXPECT)
                .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue")),
        grpc: is_grpc(headers),
    };
    // The target goes by origin form; an absolute one overrules Host (RFC 9112, section 3.2.2).
    if let Some(host) = parts.uri.authority().and_then(host_of) {
        headers.insert(header::HOST, host);
    }
    if parts.uri.scheme().is_some() {
        parts.uri = origin_form(&parts.uri);
    }
    let protocols = if upgrade { headers.get(header::UPGRADE).cloned() } else { None };
    strip_hop_by_hop(headers);
    if let Some(protocols) = protocols {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocols);
    } else if trailers {
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if chunked {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    forwarded(headers, peer);
    // HTTP/1.0 may go without Host, what we send may not (RFC 9112, section 3.2). The client did not name this one.
    if !headers.contains_key(header::HOST)
        && let Ok(host) = HeaderValue::from_str(service)
    {
        headers.insert(header::HOST, host);
    }
    // The version that was received (RFC 9110, section 7.6.3).
    headers.append(header::VIA, if parts.version < Version::HTTP_11 { VIA_1_0 } else { VIA });
    headers.entry(TRACEPARENT).or_insert_with(|| traceparent(rng));
    parts.version = Version::HTTP_11;
    traits
}

/// Removes what concerned only the connection to the instance.
pub(super) fn from_upstream(headers: &mut HeaderMap) {
    // A length beside a transfer coding means nothing, and must not go on (RFC 9112, section 6.3).
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    strip_hop_by_hop(headers);
}

/// RFC 9110, section 7.6.1: the fields that Connection names, and the ones that are hop-by-hop without being named.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::try_from(name.trim()).ok())
            // Framing and routing are not the client's to strip.
            .filter(|name| !matches!(*name, header::CONTENT_LENGTH | header::HOST))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, header::TE, header::TRANSFER_ENCODING, header::UPGRADE] {
        headers.remove(name);
    }
}

fn forwarded(headers: &mut HeaderMap, peer: SocketAddr) {
    let peer = IpText::new(peer.ip());
    match headers.entry(X_FORWARDED_FOR) {
        header::Entry::Occupied(mut earlier) => {
            let hops: Vec<&[u8]> =
                earlier.iter().map(HeaderValue::as_bytes).chain([peer.as_bytes()]).collect();
            if let Ok(joined) = HeaderValue::from_bytes(&hops.join(&b", "[..])) {
                earlier.insert(joined);
            }
        }
        header::Entry::Vacant(first) => {
            if let Ok(value) = HeaderValue::from_bytes(peer.as_bytes()) {
                first.insert(value);
            }
        }
    }
    headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    if !headers.contains_key(X_FORWARDED_HOST)
        && let Some(host) = headers.get(header::HOST).cloned()
    {
        headers.insert(X_FORWARDED_HOST, host);
    }
}

/// A fresh, unsampled W3C trace context (Trace Context, section 3.2): a later hop decides whether to record.
fn traceparent(rng: &mut SmallRng) -> HeaderValue {
    let (trace, span) = (rng.random::<u128>() | 1, rng.random::<u64>() | 1);
    HeaderValue::from_str(&format!("00-{trace:032x}-{span:016x}-00")).unwrap_or(HeaderValue::from_static(""))
}

fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// Whether a list-valued field holds `token`, in any case.
pub(super) fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(token))
}

fn host_of(authority: &Authority) -> Option<HeaderValue> {
    let text = authority.as_str();
    let host = text.rsplit_once('@').map_or(text, |(_, host)| host);
    HeaderValue::from_str(host).ok()
}

fn origin_form(uri: &Uri) -> Uri {
    uri.path_and_query().cloned().map_or_else(|| Uri::from_static("/"), Uri::from)
}

/// An address as text without an allocation.
struct IpText {
    text: [u8; 45],
    len: usize,
}

impl IpText {
    fn new(ip: IpAddr) -> Self {
        use std::io::Write;
        let mut text = [0; 45];
        let mut rest = &mut text[..];
        // 45 bytes hold any address.
        let _ = write!(rest, "{}", ip.to_canonical());
        let len = 45 - rest.len();
        Self { text, len }
    }

    fn as_bytes(&self) -> &[u8] {
        self.text.get(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use rand::SeedableRng;

    fn parts(build: http::request::Builder) -> request::Parts {
        build.body(()).unwrap().into_parts().0
    }

    fn sent(build: http::request::Builder) -> (request::Parts, Traits) {
        let mut parts = parts(build);
        let peer = "127.0.0.1:5000".parse().unwrap();
        let traits = to_upstream(&mut parts, peer, "web", &mut SmallRng::seed_from_u64(1));
        (parts, traits)
    }

    #[test]
    fn hop_by_hop_fields_stay_here_and_the_rest_goes_on() {
        let (parts, traits) = sent(
            Request::get("/x?y")
                .header("host", "orders")
                .header("connection", "keep-alive, X-Secret , host, content-length")
                .header("x-secret", "1")
                .header("keep-alive", "timeout=5")
                .header("proxy-connection", "keep-alive")
                .header("te", "gzip")
                .header("upgrade", "websocket")
                .header("x-mine", "2"),
        );
        for gone in ["connection", "x-secret", "keep-alive", "proxy-connection", "te", "upgrade"] {
            assert!(!parts.headers.contains_key(gone), "{gone}");
        }
        assert_eq!(parts.headers["host"], "orders");
        assert_eq!(parts.headers["x-mine"], "2");
        assert_eq!(parts.headers["via"], "1.1 outrigger");
        assert!(traits.idempotent && !traits.upgrade);
    }

    #[test]
    fn forwarded_fields_are_appended_or_begun() {
        let (parts, _) =
            sent(Request::get("/").header("host", "orders").header("x-forwarded-for", "10.0.0.9"));
        assert_eq!(parts.headers["x-forwarded-for"], "10.0.0.9, 127.0.0.1");
        assert_eq!(parts.headers["x-forwarded-proto"], "http");
        assert_eq!(parts.headers["x-forwarded-host"], "orders");
        let trace = parts.headers["traceparent"].to_str().unwrap();
        assert_eq!(trace.len(), 55);
        let (again, _) = sent(Request::get("/").header("host", "o").header("traceparent", trace));
        assert_eq!(again.headers["traceparent"], trace);
    }

    #[test]
    fn absolute_form_becomes_origin_form_and_overrules_host() {
        let (parts, _) = sent(Request::get("http://user@real:81/a?b").header("host", "other"));
        assert_eq!(parts.uri, "/a?b");
        assert_eq!(parts.headers["host"], "real:81");
        let (parts, _) = sent(Request::get("http://real").header("host", "other"));
        assert_eq!(parts.uri, "/");
        let (parts, _) = sent(Request::options("*").header("host", "other"));
        assert_eq!(parts.uri.to_string(), "*");
    }

    #[test]
    fn an_upgrade_and_trailers_are_asked_for_anew() {
        let (parts, traits) = sent(
            Request::get("/").header("connection", "keep-alive, Upgrade").header("upgrade", "websocket"),
        );
        assert!(traits.upgrade);
        assert_eq!(
            (&parts.headers["connection"], &parts.headers["upgrade"]),
            (&"upgrade".parse().unwrap(), &"websocket".parse().unwrap())
        );
        let (parts, _) =
            sent(Request::get("/").header("te", "gzip;q=1, trailers").header("connection", "te"));
        assert_eq!(parts.headers["te"], "trailers");
        let (parts, traits) = sent(
            Request::get("/")
                .version(Version::HTTP_10)
                .header("connection", "upgrade")
                .header("upgrade", "x"),
        );
        assert!(!traits.upgrade && !parts.headers.contains_key("upgrade"), "no upgrade from HTTP/1.0");
    }

    #[test]
    fn what_may_be_repeated() {
        for (method, key, expected) in [
            ("GET", false, true),
            ("PUT", false, true),
            ("DELETE", false, true),
            ("POST", false, false),
            ("PATCH", false, false),
            ("POST", true, true),
            ("PURGE", false, false),
        ] {
            let mut build = Request::builder().method(method).uri("/");
            if key {
                build = build.header("idempotency-key", "k");
            }
            assert_eq!(sent(build).1.idempotent, expected, "{method} {key}");
        }
    }

    #[test]
    fn ambiguous_heads_are_refused() {
        let bad = [
            Request::builder().method("CONNECT").uri("a:1").header("host", "a"),
            Request::get("/"),
            Request::get("orders").header("host", "a"),
            Request::get("/").header("host", "a").header("host", "b"),
            Request::post("/").header("host", "a").header("transfer-encoding", "gzip, chunked"),
            Request::post("/")
                .header("host", "a")
                .header("content-length", "1")
                .header("transfer-encoding", "chunked"),
            Request::post("/").version(Version::HTTP_10).header("transfer-encoding", "chunked"),
        ];
        for build in bad {
            let parts = parts(build);
            assert!(check(&parts).is_err(), "{parts:?}");
        }
        assert!(check(&parts(Request::get("/").version(Version::HTTP_10))).is_ok());
        assert!(check(&parts(Request::get("/").header("host", ""))).is_ok());
    }

    #[test]
    fn eight_hops_of_ours_are_a_circle() {
        let mut headers = HeaderMap::new();
        headers.append(header::VIA, "1.1 outrigger, 1.0 fred, 1.1 outrigger".parse().unwrap());
        assert!(!came_round(&headers));
        for _ in 0..6 {
            headers.append(header::VIA, VIA);
        }
        assert!(came_round(&headers));
        let mut headers = HeaderMap::new();
        for _ in 0..4 {
            assert!(!came_round(&headers));
            headers.append(header::VIA, VIA);
            headers.append(header::VIA, VIA_1_0);
        }
        assert!(came_round(&headers), "whatever version they came in");
    }

    #[test]
    fn http_1_0_gets_the_host_that_it_lacks() {
        let (parts, _) = sent(Request::get("/").version(Version::HTTP_10));
        assert_eq!((parts.version, &parts.headers["host"]), (Version::HTTP_11, &"web".parse().unwrap()));
        assert!(!parts.headers.contains_key("x-forwarded-host"), "the client said no such thing");
        assert_eq!(parts.headers["via"], "1.0 outrigger");
        let (parts, _) = sent(Request::get("http://real:81/a").version(Version::HTTP_10));
        assert_eq!(parts.headers["host"], "real:81");
        let (parts, _) = sent(Request::get("/").version(Version::HTTP_10).header("host", "named"));
        assert_eq!(parts.headers["host"], "named");
    }

    #[test]
    fn h2c_is_no_upgrade() {
        for offer in ["h2c", "H2C", "websocket, h2c"] {
            let (parts, traits) = sent(
                Request::get("/")
                    .header("connection", "Upgrade, HTTP2-Settings")
                    .header("upgrade", offer)
                    .header("http2-settings", "AAMAAABk"),
            );
            assert!(!traits.upgrade, "{offer}");
            for gone in ["connection", "upgrade", "http2-settings"] {
                assert!(!parts.headers.contains_key(gone), "{offer}: {gone}");
            }
        }
    }
}
