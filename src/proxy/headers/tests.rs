//! What heads become on their way.

use super::{Caller, Head, Heard, Traits};
use crate::upstream::Framing;
use http::{Request, Version, request};
use rand::SeedableRng;
use rand::rngs::SmallRng;

fn parts(build: request::Builder) -> request::Parts {
    build.body(()).unwrap().into_parts().0
}

/// What the instance gets.
struct Sent {
    target: String,
    fields: Vec<(String, String)>,
}

impl Sent {
    fn of(text: &[u8]) -> Self {
        let text = std::str::from_utf8(text).unwrap();
        let (head, rest) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(rest, "");
        let mut lines = head.split("\r\n");
        let first: Vec<_> = lines.next().unwrap().split(' ').collect();
        assert_eq!((first.len(), first[2]), (3, "HTTP/1.1"));
        let fields = lines.map(|line| line.split_once(": ").unwrap());
        Self {
            target: first[1].to_owned(),
            fields: fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        }
    }

    /// The only value of this name; `None` if there is none.
    fn get(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(other, _)| other == name).map(|(_, value)| &**value);
        let first = values.next();
        assert_eq!(values.next(), None, "{name} twice");
        first
    }
}

fn sent(build: request::Builder) -> (Sent, Traits) {
    let parts = parts(build);
    let head = Head::read(&parts).unwrap();
    let mut rng = SmallRng::seed_from_u64(1);
    let mut text = Vec::new();
    let caller = Caller { address: "127.0.0.1", secure: false };
    head.write(Framing::Empty, Heard(b""), caller, "web", &mut rng, &mut text).unwrap();
    (Sent::of(&text), head.traits)
}

fn refused(build: request::Builder) -> bool {
    Head::read(&parts(build)).is_err()
}

#[test]
fn hop_by_hop_fields_stay_here_and_the_rest_goes_on() {
    let (sent_on, traits) = sent(
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
        assert!(sent_on.get(gone).is_none(), "{gone}");
    }
    assert_eq!(sent_on.get("host"), Some("orders"));
    assert_eq!(sent_on.get("x-mine"), Some("2"));
    assert_eq!(sent_on.get("via"), Some("1.1 outrigger"));
    assert!(traits.idempotent && !traits.upgrade);
}

#[test]
fn forwarded_fields_are_appended_or_begun() {
    let (sent_on, _) = sent(Request::get("/").header("host", "orders").header("x-forwarded-for", "10.0.0.9"));
    assert_eq!(sent_on.get("x-forwarded-for"), Some("10.0.0.9, 127.0.0.1"));
    assert_eq!(sent_on.get("x-forwarded-proto"), Some("http"));
    assert_eq!(sent_on.get("x-forwarded-host"), Some("orders"));
    let trace = sent_on.get("traceparent").unwrap();
    assert_eq!(trace.len(), 55);
    let (again, _) = sent(Request::get("/").header("host", "o").header("traceparent", trace));
    assert_eq!(again.get("traceparent"), Some(trace));
}

#[test]
fn fields_of_ours_cannot_be_stripped_by_naming_them_in_connection() {
    let ours = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "traceparent"];
    let build = Request::get("/").header("host", "orders").header("connection", ours.join(", "));
    let (sent_on, _) = sent(ours.iter().fold(build, |build, name| build.header(*name, "forged")));
    assert_eq!(sent_on.get("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(sent_on.get("x-forwarded-proto"), Some("http"));
    assert_eq!(sent_on.get("x-forwarded-host"), Some("orders"));
    assert_eq!(sent_on.get("traceparent").unwrap().len(), 55);
}

#[test]
fn absolute_form_becomes_origin_form_and_overrules_host() {
    let (sent_on, _) = sent(Request::get("http://real:81/a?b").header("host", "other"));
    assert_eq!(sent_on.target, "/a?b");
    assert_eq!(sent_on.get("host"), Some("real:81"));
    let (sent_on, _) = sent(Request::get("http://real").header("host", "other"));
    assert_eq!(sent_on.target, "/");
    let (sent_on, _) = sent(Request::get("HTTPS://real?b").header("host", "other"));
    assert_eq!(sent_on.target, "/?b");
    let (sent_on, _) = sent(Request::options("*").header("host", "other"));
    assert_eq!(sent_on.target, "*");
}

#[test]
fn an_upgrade_and_trailers_are_asked_for_anew() {
    let (sent_on, traits) = sent(
        Request::get("/")
            .header("host", "a")
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "websocket"),
    );
    assert!(traits.upgrade);
    assert_eq!((sent_on.get("connection"), sent_on.get("upgrade")), (Some("upgrade"), Some("websocket")));
    let (sent_on, _) = sent(
        Request::get("/").header("host", "a").header("te", "gzip;q=1, trailers").header("connection", "te"),
    );
    assert_eq!(sent_on.get("te"), Some("trailers"));
    let (sent_on, traits) = sent(
        Request::get("/").version(Version::HTTP_10).header("connection", "upgrade").header("upgrade", "x"),
    );
    assert!(!traits.upgrade && sent_on.get("upgrade").is_none(), "no upgrade from HTTP/1.0");
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
        let mut build = Request::builder().method(method).uri("/").header("host", "a");
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
        Request::get("*").header("host", "a"),
        Request::get("http://user@real/").header("host", "a"),
        Request::get("ftp://real/").header("host", "a"),
        Request::get("/").header("host", "a b"),
        Request::get("/").header("host", "a:x"),
        Request::get("/").header("host", "u@a"),
        Request::post("/").header("host", "a").header("transfer-encoding", "identity"),
        Request::post("/").header("host", "a").header("transfer-encoding", "chunked, chunked"),
        Request::post("/")
            .header("host", "a")
            .header("transfer-encoding", "chunked")
            .header("transfer-encoding", "chunked"),
        Request::get("/").header("host", "a").header("host", "b"),
        Request::post("/").header("host", "a").header("transfer-encoding", "gzip, chunked"),
        Request::post("/")
            .header("host", "a")
            .header("content-length", "1")
            .header("transfer-encoding", "chunked"),
        Request::post("/").version(Version::HTTP_10).header("transfer-encoding", "chunked"),
    ];
    for build in bad {
        let text = format!("{build:?}");
        assert!(refused(build), "{text}");
    }
    assert!(!refused(Request::get("/").version(Version::HTTP_10)));
    assert!(!refused(Request::get("/").header("host", "")));
}

#[test]
fn eight_hops_of_ours_are_a_circle() {
    const VIA: &str = "1.1 outrigger";
    let circles = |vias: &[&str]| {
        let build = Request::get("/").header("host", "a");
        sent(vias.iter().fold(build, |build, via| build.header("via", *via))).1.circles
    };
    let first = "1.1 outrigger, 1.0 fred, 1.1 outrigger";
    assert!(!circles(&[first]));
    assert!(!circles(&[first, VIA, VIA, VIA, VIA, VIA]));
    assert!(circles(&[first, VIA, VIA, VIA, VIA, VIA, VIA]));
    assert!(circles(&[VIA, "1.0 outrigger"].repeat(4)), "whatever version they came in");
}

#[test]
fn http_1_0_gets_the_host_that_it_lacks() {
    let (sent_on, _) = sent(Request::get("/").version(Version::HTTP_10));
    assert_eq!(sent_on.get("host"), Some("web"));
    assert!(sent_on.get("x-forwarded-host").is_none(), "the client said no such thing");
    assert_eq!(sent_on.get("via"), Some("1.0 outrigger"));
    let (sent_on, _) = sent(Request::get("http://real:81/a").version(Version::HTTP_10));
    assert_eq!(sent_on.get("host"), Some("real:81"));
    let (sent_on, _) = sent(Request::get("/").version(Version::HTTP_10).header("host", "named"));
    assert_eq!(sent_on.get("host"), Some("named"));
}

#[test]
fn h2c_is_no_upgrade() {
    for offer in ["h2c", "H2C", "websocket, h2c"] {
        let (sent_on, traits) = sent(
            Request::get("/")
                .header("host", "a")
                .header("connection", "Upgrade, HTTP2-Settings")
                .header("upgrade", offer)
                .header("http2-settings", "AAMAAABk"),
        );
        assert!(!traits.upgrade, "{offer}");
        for gone in ["connection", "upgrade", "http2-settings"] {
            assert!(sent_on.get(gone).is_none(), "{offer}: {gone}");
        }
    }
}

#[test]
fn max_forwards_counts_down_for_those_methods_that_it_is_about() {
    let hops = |method: &str, hops: &str| {
        let (sent_on, traits) =
            sent(Request::builder().method(method).uri("/").header("host", "a").header("max-forwards", hops));
        (sent_on.get("max-forwards").unwrap().to_owned(), traits.ends_here)
    };
    for (method, came, goes, ends) in [
        ("OPTIONS", "0", "0", true),
        ("TRACE", "00", "0", true),
        ("OPTIONS", "1", "0", false),
        ("TRACE", "10", "9", false),
        ("OPTIONS", "-1", "-1", false),
        ("OPTIONS", "many", "many", false),
        ("GET", "0", "0", false),
    ] {
        assert_eq!(hops(method, came), (goes.to_owned(), ends), "{method} {came}");
    }
}

#[test]
fn a_grpc_deadline_is_kept_for_each_attempt_and_anybody_elses_is_a_field_like_others() {
    let build = || Request::post("/").header("host", "a").header("grpc-timeout", "5S");
    let (sent_on, traits) = sent(build().header("content-type", "application/grpc"));
    assert_eq!(
        (sent_on.get("grpc-timeout"), traits.deadline),
        (None, Some(std::time::Duration::from_secs(5)))
    );
    let (sent_on, traits) = sent(build());
    assert_eq!((sent_on.get("grpc-timeout"), traits.deadline), (Some("5S"), None));
    let broken = Request::post("/").header("host", "a").header("grpc-timeout", "soon");
    let (sent_on, _) = sent(broken.header("content-type", "application/grpc"));
    assert_eq!(sent_on.get("grpc-timeout"), Some("soon"));
}

#[test]
fn a_target_that_was_cut_is_refused() {
    let heard = |target: &str, build: request::Builder| {
        let parts = parts(build.header("host", "a"));
        let line = format!("{} {target} HTTP/1.1\r\nHost: a\r\n\r\n", parts.method);
        let mut text = Vec::new();
        let mut rng = SmallRng::seed_from_u64(1);
        Head::read(&parts)
            .unwrap()
            .write(
                Framing::Empty,
                Heard(line.as_bytes()),
                Caller { address: "127.0.0.1", secure: false },
                "web",
                &mut rng,
                &mut text,
            )
            .map(|_| Sent::of(&text).target)
    };
    assert!(heard("/a#b", Request::get("/a")).is_err());
    assert!(heard("http://a/#b", Request::get("http://a/")).is_err());
    assert_eq!(heard("/a", Request::get("/a")).unwrap(), "/a");
    assert_eq!(heard("http://a/", Request::options("http://a/")).unwrap(), "/");
    assert_eq!(heard("http://a", Request::options("http://a")).unwrap(), "*");
    assert_eq!(heard("http://a", Request::get("http://a")).unwrap(), "/");
}
