//! A client that sees every byte of an answer.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_secs(20);

/// A complete answer.
#[derive(Debug)]
pub struct Asked {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

pub async fn get(admin: SocketAddr, path: &str) -> Asked {
    ask(admin, "GET", path).await
}

pub async fn ask(admin: SocketAddr, method: &str, path: &str) -> Asked {
    ask_with(admin, method, path, "").await
}

/// Asks once, on a connection of its own that the server has to close, with more header lines.
pub async fn ask_with(admin: SocketAddr, method: &str, path: &str, more: &str) -> Asked {
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: elsewhere.example\r\nConnection: close\r\n{more}\r\n");
    let mut stream = connect(admin, &request).await;
    let text = read_to_end(&mut stream).await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no whole head: {text}"));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(": ").expect("a header");
        (name.to_ascii_lowercase(), value.to_owned())
    });
    let asked = Asked { status, headers: headers.collect(), body: body.to_owned() };
    if method != "HEAD" {
        let length = asked.header("content-length").map(|length| length.parse::<usize>().unwrap());
        assert_eq!(length, Some(asked.body.len()), "as long as it says");
    }
    asked
}

/// Opens a connection and sends this.
pub async fn connect(admin: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// All that comes until the text ends in, or contains, `mark`.
pub async fn read_until(stream: &mut TcpStream, mark: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(mark) {
        let read = tokio::time::timeout(LIMIT, stream.read(&mut buffer)).await;
        let count = read.unwrap_or_else(|_| panic!("{mark:?} does not come after {text:?}")).unwrap();
        assert!(count > 0, "closed after {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    text
}

/// All that comes until the server closes.
pub async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut bytes)).await;
    match read.expect("the server closes") {
        // A server that does not read all of a refused request resets the connection after its answer.
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("{error}"),
        _ => String::from_utf8(bytes).unwrap(),
    }
}
