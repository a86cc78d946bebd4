//! The instances behind the proxies: one thread that answers `/100`, `/10k` and `/1m` with so many bytes.

use crate::Outcome;
use crate::poll::{Interest, Poll};
use crate::wire::Wire;
use memchr::memmem;
use rustls::ServerConfig;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// A head that is longer than this is none.
const LONGEST_HEAD: usize = 64 * 1024;

/// Answered with the head of the request itself, so that one can see what a proxy made of it.
pub const MIRROR: &str = "/head";

/// Path and length of the body; what has none of these paths (a health check) gets the first.
pub const SIZES: [(&str, usize); 3] = [("/100", 100), ("/10k", 10 * 1024), ("/1m", 1024 * 1024)];

struct Connection {
    wire: Wire,
    /// The beginning of a head whose end has not come yet.
    head: Vec<u8>,
    /// Which answer is being written, and how much of it is out.
    writing: Option<(usize, usize)>,
}

/// Serves at all these addresses until the process is ended; says "ready" when it listens.
pub fn serve(addrs: &[SocketAddr], tls: Option<&Arc<ServerConfig>>) -> Outcome<()> {
    let answers: Vec<Vec<u8>> = SIZES.iter().map(|(_, length)| answer(*length)).collect();
    let mut poll = Poll::new()?;
    let mut listeners: Vec<Option<TcpListener>> = Vec::new();
    for addr in addrs {
        let listener = crate::net::listen(*addr)?;
        let token = listener.as_raw_fd() as usize;
        poll.add(&listener, token, Interest::Read)?;
        put(&mut listeners, token, listener);
    }
    println!("ready");
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let (mut buffer, mut ready) = (vec![0; 64 * 1024], Vec::new());
    loop {
        poll.wait(None, &mut ready)?;
        for &token in &ready {
            if let Some(Some(listener)) = listeners.get(token) {
                accept(listener, tls, &poll, &mut connections)?;
            } else if let Some(slot) = connections.get_mut(token)
                && let Some(connection) = slot
                && !step(connection, token, &poll, &answers, &mut buffer)?
            {
                *slot = None;
            }
        }
    }
}

fn answer(length: usize) -> Vec<u8> {
    let mut answer = head(length);
    answer.resize(answer.len() + length, b'x');
    answer
}

fn head(length: usize) -> Vec<u8> {
    let kind = "application/octet-stream";
    format!("HTTP/1.1 200 OK\r\nserver: backend\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n")
        .into_bytes()
}

/// By descriptor: small numbers, each used once at a time.
pub fn put<T>(slots: &mut Vec<Option<T>>, at: usize, value: T) {
    if slots.len() <= at {
        slots.resize_with(at + 1, || None);
    }
    if let Some(slot) = slots.get_mut(at) {
        *slot = Some(value);
    }
}

fn accept(
    listener: &TcpListener,
    tls: Option<&Arc<ServerConfig>>,
    poll: &Poll,
    connections: &mut Vec<Option<Connection>>,
) -> Outcome<()> {
    loop {
        let (stream, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error.into()),
        };
        // One listener may stand for all of 127.0.0.0/8, which takes 0.0.0.0: nobody else is served.
        if !peer.ip().is_loopback() {
            continue;
        }
        let wire = Wire::accepted(stream, tls)?;
        let token = wire.socket().as_raw_fd() as usize;
        poll.add(wire.socket(), token, Interest::Read)?;
        put(connections, token, Connection { wire, head: Vec::new(), writing: None });
    }
}

/// Goes on with a connection; false if it has ended.
fn step(
    c: &mut Connection,
    token: usize,
    poll: &Poll,
    answers: &[Vec<u8>],
    buffer: &mut [u8],
) -> Outcome<bool> {
    if c.writing.is_some() {
        if !write(c, answers) {
            return Ok(false);
        }
        if c.writing.is_none() {
            poll.change(c.wire.socket(), token, Interest::Read)?;
        }
        return Ok(true);
    }
    let read = match c.wire.read(buffer) {
        Ok(0) => return Ok(false),
        Ok(read) => read,
        Err(error) => return Ok(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)),
    };
    let fresh = buffer.get(..read).unwrap_or_default();
    let whole = if c.head.is_empty() {
        fresh
    } else {
        c.head.extend_from_slice(fresh);
        &c.head
    };
    // Clients here wait for an answer before they ask again, and send no bodies.
    if memmem::find(whole, b"\r\n\r\n").is_none() {
        if c.head.is_empty() {
            c.head = fresh.to_vec();
        }
        return Ok(c.head.len() <= LONGEST_HEAD);
    }
    let path = whole.split(|b| *b == b' ').nth(1).unwrap_or_default();
    if path == MIRROR.as_bytes() {
        let mut mirrored = head(whole.len());
        mirrored.extend_from_slice(whole);
        c.head.clear();
        return Ok(c.wire.write(&mirrored).is_ok_and(|written| written == mirrored.len()));
    }
    let which = SIZES.iter().position(|(name, _)| path == name.as_bytes()).unwrap_or(0);
    c.head.clear();
    c.writing = Some((which, 0));
    if !write(c, answers) {
        return Ok(false);
    }
    if c.writing.is_some() {
        poll.change(c.wire.socket(), token, Interest::Write)?;
    }
    Ok(true)
}

/// Writes what fits; false if the connection has ended.
fn write(c: &mut Connection, answers: &[Vec<u8>]) -> bool {
    while let Some((which, at)) = c.writing {
        let Some(rest) = answers.get(which).and_then(|answer| answer.get(at..)) else { return false };
        let written = if rest.is_empty() { c.wire.flush().map(|()| 0) } else { c.wire.write(rest) };
        match written {
            Ok(_) if rest.is_empty() => c.writing = None,
            Ok(written) => c.writing = Some((which, at + written)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
    true
}
