//! The load over HTTP/2 (RFC 9113): connections with several streams each, closed loop, on one thread.

use crate::Outcome;
use crate::client::{PATIENCE, Until};
use crate::frame::{ACK, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, RESET, SETTINGS};
use crate::poll::{Interest, Poll};
use crate::wire::Wire;
use rustls::ClientConfig;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// Client preface, SETTINGS (no push, as much as possible of a stream ahead), and the same for the connection.
const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
    \x00\x00\x0c\x04\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x04\x3f\xff\xff\xff\
    \x00\x00\x04\x08\x00\x00\x00\x00\x00\x3f\xff\x00\x00";
const SETTINGS_ACK: &[u8] = b"\x00\x00\x00\x04\x01\x00\x00\x00\x00";
/// So much of a connection's window is used before it is given back: never within a burst of small answers.
const GIVE_BACK: usize = 1 << 28;

/// `:status: 200` in HPACK's static table.
const STATUS_200: u8 = 0x88;

pub struct Http2 {
    poll: Poll,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
}

struct Connection {
    wire: Wire,
    /// The beginning of a frame whose end has not come yet.
    input: Vec<u8>,
    output: Vec<u8>,
    streams: Vec<Stream>,
    /// The identifier of the next stream.
    next: u32,
    /// The other side's table has the fields that are the same each time.
    is_known: bool,
    /// Bytes of bodies for which no window was given back yet.
    taken: usize,
    /// The bodies, if they are kept.
    kept: Option<Vec<u8>>,
}

/// A request under way; `id` 0 is none.
#[derive(Clone, Default)]
struct Stream {
    id: u32,
    head: bool,
    body: usize,
}

impl Http2 {
    /// Opens connections with room for so many streams each; over TLS by ALPN, else by prior knowledge.
    pub fn connect(
        to: &[SocketAddr],
        connections: usize,
        streams: usize,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Outcome<Self> {
        let mut client = Self { poll: Poll::new()?, connections: Vec::new(), buffer: vec![0; 256 * 1024] };
        for to in to.iter().cycle().take(connections) {
            let wire = Wire::connect(*to, tls)?;
            client.poll.add(wire.socket(), client.connections.len(), Interest::Read)?;
            client.connections.push(Connection {
                wire,
                input: Vec::new(),
                output: OPENING.to_vec(),
                streams: vec![Stream::default(); streams],
                next: 1,
                is_known: false,
                taken: 0,
                kept: None,
            });
        }
        Ok(client)
    }

    /// Keeps a request under way on each stream; returns how many were answered: by 200, and with `length` bytes if a
    /// length is given. Anything else is a failure.
    pub fn burst(&mut self, path: &str, length: Option<usize>, until: Until) -> Outcome<usize> {
        let begun = Instant::now();
        let (mut asked, mut answered) = (0, 0);
        let may = |asked: usize| match until {
            Until::Over(length) => begun.elapsed() < length,
            Until::Count(count) => asked < count,
        };
        for c in &mut self.connections {
            for at in 0..c.streams.len() {
                if may(asked) {
                    c.ask(at, path)?;
                    asked += 1;
                }
            }
            c.send()?;
        }
        let (mut ready, mut free) = (Vec::new(), Vec::new());
        while answered < asked {
            self.poll.wait(Some(PATIENCE), &mut ready)?;
            if ready.is_empty() {
                return Err(format!("{} requests had no answer for {PATIENCE:?}", asked - answered).into());
            }
            for &token in &ready {
                let Some(c) = self.connections.get_mut(token) else { continue };
                c.read(&mut self.buffer, length, &mut free)?;
                answered += free.len();
                for at in free.drain(..) {
                    if may(asked) {
                        c.ask(at, path)?;
                        asked += 1;
                    }
                }
                c.send()?;
            }
        }
        Ok(answered)
    }

    /// The body of one answer, on a connection of its own.
    pub fn fetch(to: &[SocketAddr], path: &str, tls: Option<&Arc<ClientConfig>>) -> Outcome<Vec<u8>> {
        let mut client = Self::connect(to, 1, 1, tls)?;
        client.connections.iter_mut().for_each(|c| c.kept = Some(Vec::new()));
        client.burst(path, None, Until::Count(1))?;
        let c = client.connections.first_mut().ok_or("no connection")?;
        if tls.is_some() && c.wire.agreed() != Some(b"h2") {
            return Err("HTTP/2 was not agreed on".into());
        }
        Ok(c.kept.take().unwrap_or_default())
    }
}

impl Connection {
    /// Puts a request into the output. As libraries do, what is the same each time goes into HPACK's dynamic table, and
    /// the path does not.
    fn ask(&mut self, at: usize, path: &str) -> Outcome<()> {
        let stream = self.streams.get_mut(at).ok_or("no such stream")?;
        *stream = Stream { id: self.next, ..Stream::default() };
        self.next += 2;
        // GET, and http or https.
        let mut block = vec![0x82, if matches!(self.wire, Wire::Plain(_)) { 0x86 } else { 0x87 }];
        literal(&mut block, 0x04, path);
        if self.is_known {
            // The youngest entry is number 62.
            block.extend([0x80 | 64, 0x80 | 63, 0x80 | 62]);
        } else {
            literal(&mut block, 0x40 | 1, crate::wire::NAME);
            literal(&mut block, 0x40 | 58, "compare");
            literal(&mut block, 0x40 | 19, "*/*");
            self.is_known = true;
        }
        self.output.extend((block.len() as u32).to_be_bytes().get(1..).unwrap_or_default());
        self.output.extend([HEADERS, END_HEADERS | END_STREAM]);
        self.output.extend(stream.id.to_be_bytes());
        self.output.extend(block);
        Ok(())
    }

    fn send(&mut self) -> Outcome<()> {
        if !self.output.is_empty() {
            let written = self.wire.write(&self.output)?;
            if written < self.output.len() {
                return Err("requests did not fit into a socket".into());
            }
            self.output.clear();
        }
        Ok(())
    }

    /// Reads what is there, and tells which streams are free again.
    fn read(&mut self, buffer: &mut [u8], length: Option<usize>, free: &mut Vec<usize>) -> Outcome<()> {
        let read = match self.wire.read(buffer) {
            Ok(0) => return Err("a connection was closed".into()),
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let came = buffer.get(..read).unwrap_or_default();
        let mut whole = std::mem::take(&mut self.input);
        let mut bytes = if whole.is_empty() {
            came
        } else {
            whole.extend_from_slice(came);
            &whole
        };
        while let Some((frame, rest)) = Frame::first(bytes) {
            self.take(&frame, length, free)?;
            bytes = rest;
        }
        self.input = bytes.to_vec();
        Ok(())
    }

    fn take(&mut self, frame: &Frame<'_>, length: Option<usize>, free: &mut Vec<usize>) -> Outcome<()> {
        match frame.kind {
            DATA => {
                let content = frame.content()?;
                let stream = self.stream(frame.stream)?;
                if !stream.head {
                    return Err("a body came before its head".into());
                }
                stream.body += content.len();
                if let Some(kept) = &mut self.kept {
                    kept.extend_from_slice(content);
                }
                self.taken += frame.payload.len();
                if self.taken >= GIVE_BACK {
                    self.output.extend(b"\x00\x00\x04\x08\x00\x00\x00\x00\x00");
                    self.output.extend((self.taken as u32).to_be_bytes());
                    self.taken = 0;
                }
            }
            HEADERS => {
                if !frame.is(END_HEADERS) {
                    return Err("a head of an answer in several frames".into());
                }
                // Changes of the table's size may come first.
                let mut block = frame.content()?.iter().skip_while(|byte| **byte & 0xe0 == 0x20);
                let stream = self.stream(frame.stream)?;
                if !stream.head && block.next() != Some(&STATUS_200) {
                    return Err("an answer was not 200".into());
                }
                stream.head = true;
            }
            RESET | GOAWAY => {
                return Err(format!("a stream or a connection was reset: {:?}", frame.payload).into());
            }
            SETTINGS if !frame.is(ACK) => self.output.extend(SETTINGS_ACK),
            PING if !frame.is(ACK) => {
                self.output.extend(b"\x00\x00\x08\x06\x01\x00\x00\x00\x00");
                self.output.extend(frame.payload);
            }
            _ => {}
        }
        if matches!(frame.kind, DATA | HEADERS) && frame.is(END_STREAM) {
            let at = self.streams.iter().position(|stream| stream.id == frame.stream);
            let at = at.ok_or("an answer to nothing")?;
            let body = std::mem::take(self.stream(frame.stream)?).body;
            if length.is_some_and(|length| length != body) {
                return Err(format!("an answer had {body} bytes").into());
            }
            free.push(at);
        }
        Ok(())
    }

    fn stream(&mut self, id: u32) -> Outcome<&mut Stream> {
        let stream = self.streams.iter_mut().find(|stream| stream.id == id && id > 0);
        stream.ok_or_else(|| "an answer to nothing".into())
    }
}

/// A field that is short, and not compressed. `name` is the first byte: how it is to be kept, and the number of its name.
fn literal(block: &mut Vec<u8>, name: u8, value: &str) {
    block.extend([name, value.len() as u8]);
    block.extend(value.as_bytes());
}
