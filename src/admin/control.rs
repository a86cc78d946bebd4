//! What may be changed through the admin address, and who may not: a page of somebody else in the operator's browser.

use super::answer::{Answer, json, refuse};
use crate::cluster::Cluster;
use http::uri::Authority;
use http::{HeaderMap, StatusCode, header};
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};

/// What is posted to `/api/services/NAME/endpoints/ADDR/` to take an ejection back.
const READMIT: &str = "readmit";

#[derive(Serialize)]
struct Done<'a> {
    service: &'a str,
    endpoint: SocketAddr,
    done: &'static str,
}

/// The endpoint and the act that the rest of a path, behind the service's name, asks for.
pub(super) fn parts(rest: &str) -> Option<(&str, &str)> {
    rest.strip_prefix("endpoints/")?.split_once('/')
}

pub(super) fn act(cluster: &Cluster, (addr, act): (&str, &str), headers: &HeaderMap) -> Answer {
    if let Some(why) = stranger(headers) {
        return refuse(StatusCode::FORBIDDEN, "cross_origin", why);
    }
    if act != READMIT {
        let detail = format!("nothing called {act:?} can be done to an endpoint; there is {READMIT}");
        return refuse(StatusCode::NOT_FOUND, "not_found", &detail);
    }
    let service = cluster.name().as_str();
    match addr.parse() {
        Ok(endpoint) if cluster.pardon(endpoint) => json(&Done { service, endpoint, done: READMIT }),
        Ok(_) => {
            let detail =
                format!("{service} has no endpoint {addr}; /api/services/{service} lists those it has");
            refuse(StatusCode::NOT_FOUND, "unknown_endpoint", &detail)
        }
        Err(_) => {
            let detail = format!("{addr:?} is no address: 10.0.0.1:80 and [::1]:80 are");
            refuse(StatusCode::BAD_REQUEST, "bad_address", &detail)
        }
    }
}

/// Why a request seems to come from a page of another origin. A browser says with each POST whose page it is from
/// (Fetch, "HTTP-network-or-cache fetch"); a name in Host may be one that an attacker's DNS leads here, an address or
/// localhost may not.
fn stranger(headers: &HeaderMap) -> Option<&'static str> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST).and_then(|host| host.parse::<Authority>().ok());
    let Some(host) = host else { return Some("Host is missing or is none") };
    let name = host.host().trim_start_matches('[').trim_end_matches(']');
    if name.parse::<IpAddr>().is_err() && !name.eq_ignore_ascii_case("localhost") {
        return Some("Host must be an address or localhost: a name might be anybody's");
    }
    let own = format!("http://{host}");
    match text(header::ORIGIN) {
        Some(origin) if !origin.eq_ignore_ascii_case(&own) => {
            Some("the request comes from a page of another origin")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn only_pages_of_our_own_and_programs_may_act() {
        let is_stranger = |host: &'static str, origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            stranger(&headers).is_some()
        };
        for (host, origin) in [
            ("127.0.0.1:9901", None),
            ("[::1]:9901", None),
            ("localhost:9901", Some("http://localhost:9901")),
            ("LOCALHOST:9901", Some("http://localhost:9901")),
            ("10.0.0.1:9901", Some("http://10.0.0.1:9901")),
        ] {
            assert!(!is_stranger(host, origin), "{host} {origin:?}");
        }
        for (host, origin) in [
            ("127.0.0.1:9901", Some("http://evil.test")),
            ("127.0.0.1:9901", Some("null")),
            ("127.0.0.1:9901", Some("http://127.0.0.1:9902")),
            ("127.0.0.1:9901", Some("https://127.0.0.1:9901")),
            ("evil.test:9901", None),
            ("evil.test:9901", Some("http://evil.test:9901")),
            ("", None),
        ] {
            assert!(is_stranger(host, origin), "{host} {origin:?}");
        }
        assert!(stranger(&HeaderMap::new()).is_some());
    }
}
