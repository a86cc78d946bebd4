//! What is asked for: each mix is one kind of traffic through one configuration.

use crate::Outcome;
use std::fmt::Write;

/// One kind of traffic; everything about it is fixed, to the byte.
pub struct Mix {
    pub name: &'static str,
    pub says: &'static str,
    pub speaks: Speaks,
    /// Of HTTP/1.1; over HTTP/2 it is always the small one.
    pub request: fn() -> Vec<u8>,
    pub answer: fn() -> Answer,
    pub services: usize,
    /// Of each service.
    pub endpoints: usize,
    /// Kept-alive connections from clients, spread over the services.
    pub connections: usize,
    /// Requests on each connection, or stream: before anything is counted, and of the two counts.
    pub warm_up: usize,
    pub short: usize,
    pub long: usize,
}

/// What clients speak; with instances it is HTTP/1.1.
#[derive(Clone, Copy)]
pub enum Speaks {
    Http1,
    /// HTTP/1.1 over TLS.
    Tls,
    Http2 {
        /// Of each connection.
        streams: usize,
    },
}

/// What an instance sends, and the body that a client must have got in the end.
pub struct Answer {
    pub wire: Vec<u8>,
    pub body: Vec<u8>,
}

const SMALL: Mix = Mix {
    name: "small",
    says: "GET as wrk sends it, answer of 100 bytes, 3 instances, 64 connections",
    speaks: Speaks::Http1,
    request: || get(&[("Host", "127.0.0.1:9001")]),
    answer: || plain(100),
    services: 1,
    endpoints: 3,
    connections: 64,
    warm_up: 30,
    short: 5,
    long: 155,
};

const HTTP2: Mix = Mix {
    name: "http2",
    says: "small, over HTTP/2 from the client, 4 connections with 16 streams",
    speaks: Speaks::Http2 { streams: 16 },
    connections: 4,
    ..SMALL
};

pub const ALL: &[Mix] = &[
    SMALL,
    Mix {
        name: "browser",
        says: "GET with the 13 headers of a browser, answer of 1 KiB with 8 headers",
        request: browser,
        answer: app,
        ..SMALL
    },
    Mix { name: "post", says: "POST of 1 KiB with its length", request: post, ..SMALL },
    Mix { name: "10k", says: "answer of 10 KiB", answer: || plain(10 * 1024), ..SMALL },
    Mix { name: "chunked", says: "answer in two chunks of 512 bytes", answer: chunked, ..SMALL },
    Mix {
        name: "endpoints",
        says: "small, round robin over 1,000 instances, no checks",
        endpoints: 1000,
        warm_up: 60,
        ..SMALL
    },
    HTTP2,
    Mix {
        name: "tls",
        says: "small, over TLS 1.3 from the client, 16 connections",
        speaks: Speaks::Tls,
        connections: 16,
        long: 305,
        ..SMALL
    },
    Mix { name: "services", says: "small, over 64 of 200 services, no checks", services: 200, ..SMALL },
];

pub fn named(name: &str) -> Outcome<&'static Mix> {
    let names = || ALL.iter().map(|mix| mix.name).collect::<Vec<_>>().join(", ");
    ALL.iter().find(|mix| mix.name == name).ok_or_else(|| format!("no mix {name}, but {}", names()).into())
}

impl Mix {
    /// Checks go on with time, not with requests: hundreds of instances would hide what a request costs.
    pub fn checks(&self) -> bool {
        self.services * self.endpoints < 100
    }
}

fn get(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut head = "GET / HTTP/1.1\r\n".to_owned();
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    (head + "\r\n").into_bytes()
}

fn browser() -> Vec<u8> {
    get(&[
        ("Host", "shop.example.com"),
        ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0"),
        ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("Accept-Language", "en-US,en;q=0.7,de;q=0.3"),
        ("Accept-Encoding", "gzip, deflate, br, zstd"),
        ("Referer", "https://shop.example.com/basket"),
        ("Connection", "keep-alive"),
        ("Cookie", "session=5f2b8a1c9d3e4f60718293a4b5c6d7e8; theme=dark; consent=1"),
        ("Upgrade-Insecure-Requests", "1"),
        ("Sec-Fetch-Dest", "document"),
        ("Sec-Fetch-Mode", "navigate"),
        ("Sec-Fetch-Site", "same-origin"),
        ("Cache-Control", "no-cache"),
    ])
}

fn post() -> Vec<u8> {
    let head = "POST /orders HTTP/1.1\r\nHost: 127.0.0.1:9001\r\nContent-Type: application/json\r\n\
                Content-Length: 1024\r\n\r\n";
    [head.as_bytes(), &text(1024)].concat()
}

fn plain(length: usize) -> Answer {
    answer(&format!("Content-Type: text/plain\r\nContent-Length: {length}\r\n"), length)
}

fn app() -> Answer {
    let headers = "Date: Wed, 25 Nov 2026 12:00:00 GMT\r\nServer: app/1.0\r\n\
                   Content-Type: text/html; charset=utf-8\r\nContent-Length: 1024\r\n\
                   Cache-Control: private, max-age=0\r\nETag: \"5f2b8a1c9d3e\"\r\nVary: Accept-Encoding\r\n\
                   X-Request-Id: 7d9f6c1e-2f0a-4c57-9f3c-0a6b1d2e3f40\r\n";
    answer(headers, 1024)
}

fn chunked() -> Answer {
    let (head, half) = ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", text(512));
    let wire = [head.as_bytes(), b"200\r\n", &half, b"\r\n200\r\n", &half, b"\r\n0\r\n\r\n"].concat();
    Answer { wire, body: half.repeat(2) }
}

fn answer(headers: &str, length: usize) -> Answer {
    let body = text(length);
    Answer { wire: [format!("HTTP/1.1 200 OK\r\n{headers}\r\n").as_bytes(), &body].concat(), body }
}

fn text(length: usize) -> Vec<u8> {
    b"abcdefghijklmnopqrstuvwxyz0123456789".iter().copied().cycle().take(length).collect()
}
