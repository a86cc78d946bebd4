//! An instance that keeps every byte it gets, and answers whole requests.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

type Seen = Arc<Mutex<Vec<Vec<u8>>>>;

/// One request per connection; it ends when it is dropped.
#[derive(Debug)]
pub struct Recorder {
    addr: SocketAddr,
    /// What came on each connection; held for one push or one copy.
    seen: Seen,
    _accepting: JoinSet<()>,
}

impl Recorder {
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (addr, seen) = (listener.local_addr().unwrap(), Seen::default());
        let mut accepting = JoinSet::new();
        let keep = Arc::clone(&seen);
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let number = {
                    let mut seen = keep.lock().unwrap();
                    seen.push(Vec::new());
                    seen.len() - 1
                };
                connections.spawn(serve(stream, number, Arc::clone(&keep)));
            }
        });
        Self { addr, seen, _accepting: accepting }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn connections(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// What came on each connection after the first `before`.
    pub fn since(&self, before: usize) -> Vec<Vec<u8>> {
        self.seen.lock().unwrap()[before..].to_vec()
    }
}

async fn serve(mut stream: TcpStream, number: usize, seen: Seen) {
    let mut answered = false;
    let mut room = [0; 65_536];
    while let Ok(count @ 1..) = stream.read(&mut room).await {
        let whole = {
            let bytes = &mut seen.lock().unwrap()[number];
            bytes.extend_from_slice(&room[..count]);
            is_whole(bytes)
        };
        // What follows a whole request is kept too: it would be a smuggled one.
        if whole && !answered {
            answered = true;
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    }
}

/// Whether the bytes hold a request to its end, as a plain and strict reader sees it.
pub fn is_whole(bytes: &[u8]) -> bool {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let body = &bytes[end + 4..];
    if head.contains("\r\ntransfer-encoding: chunked") {
        return ends(body);
    }
    let length = head.split("\r\ncontent-length: ").nth(1).map(|rest| rest.split("\r\n").next().unwrap());
    body.len() >= length.map_or(0, |length| length.parse().unwrap())
}

/// Whether the chunks come to their end.
fn ends(mut body: &[u8]) -> bool {
    loop {
        let Some(line) = find(body, b"\r\n") else { return false };
        let size = std::str::from_utf8(&body[..line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap_or_else(|e| panic!("chunk size {size:?}: {e}"));
        body = &body[line + 2..];
        if size == 0 {
            return body.starts_with(b"\r\n") || find(body, b"\r\n\r\n").is_some();
        }
        if body.len() < size + 2 {
            return false;
        }
        body = &body[size + 2..];
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// Without the fields that the sidecar gives to every request.
pub fn without_ours(bytes: &[u8]) -> Vec<u8> {
    const OURS: [&[u8]; 5] =
        [b"x-forwarded-for: ", b"x-forwarded-proto: ", b"x-forwarded-host: ", b"via: 1.", b"traceparent: "];
    bytes
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| !OURS.iter().any(|ours| line.starts_with(ours)))
        .flatten()
        .copied()
        .collect()
}
