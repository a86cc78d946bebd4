//! A registry that says what a test wrote: for answers that no real Consul can be made to give when they are wanted.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Says its lines one after the other, each on a connection of its own, the last one for ever; remembers the requests.
/// Asked for our own token it says that there are no ACLs: that is no part of the script. Dropping it ends it.
#[derive(Debug)]
pub struct Scripted {
    port: u16,
    script: Arc<Mutex<Script>>,
    _accepting: JoinSet<()>,
}

#[derive(Debug)]
struct Script {
    lines: Vec<Line>,
    /// Lines said so far.
    turn: usize,
    requests: Vec<(Instant, String)>,
}

/// What happens to a connection after its request was read.
#[derive(Clone, Debug)]
pub enum Line {
    /// These bytes, and its end.
    Says(Vec<u8>),
    /// These bytes, and nothing more until the client goes.
    Stalls(Vec<u8>),
    /// These bytes, one every 100 ms.
    Drips(Vec<u8>),
    /// A reset.
    Resets,
}

impl Scripted {
    pub async fn start(lines: Vec<Line>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let port = listener.local_addr().expect("its address").port();
        let script = Arc::new(Mutex::new(Script { lines, turn: 0, requests: Vec::new() }));
        let shared = Arc::clone(&script);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                connections.spawn(serve(client, Arc::clone(&shared)));
            }
        });
        Self { port, script, _accepting: accepting }
    }

    pub fn addr(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Says these lines from now on.
    pub fn goes_on(&self, lines: Vec<Line>) {
        let mut script = self.script.lock().expect("no panic");
        (script.lines, script.turn) = (lines, 0);
    }

    /// When each request so far came, and its head.
    pub fn requests(&self) -> Vec<(Instant, String)> {
        self.script.lock().expect("no panic").requests.clone()
    }

    /// The index of each request so far.
    pub fn asked(&self) -> Vec<Option<u64>> {
        let index = |(_, request): &(Instant, String)| {
            let line = request.lines().next()?;
            let rest = line.split_once("index=")?.1;
            rest.split(['&', ' ']).next()?.parse().ok()
        };
        self.script.lock().expect("no panic").requests.iter().map(index).collect()
    }
}

async fn serve(mut client: TcpStream, script: Arc<Mutex<Script>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // Whoever leaves before has asked nothing.
        let Ok(byte) = client.read_u8().await else { return };
        head.push(byte);
    }
    let line = if head.starts_with(b"GET /v1/acl/token/self ") {
        Line::http(401, "", "ACL support disabled")
    } else {
        let mut script = script.lock().expect("no panic");
        script.requests.push((Instant::now(), String::from_utf8(head).expect("a head")));
        let turn = script.turn.min(script.lines.len() - 1);
        script.turn += 1;
        script.lines[turn].clone()
    };
    // The client may well hang up before the end.
    match line {
        Line::Says(bytes) => drop(client.write_all(&bytes).await),
        Line::Stalls(bytes) => {
            if client.write_all(&bytes).await.is_ok() {
                let _ = client.read_u8().await;
            }
        }
        Line::Drips(bytes) => {
            for byte in bytes {
                if client.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Line::Resets => super::raw::reset(client),
    }
}

impl Line {
    /// A whole answer on a connection that closes.
    pub fn http(status: u16, headers: &str, body: &str) -> Self {
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n");
        Self::Says((head + body).into_bytes())
    }

    /// A good answer of Consul's.
    pub fn good(index: u64, body: &str) -> Self {
        Self::http(200, &format!("X-Consul-Index: {index}\r\nX-Consul-KnownLeader: true\r\n"), body)
    }

    pub fn bytes(self) -> Vec<u8> {
        match self {
            Self::Says(bytes) | Self::Stalls(bytes) | Self::Drips(bytes) => bytes,
            Self::Resets => Vec::new(),
        }
    }
}
