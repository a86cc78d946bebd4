//! Clients that speak HTTP/2 (RFC 9113), by prior knowledge: as many requests at once as they have streams.

use crate::Outcome;
use crate::traffic::{Ask, open};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// The client's preface, SETTINGS with as much of each stream ahead as possible, and the same for the connection.
const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
    \x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x3f\xff\xff\xff\
    \x00\x00\x04\x08\x00\x00\x00\x00\x00\x3f\xff\x00\x00";

/// GET, http and `/` of HPACK's static table (RFC 7541, appendix A), and `:authority: 127.0.0.1:9001` for the dynamic one.
const FIRST: &[u8] = b"\x82\x86\x84\x41\x0e127.0.0.1:9001";
/// The same once it is there.
const LATER: &[u8] = b"\x82\x86\x84\xbe";
/// `:status: 200`.
const STATUS_200: u8 = 0x88;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RESET: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const GOAWAY: u8 = 0x7;

const END_STREAM: u8 = 0x1;
/// The same bit, of SETTINGS.
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

pub struct Clients {
    connections: Vec<Connection>,
    streams: usize,
    body: Vec<u8>,
}

impl Clients {
    pub fn connect(to: SocketAddr, count: usize, streams: usize, body: Vec<u8>) -> Outcome<Self> {
        let mut connections = Vec::new();
        for _ in 0..count {
            let mut stream = open(to)?;
            stream.write_all(OPENING)?;
            connections.push(Connection { stream, next: 1, bodies: Vec::new() });
        }
        Ok(Self { connections, streams, body })
    }
}

impl Ask for Clients {
    /// A request on each stream of a connection is one write; the next ones follow when all of them are answered.
    fn ask(&mut self, each: usize) -> Outcome<()> {
        for _ in 0..each {
            for connection in &mut self.connections {
                connection.send(self.streams)?;
            }
            for connection in &mut self.connections {
                connection.answers(&self.body)?;
            }
        }
        Ok(())
    }
}

struct Connection {
    stream: TcpStream,
    /// The identifier of the next stream.
    next: u32,
    /// What has come of the answers that are not complete, by stream; none before the head.
    bodies: Vec<(u32, Option<Vec<u8>>)>,
}

impl Connection {
    fn send(&mut self, count: usize) -> Outcome<()> {
        let mut out = Vec::new();
        for _ in 0..count {
            let block = if self.next == 1 { FIRST } else { LATER };
            out.extend([0, 0, u8::try_from(block.len())?, HEADERS, END_HEADERS | END_STREAM]);
            out.extend(self.next.to_be_bytes());
            out.extend(block);
            self.bodies.push((self.next, None));
            self.next += 2;
        }
        Ok(self.stream.write_all(&out)?)
    }

    /// Reads until nothing is missing; every answer must be 200 with this body.
    fn answers(&mut self, body: &[u8]) -> Outcome<()> {
        while !self.bodies.is_empty() {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head)?;
            let [a, b, c, kind, flags, id @ ..] = head;
            let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c]))?];
            self.stream.read_exact(&mut payload)?;
            match kind {
                SETTINGS if flags & ACK == 0 => {
                    self.stream.write_all(&[0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0])?;
                }
                RESET | GOAWAY => return Err("the sidecar reset a stream or a connection".into()),
                DATA | HEADERS => self.take(u32::from_be_bytes(id), kind, flags, &payload, body)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn take(&mut self, id: u32, kind: u8, flags: u8, payload: &[u8], body: &[u8]) -> Outcome<()> {
        let at = self.bodies.iter().position(|(known, _)| *known == id).ok_or("an answer to nothing")?;
        let (_, came) = self.bodies.get_mut(at).ok_or("an answer to nothing")?;
        match came {
            None if kind == HEADERS && payload.first() == Some(&STATUS_200) => *came = Some(Vec::new()),
            Some(came) if kind == DATA => came.extend_from_slice(payload),
            _ => return Err("an answer that is not 200, or not in order".into()),
        }
        if flags & END_STREAM != 0 {
            let (_, came) = self.bodies.swap_remove(at);
            if came.is_none_or(|came| came != body) {
                return Err("not the answer that was sent".into());
            }
        }
        Ok(())
    }
}
