//! Heads of HTTP/2 and what they are in HTTP/1.1, both ways (RFC 9113, section 8).

use crate::net::field::{Field, Named, may_trail};
use crate::upstream::{Fields, Head};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request, uri};

/// Makes of a request's head on a stream what it would be in HTTP/1.1: with a Host, and one Cookie. The names and values
/// themselves, the pseudo-fields' order and the length of the body were checked when it was read. A fragment in `:path` is
/// cut off there, too, without a trace: it reaches nobody.
///
/// # Errors
/// The text says what is wrong.
pub(in crate::proxy) fn from_stream(parts: &mut request::Parts) -> Result<(), &'static str> {
    let request::Parts { method, uri, headers, .. } = parts;
    if uri.scheme().is_some_and(|scheme| *scheme != uri::Scheme::HTTP && *scheme != uri::Scheme::HTTPS) {
        return Err(":scheme is neither http nor https (RFC 9113, section 8.3.1)");
    }
    let path = uri.path();
    if *method != Method::CONNECT && !path.starts_with('/') && !(path == "*" && *method == Method::OPTIONS) {
        return Err(":path does not start with / (RFC 9113, section 8.3.1)");
    }
    if headers.values().any(|value| value.as_bytes().trim_ascii().len() != value.len()) {
        return Err("the value of a field begins or ends with white space (RFC 9113, section 8.2.1)");
    }
    if let Some(authority) = uri.authority() {
        let authority = authority.as_str();
        if authority.contains('@') {
            return Err(":authority with user information (RFC 9113, section 8.3.1)");
        }
        let same = |host: &HeaderValue| host.as_bytes().eq_ignore_ascii_case(authority.as_bytes());
        if !headers.get_all(header::HOST).iter().all(same) {
            return Err(":authority and Host contradict each other (RFC 9113, section 8.3.1)");
        }
        let host = HeaderValue::from_str(authority).map_err(|_| ":authority is no value of a field")?;
        headers.insert(header::HOST, host);
    }
    join_cookies(headers)?;
    // They are all the same.
    if let Some(length) = headers.get(header::CONTENT_LENGTH).cloned() {
        headers.insert(header::CONTENT_LENGTH, length);
    }
    Ok(())
}

/// Compression splits them; what is not HTTP/2 wants them in one (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) -> Result<(), &'static str> {
    let crumbs: Vec<_> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1 {
        let whole = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
            .map_err(|_| "Cookie is no value of a field (RFC 9110, section 5.5)")?;
        headers.insert(header::COOKIE, whole);
    }
    Ok(())
}

/// The fields of a response that go on to the client on a stream, in lower case and without those of the instance's
/// connection (RFC 9113, section 8.2).
pub(in crate::proxy) fn to_stream(head: &Head) -> HeaderMap {
    let fields = &head.fields;
    let chunked = fields.all(Field::TransferEncoding).next().is_some();
    // These never have a body, and must not say how long it is (RFC 9110, section 8.6).
    let bodiless = head.status.is_informational() || head.status == StatusCode::NO_CONTENT;
    let mut length = !(chunked || bodiless);
    let mut headers = kept(fields, |field| field != Field::ContentLength || std::mem::take(&mut length));
    headers.append(
        header::VIA,
        HeaderValue::from_static(if head.old { "1.0 outrigger" } else { "1.1 outrigger" }),
    );
    headers
}

/// The fields of an interim response: it has no body.
pub(in crate::proxy) fn interim_to_stream(fields: &Fields) -> HeaderMap {
    kept(fields, |field| field != Field::ContentLength)
}

fn kept(fields: &Fields, mut keep: impl FnMut(Field) -> bool) -> HeaderMap {
    let mut named = Named::default();
    fields.all(Field::Connection).for_each(|value| named.add(value));
    let mut headers = HeaderMap::new();
    for (field, name, value) in fields.iter() {
        if field.is_hop_by_hop() || named.has(name) || !keep(field) {
            continue;
        }
        // What cannot be a field in HTTP/2 is no valid one in HTTP/1.1 either.
        let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_maybe_shared(fields.share(value)))
        else {
            continue;
        };
        // More fields than a map has room for do not come through the limits of a head.
        let _ = headers.try_append(name, value);
    }
    headers
}

/// Takes out what has no place in trailers, or none in HTTP/2 (RFC 9110, section 6.5.1).
pub(in crate::proxy) fn trailers_to_stream(mut trailers: HeaderMap) -> HeaderMap {
    let gone: Vec<_> = trailers.keys().filter(|name| !may_trail(name.as_str().as_bytes())).cloned().collect();
    for name in gone {
        trailers.remove(name);
    }
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn read(build: request::Builder) -> Result<request::Parts, &'static str> {
        let mut parts = build.body(()).unwrap().into_parts().0;
        from_stream(&mut parts)?;
        Ok(parts)
    }

    fn all(parts: &request::Parts, name: &str) -> Vec<String> {
        parts.headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn trailers_keep_what_may_stand_there() {
        let mut trailers = HeaderMap::new();
        for name in
            ["grpc-status", "x-sum", "host", "connection", "authorization", "x-forwarded-for", "set-cookie"]
        {
            trailers.insert(HeaderName::from_static(name), HeaderValue::from_static("0"));
        }
        let kept: Vec<_> = trailers_to_stream(trailers).keys().map(|name| name.to_string()).collect();
        assert_eq!(kept, ["grpc-status", "x-sum"]);
    }

    #[test]
    fn the_authority_becomes_host() {
        let parts = read(Request::get("http://orders:80/a")).unwrap();
        assert_eq!(all(&parts, "host"), ["orders:80"]);
        let parts = read(Request::get("https://orders/a").header("host", "ORDERS")).unwrap();
        assert_eq!(all(&parts, "host"), ["orders"]);
        let parts = read(Request::get("/a").header("host", "orders")).unwrap();
        assert_eq!(all(&parts, "host"), ["orders"]);
    }

    #[test]
    fn crumbs_of_a_cookie_are_joined_and_lengths_told_once() {
        let build = Request::get("http://a/").header("cookie", "a=1").header("cookie", "b=2; c=3");
        assert_eq!(all(&read(build.header("cookie", "d")).unwrap(), "cookie"), ["a=1; b=2; c=3; d"]);
        let build = Request::post("http://a/").header("content-length", "1").header("content-length", "1");
        assert_eq!(all(&read(build).unwrap(), "content-length"), ["1"]);
    }

    #[test]
    fn what_http_1_1_could_misread_is_refused() {
        for build in [
            Request::get("ftp://a/"),
            Request::get("http://u@a/"),
            Request::get("http://a/").header("host", "b"),
            Request::get("http://a/").header("host", "a").header("host", "b"),
            Request::get("http://a/").header("x", " b"),
            Request::get("http://a/").header("x", "b\t"),
            Request::get("*").header("host", "a"),
        ] {
            let text = format!("{build:?}");
            assert!(read(build).is_err(), "{text}");
        }
        assert!(read(Request::options("*").header("host", "a")).is_ok());
    }

    #[test]
    fn trailers_lose_what_frames_or_routes() {
        let mut trailers = HeaderMap::new();
        for name in ["grpc-status", "content-length", "connection", "te", "host", "transfer-encoding"] {
            trailers.insert(name, HeaderValue::from_static("0"));
        }
        let kept = trailers_to_stream(trailers);
        assert_eq!(kept.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["grpc-status"]);
    }
}
