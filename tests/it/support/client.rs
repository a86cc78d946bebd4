//! HTTP/1.1 clients for tests: hyper's for whole requests, a raw one for every byte of a connection.

use super::message::{Head, Wire, find};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Body;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// No answer may take longer than this.
const PATIENCE: Duration = Duration::from_secs(30);

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Response {
    /// The first header of this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// Which instance answered.
    pub fn instance(&self) -> &str {
        self.header("x-instance").unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

/// The body of a request that has none.
pub fn empty() -> Empty<Bytes> {
    Empty::new()
}

/// A body with a length.
pub fn full(bytes: impl Into<Bytes>) -> Full<Bytes> {
    Full::new(bytes.into())
}

/// One GET on a connection of its own; fails the test without an answer.
pub async fn get(addr: SocketAddr, path: &str) -> Response {
    try_get(addr, path).await.unwrap_or_else(|e| panic!("GET {path} at {addr}: {e}"))
}

/// One GET on a connection of its own.
pub async fn try_get(addr: SocketAddr, path: &str) -> io::Result<Response> {
    request(addr, Request::get(path).body(empty()).map_err(io::Error::other)?).await
}

/// One request on a connection of its own.
pub async fn request<B: Sendable>(addr: SocketAddr, request: Request<B>) -> io::Result<Response> {
    Client::new(addr).send(request).await
}

/// Bodies that hyper can send from a task of its own.
pub trait Sendable: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static {}
impl<B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static> Sendable for B {}

type Boxed = http_body_util::combinators::UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// One connection of hyper's client, kept alive between requests and opened again when it was closed.
#[derive(Debug)]
pub struct Client {
    addr: SocketAddr,
    sender: Option<SendRequest<Boxed>>,
    connection: JoinSet<()>,
}

impl Client {
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, sender: None, connection: JoinSet::new() }
    }

    pub async fn get(&mut self, path: &str) -> io::Result<Response> {
        self.send(Request::get(path).body(empty()).map_err(io::Error::other)?).await
    }

    /// Sends a request and reads the whole answer; sets Host unless the request has one.
    pub async fn send<B: Sendable>(&mut self, request: Request<B>) -> io::Result<Response> {
        let exchange = tokio::time::timeout(PATIENCE, self.exchange(request)).await;
        exchange.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn exchange<B: Sendable>(&mut self, request: Request<B>) -> io::Result<Response> {
        let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        let host = self.addr.to_string().try_into().map_err(io::Error::other)?;
        request.headers_mut().entry(http::header::HOST).or_insert(host);
        let answer = self.sender().await?.send_request(request).await.map_err(io::Error::other)?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?;
        let trailers = body.trailers().map(texts).unwrap_or_default();
        Ok(Response {
            status: head.status.as_u16(),
            headers: texts(&head.headers),
            body: body.to_bytes().to_vec(),
            trailers,
        })
    }

    async fn sender(&mut self) -> io::Result<&mut SendRequest<Boxed>> {
        let usable = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            let stream = TcpStream::connect(self.addr).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
            self.connection.abort_all();
            self.connection.spawn(async { connection.await.unwrap_or_default() });
            self.sender = Some(sender);
        }
        self.sender.as_mut().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))
    }
}

fn texts(headers: &http::HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// One connection on which a test writes and reads what it likes.
#[derive(Debug)]
pub struct Connection(Wire);

impl From<TcpStream> for Connection {
    fn from(stream: TcpStream) -> Self {
        Self(Wire::new(stream))
    }
}

impl Connection {
    /// The bare socket.
    pub fn into_stream(self) -> TcpStream {
        self.0.stream
    }

    pub async fn open(addr: SocketAddr) -> io::Result<Self> {
        Ok(Self(Wire::new(TcpStream::connect(addr).await?)))
    }

    /// The next request, whole: for a connection that was accepted.
    pub async fn request(&mut self) -> io::Result<(Head, Vec<u8>)> {
        let head = self.head().await?;
        let (body, _) = self.0.content(&head, false).await?;
        Ok((head, body))
    }

    /// These bytes as they are.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.0.send(bytes).await
    }

    /// A GET with Host and nothing else.
    pub async fn get(&mut self, path: &str) -> io::Result<Response> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: raw.test\r\n\r\n")).await?;
        self.response().await
    }

    /// The next head, an interim one (1xx) included.
    pub async fn head(&mut self) -> io::Result<Head> {
        self.0.head().await
    }

    /// The next final answer, whole; interim ones are passed over.
    pub async fn response(&mut self) -> io::Result<Response> {
        loop {
            let head = self.head().await?;
            let status = status(&head)?;
            if !(100..200).contains(&status) || status == 101 {
                return self.body_of(head).await;
            }
        }
    }

    /// The body that follows a head that [`Self::head`] gave.
    pub async fn body_of(&mut self, head: Head) -> io::Result<Response> {
        let status = status(&head)?;
        let without = matches!(status, 100..200 | 204 | 304);
        let (body, trailers) = if without { Default::default() } else { self.0.content(&head, true).await? };
        Ok(Response { status, headers: head.fields, body, trailers })
    }

    /// The bytes that come next, as they come; none at the connection's end.
    pub async fn some(&mut self) -> io::Result<Vec<u8>> {
        self.0.some().await
    }

    /// Asserts that `expected` comes next, in however many pieces, and nothing behind it has come yet.
    pub async fn reads(&mut self, expected: impl AsRef<[u8]>) {
        self.0.reads(expected).await;
    }

    /// Says that nothing more will be sent; reading goes on.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.0.stream.shutdown().await
    }

    /// Whether the peer closes or resets the connection within `limit`, without another byte.
    pub async fn is_closed(&mut self, limit: Duration) -> bool {
        match tokio::time::timeout(limit, self.some()).await {
            Ok(Ok(bytes)) => bytes.is_empty(),
            Ok(Err(_)) => true,
            Err(_) => false,
        }
    }

    /// Drops the connection with a reset instead of an orderly end.
    pub fn reset(self) {
        super::raw::reset(self.0.stream);
    }
}

fn status(head: &Head) -> io::Result<u16> {
    head.status()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no status: {}", head.start)))
}
