//! Entrances for fuzz targets: what a client may send.

use super::grpc;
use super::headers::{Caller, Ear, Head, Heard};
use super::proxy_protocol::{header, parse};
use crate::policy::ProxyVersion;
use crate::upstream::{Framing, fuzzing};
use http::{Request, Version};
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// Listens to a connection whose requests are framed in turn as `framings` says, in pieces of `step` bytes.
pub fn ear(text: &[u8], framings: &[u8], step: usize) {
    let mut ear = Ear::default();
    let mut framings = framings.iter();
    for piece in text.chunks(step.max(1)) {
        if ear.hear(piece).is_err() {
            return;
        }
        let framing = match framings.next() {
            Some(0) => Framing::Empty,
            Some(1) => Framing::Chunked,
            Some(length) => Framing::Length(u64::from(*length)),
            None => continue,
        };
        let heard = ear.take();
        let beyond = heard.len() / 2;
        if ear.go_on(heard, beyond, framing).is_err() {
            return;
        }
    }
}

/// A chunked body, in pieces of `step` bytes, ends where an instance's would, if both are good.
pub fn chunked(text: &[u8], step: usize) {
    let mut ear = Ear::default();
    let begun = ear.go_on(Vec::new(), 0, Framing::Chunked).is_ok();
    let good = begun && text.chunks(step.max(1)).all(|piece| ear.hear(piece).is_ok());
    if let (true, Some(length)) = (good, fuzzing::chunked(text)) {
        assert_eq!(ear.take().len(), text.len() - length, "where the body ends");
    }
}

/// A head as a strict reader tells it from the bytes, with those bytes: it must go on in one form, or not at all.
pub fn request(text: &[u8]) {
    let mut room = [httparse::EMPTY_HEADER; 100];
    let mut parsed = httparse::Request::new(&mut room);
    let Ok(httparse::Status::Complete(length)) = parsed.parse(text) else { return };
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut request = Request::builder()
        .method(parsed.method.unwrap_or_default())
        .uri(parsed.path.unwrap_or_default())
        .version(version);
    for field in parsed.headers.iter() {
        request = request.header(field.name, field.value);
    }
    let Ok(request) = request.body(()) else { return };
    let (parts, ()) = request.into_parts();
    let Ok(head) = Head::read(&parts) else { return };
    let mut out = Vec::new();
    let mut rng = SmallRng::seed_from_u64(1);
    let Ok(beyond) = head.write(
        Framing::Empty,
        Heard(text),
        Caller { address: "127.0.0.1", secure: false },
        "web",
        &mut rng,
        &mut out,
    ) else {
        return;
    };
    assert_eq!(beyond, text.len() - length, "where the head ends");
    assert!(out.ends_with(b"\r\n\r\n"));
    let lines = out.iter().filter(|byte| **byte == b'\n').count();
    let whole = out.windows(2).filter(|pair| *pair == b"\r\n").count();
    assert_eq!(lines, whole, "{out:?}");
    let mut room = [httparse::EMPTY_HEADER; 200];
    let mut again = httparse::Request::new(&mut room);
    assert_eq!(again.parse(&out), Ok(httparse::Status::Complete(out.len())), "{out:?}");
    let has = |name: &str| again.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).count();
    assert_eq!((has("host"), has("transfer-encoding")), (1, 0), "{out:?}");
}

/// A header of the PROXY protocol; the addresses that it tells are told the same in both versions.
pub fn proxy_protocol(text: &[u8]) {
    let Ok(Some(addresses)) = parse(text) else { return };
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let header = header(version, Some(&addresses));
        let again = parse(&header).ok().flatten();
        assert!(again == Some(addresses), "{addresses:?} {header:?}");
    }
}

/// A value of `grpc-timeout`.
pub fn grpc_timeout(value: &[u8]) {
    let Some(left) = grpc::timeout(value) else { return };
    let head = grpc::with_timeout(b"\r\n", left);
    let value = head.strip_prefix(b"grpc-timeout: ").and_then(|rest| rest.strip_suffix(b"\r\n\r\n"));
    assert!(value.and_then(grpc::timeout).is_some_and(|said| said <= left), "{head:?}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::IpAddr;

    /// A few bytes away from a good one, and what may follow it.
    fn spoilt() -> impl Strategy<Value = Vec<u8>> {
        let good = b"POST /a?b HTTP/1.1\r\nHost: a:80\r\nConnection: x, te\r\nX: 1\r\nA: 2\r\nx: 3\r\n\r\n3;y\r\nabc\r\n0\r\nT: 1\r\n\r\nGET";
        prop::collection::vec((0..good.len(), any::<u8>()), 0..4).prop_map(|changes| {
            let mut text = good.to_vec();
            changes.into_iter().for_each(|(at, byte)| text[at] = byte);
            text
        })
    }

    proptest! {
        #[test]
        fn entrances_take_anything(text in spoilt(), noise in prop::collection::vec(any::<u8>(), 0..200), step in 1usize..200) {
            request(&text);
            request(&noise);
            ear(&text, &noise, step);
            let body = text.windows(4).position(|end| end == b"\r\n\r\n").map_or(0, |at| at + 4);
            chunked(&text[body..], step);
            grpc_timeout(&noise);
            proxy_protocol(&noise);
        }

        #[test]
        fn addresses_are_told_in_both_versions(source: IpAddr, destination: IpAddr, ports: (u16, u16)) {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            proxy_protocol(format!("PROXY {family} {source} {destination} {} {}\r\n", ports.0, ports.1).as_bytes());
        }

        #[test]
        fn deadlines_are_passed_on(value in "[0-9]{1,9}[HMSmunx]") {
            grpc_timeout(value.as_bytes());
        }
    }
}
