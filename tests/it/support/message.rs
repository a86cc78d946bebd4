//! HTTP/1.1 messages read off a socket byte for byte, for both the raw client and the raw servers.

use std::io::{self, ErrorKind};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// No peer of a test may keep a reader longer than this.
const PATIENCE: Duration = Duration::from_secs(30);

/// The head of a request or a response, as it was sent.
#[derive(Clone, Debug)]
pub struct Head {
    /// The first line, without its end.
    pub start: String,
    /// Names in the case they were sent in.
    pub fields: Vec<(String, String)>,
}

impl Head {
    fn parse(text: &str) -> io::Result<Self> {
        let mut lines = text.split("\r\n").filter(|line| !line.is_empty());
        let start = lines.next().unwrap_or_default().to_owned();
        Ok(Self { start, fields: lines.map(field).collect::<io::Result<_>>()? })
    }

    /// The first field of this name, whatever its case.
    pub fn field(&self, name: &str) -> Option<&str> {
        find(&self.fields, name)
    }

    /// A response's status; `None` for anything else.
    pub fn status(&self) -> Option<u16> {
        self.start.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()
    }

    pub fn is_chunked(&self) -> bool {
        self.field("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    }

    pub fn length(&self) -> Option<usize> {
        self.field("content-length")?.parse().ok()
    }
}

/// The first value of a name, whatever its case.
pub fn find<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// A body and the trailers after it.
pub type Content = (Vec<u8>, Vec<(String, String)>);

/// A socket and the bytes that came with a message but belong to the next one.
#[derive(Debug)]
pub struct Wire {
    pub stream: TcpStream,
    ahead: Vec<u8>,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        // Without it the bytes still go, only later.
        let _ = stream.set_nodelay(true);
        Self { stream, ahead: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        within(self.stream.write_all(bytes.as_ref())).await
    }

    /// What has come or comes next, at least one byte; nothing at the stream's end.
    pub async fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.ahead.is_empty() {
            self.more().await?;
        }
        Ok(std::mem::take(&mut self.ahead))
    }

    /// Asserts that `expected` comes next, in however many pieces, and nothing behind it has come yet.
    pub async fn reads(&mut self, expected: impl AsRef<[u8]>) {
        let expected = expected.as_ref();
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            let some = self.some().await.expect("more to read");
            assert!(!some.is_empty(), "the end after {:?}", String::from_utf8_lossy(&seen));
            seen.extend(some);
        }
        assert_eq!(String::from_utf8_lossy(&seen), String::from_utf8_lossy(expected));
    }

    /// Everything up to the stream's end.
    pub async fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.more().await? {}
        Ok(std::mem::take(&mut self.ahead))
    }

    /// The next head; `UnexpectedEof` if the stream ends before it does.
    pub async fn head(&mut self) -> io::Result<Head> {
        let text = self.through(b"\r\n\r\n").await?;
        Head::parse(&String::from_utf8_lossy(&text))
    }

    /// A body with a length or in chunks. One without either is empty, or in a response (`to_end`) lasts to the end.
    pub async fn content(&mut self, head: &Head, to_end: bool) -> io::Result<Content> {
        if head.is_chunked() {
            self.chunks().await
        } else if let Some(length) = head.length() {
            Ok((self.exactly(length).await?, Vec::new()))
        } else if to_end {
            Ok((self.rest().await?, Vec::new()))
        } else {
            Ok(Content::default())
        }
    }

    async fn chunks(&mut self) -> io::Result<Content> {
        let mut body = Vec::new();
        loop {
            let line = self.line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| malformed("chunk size", &line))?;
            if size == 0 {
                break;
            }
            body.extend(self.exactly(size).await?);
            let end = self.line().await?;
            if !end.is_empty() {
                return Err(malformed("end of a chunk", &end));
            }
        }
        let mut trailers = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok((body, trailers));
            }
            trailers.push(field(&line)?);
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        let line = self.through(b"\r\n").await?;
        Ok(String::from_utf8_lossy(&line).trim_end_matches("\r\n").to_owned())
    }

    async fn through(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.ahead.windows(end.len()).position(|window| window == end) {
                return Ok(self.ahead.drain(..at + end.len()).collect());
            }
            self.need_more().await?;
        }
    }

    async fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.ahead.len() < length {
            self.need_more().await?;
        }
        Ok(self.ahead.drain(..length).collect())
    }

    async fn need_more(&mut self) -> io::Result<()> {
        let more = self.more().await?;
        more.then_some(()).ok_or_else(|| {
            let seen = String::from_utf8_lossy(&self.ahead);
            io::Error::new(ErrorKind::UnexpectedEof, format!("the stream ended amid {seen:.200?}"))
        })
    }

    /// `false` at the stream's end.
    async fn more(&mut self) -> io::Result<bool> {
        Ok(within(self.stream.read_buf(&mut self.ahead)).await? > 0)
    }
}

async fn within<T>(io: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(PATIENCE, io).await.map_err(|_| io::Error::from(ErrorKind::TimedOut))?
}

fn field(line: &str) -> io::Result<(String, String)> {
    let (name, value) = line.split_once(':').ok_or_else(|| malformed("field", line))?;
    Ok((name.to_owned(), value.trim().to_owned()))
}

fn malformed(what: &str, text: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("malformed {what}: {text:?}"))
}
