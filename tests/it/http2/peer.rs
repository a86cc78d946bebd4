//! A client that speaks HTTP/2, on the crate `h2`; and one that writes frames by hand.

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One connection; it ends when it is dropped.
#[derive(Debug)]
pub struct Peer {
    pub send: SendRequest<Bytes>,
    connection: JoinSet<Result<(), h2::Error>>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn instance(&self) -> &str {
        self.header("x-instance").unwrap_or_default()
    }
}

impl Peer {
    pub async fn open(addr: SocketAddr) -> Self {
        Self::with(addr, &Builder::new()).await
    }

    pub async fn with(addr: SocketAddr, builder: &Builder) -> Self {
        Self::over(TcpStream::connect(addr).await.unwrap(), builder).await
    }

    pub async fn over(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, builder: &Builder) -> Self {
        let (send, connection) = builder.handshake(io).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        Self { send, connection: tasks }
    }

    /// Sends a head; `end` says that there is no body.
    pub async fn begin(
        &mut self,
        request: Request<()>,
        end: bool,
    ) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        let mut ready = timeout(PATIENCE, self.send.clone().ready()).await.unwrap().unwrap();
        ready.send_request(request, end).unwrap()
    }

    /// The answer to a request with this body.
    pub async fn ask(&mut self, request: Request<()>, body: &[u8]) -> Result<Answer, h2::Error> {
        let (answer, mut send) = self.begin(request, body.is_empty()).await;
        if !body.is_empty() {
            send.send_data(Bytes::copy_from_slice(body), true).unwrap();
        }
        timeout(PATIENCE, async { whole(answer.await?).await }).await.expect("an answer in time")
    }

    pub async fn get(&mut self, path: &str) -> Result<Answer, h2::Error> {
        self.ask(Request::get(format!("http://peer.test{path}")).body(()).unwrap(), b"").await
    }

    /// Waits for the sidecar to end the connection.
    pub async fn ended(&mut self, limit: Duration) -> Result<(), h2::Error> {
        timeout(limit, self.connection.join_next()).await.expect("an end in time").unwrap().unwrap()
    }
}

/// Reads an answer to its end, and lets the sidecar send on as it goes.
pub async fn whole(answer: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (head, mut recv) = answer.into_parts();
    let mut body = Vec::new();
    while let Some(data) = recv.data().await {
        let data = data?;
        recv.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    let trailers = recv.trailers().await?.unwrap_or_default();
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, trailers })
}

/// A connection on which frames are written by hand.
#[derive(Debug)]
pub struct Frames(pub TcpStream);

/// One frame (RFC 9113, section 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field of a block of fields, without compression (RFC 7541, section 6.2.2).
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0];
    for text in [name, value] {
        match u8::try_from(text.len()).ok().filter(|length| *length < 127) {
            Some(length) => block.push(length),
            None => {
                block.push(127);
                let mut rest = text.len() - 127;
                while rest >= 128 {
                    block.push(u8::try_from(rest % 128).unwrap() | 128);
                    rest /= 128;
                }
                block.push(u8::try_from(rest).unwrap());
            }
        }
        block.extend_from_slice(text.as_bytes());
    }
    block
}

/// The pseudo-fields of a GET.
pub fn get_block(path: &str) -> Vec<u8> {
    [field(":method", "GET"), field(":scheme", "http"), field(":path", path), field(":authority", "raw.test")]
        .concat()
}

impl Frames {
    /// Says the preface and empty settings.
    pub async fn open(addr: SocketAddr) -> Self {
        let mut own = Self(TcpStream::connect(addr).await.unwrap());
        own.send(PREFACE).await;
        own.send(&frame(4, 0, 0, b"")).await;
        own
    }

    /// Writes; a peer that is gone already is no failure here.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = timeout(PATIENCE, self.0.write_all(bytes)).await;
    }

    /// The next frame: kind, flags, stream, payload; `None` at the end.
    pub async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let read = async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            Some((head[3], head[4], stream, payload))
        };
        timeout(PATIENCE, read).await.expect("a frame or the end in time")
    }

    /// The next frame of this kind; `None` if the connection ends before.
    pub async fn next_of(&mut self, kind: u8) -> Option<(u8, u32, Vec<u8>)> {
        loop {
            let (other, flags, stream, payload) = self.next().await?;
            if other == kind {
                return Some((flags, stream, payload));
            }
        }
    }

    /// The reason of the GOAWAY with which it ends; `None` if it just ends.
    pub async fn ended(&mut self) -> Option<u32> {
        let mut reason = None;
        while let Some((kind, _, _, payload)) = self.next().await {
            if kind == 7 {
                reason = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
        }
        reason
    }
}
