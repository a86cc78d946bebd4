//! Both ends of the traffic: instances that answer, and clients that ask and look at every answer.

use crate::Outcome;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Nothing here takes as long, even on a machine with other work.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// All instances at once: one listener for every loopback address. Returns its port.
pub fn instances(answer: Vec<u8>) -> Outcome<u16> {
    let listener = TcpListener::bind("0.0.0.0:0")?;
    let port = listener.local_addr()?.port();
    let answer: Arc<[u8]> = answer.into();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // It stands open to the network for want of a listener on 127.0.0.0/8.
            if !stream.peer_addr().is_ok_and(|peer| peer.ip().is_loopback()) {
                continue;
            }
            let answer = Arc::clone(&answer);
            let serving = thread::Builder::new().stack_size(64 * 1024);
            if serving.spawn(move || serve(stream, &answer)).is_err() {
                return;
            }
        }
    });
    Ok(port)
}

/// One connection of an instance. Its end is the sidecar's wish or shows at the client.
fn serve(stream: TcpStream, answer: &[u8]) {
    let _ = stream.set_nodelay(true);
    let mut wire = Wire::new(stream);
    while let Ok(Some(message)) = wire.message() {
        let healthy = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let answer = if message.head.starts_with(b"GET /health ") { healthy } else { answer };
        if wire.stream.write_all(answer).is_err() {
            return;
        }
    }
}

/// Whoever sends requests.
pub trait Ask {
    /// Sends exactly `each` requests on each connection, or stream: the next one once the last is answered, all at once.
    fn ask(&mut self, each: usize) -> Outcome<()>;
}

/// Clients with one kept-alive connection each.
pub struct Clients<S> {
    wires: Vec<Wire<S>>,
    request: Vec<u8>,
    body: Vec<u8>,
}

impl<S: Read> Clients<S> {
    /// Opens connections, spread over the listeners.
    pub fn connect(
        listeners: &[SocketAddr],
        count: usize,
        open: impl Fn(SocketAddr) -> Outcome<S>,
        request: Vec<u8>,
        body: Vec<u8>,
    ) -> Outcome<Self> {
        let mut wires = Vec::new();
        for number in 0..count {
            let listener = listeners.get(number * listeners.len() / count).ok_or("no service")?;
            wires.push(Wire::new(open(*listener)?));
        }
        Ok(Self { wires, request, body })
    }
}

/// A connection without TLS.
pub fn open(to: SocketAddr) -> Outcome<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

impl<S: Read + Write> Ask for Clients<S> {
    fn ask(&mut self, each: usize) -> Outcome<()> {
        for wire in &mut self.wires {
            wire.stream.write_all(&self.request)?;
        }
        for round in 1..=each {
            for wire in &mut self.wires {
                let answer = wire.message()?.ok_or("the sidecar closed a connection")?;
                if !answer.head.starts_with(b"HTTP/1.1 200 ") || answer.body != self.body {
                    let head = String::from_utf8_lossy(&answer.head).into_owned();
                    return Err(format!("not the answer that was sent: {head}").into());
                }
                if round < each {
                    wire.stream.write_all(&self.request)?;
                }
            }
        }
        Ok(())
    }
}

/// Messages on one connection.
struct Wire<S> {
    stream: S,
    /// Read, not yet used.
    ahead: Vec<u8>,
}

struct Message {
    head: Vec<u8>,
    body: Vec<u8>,
}

impl<S: Read> Wire<S> {
    fn new(stream: S) -> Self {
        Self { stream, ahead: Vec::new() }
    }

    /// The next message; none if the peer closed before it.
    fn message(&mut self) -> Outcome<Option<Message>> {
        if self.ahead.is_empty() && !self.read()? {
            return Ok(None);
        }
        let head = self.until(b"\r\n\r\n")?;
        let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let value = |name| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let body = match (value("content-length:"), value("transfer-encoding:")) {
            (Some(length), None) => self.exactly(length.parse()?)?,
            (None, Some("chunked")) => self.chunks()?,
            (None, None) => Vec::new(),
            _ => return Err(format!("cannot read this message: {text}").into()),
        };
        Ok(Some(Message { head, body }))
    }

    fn chunks(&mut self) -> Outcome<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = self.until(b"\r\n")?;
            let size = usize::from_str_radix(String::from_utf8_lossy(&size).trim(), 16)?;
            body.extend(self.exactly(size)?);
            if !self.exactly(2)?.eq(b"\r\n") {
                return Err("a chunk without an end".into());
            }
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn until(&mut self, mark: &[u8]) -> Outcome<Vec<u8>> {
        loop {
            if let Some(at) = self.ahead.windows(mark.len()).position(|window| window == mark) {
                return self.exactly(at + mark.len());
            }
            self.more()?;
        }
    }

    fn exactly(&mut self, length: usize) -> Outcome<Vec<u8>> {
        while self.ahead.len() < length {
            self.more()?;
        }
        Ok(self.ahead.drain(..length).collect())
    }

    fn more(&mut self) -> Outcome<()> {
        if self.read()? { Ok(()) } else { Err("closed amid a message".into()) }
    }

    fn read(&mut self) -> Outcome<bool> {
        let mut piece = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut piece) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => {
                    let length = read?;
                    self.ahead.extend_from_slice(piece.get(..length).unwrap_or_default());
                    return Ok(length > 0);
                }
            }
        }
    }
}
