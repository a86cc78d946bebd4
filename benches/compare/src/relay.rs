//! The floor: a relay that parses nothing; what any proxy in user space pays to the kernel.

use crate::Outcome;
use crate::backend::put;
use crate::poll::{Interest, Poll};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

/// One end of a pair; what was read at the other end and does not fit into this one waits here.
struct End {
    stream: TcpStream,
    other: usize,
    waiting: Vec<u8>,
}

/// Gives each client connection one connection to the next backend, until the process is ended.
pub fn serve(addr: SocketAddr, backends: &[SocketAddr]) -> Outcome<()> {
    let mut poll = Poll::new()?;
    let listener = crate::net::listen(addr)?;
    let door = listener.as_raw_fd() as usize;
    poll.add(&listener, door, Interest::Read)?;
    println!("ready");
    let mut ends: Vec<Option<End>> = Vec::new();
    let (mut buffer, mut ready) = (vec![0; 256 * 1024], Vec::new());
    let mut turn = backends.iter().cycle();
    loop {
        poll.wait(None, &mut ready)?;
        for &token in &ready {
            if token == door {
                while let Ok((client, _)) = listener.accept() {
                    let Some(backend) = turn.next() else { return Err("no backends".into()) };
                    pair(client, TcpStream::connect(backend)?, &poll, &mut ends)?;
                }
            } else if step(token, &poll, &mut ends, &mut buffer)?.is_none() {
                let end = ends.get_mut(token).and_then(Option::take);
                if let Some(other) = end.and_then(|end| ends.get_mut(end.other)) {
                    *other = None;
                }
            }
        }
    }
}

fn pair(client: TcpStream, backend: TcpStream, poll: &Poll, ends: &mut Vec<Option<End>>) -> Outcome<()> {
    let tokens = [client.as_raw_fd() as usize, backend.as_raw_fd() as usize];
    for (stream, token, other) in [(client, tokens[0], tokens[1]), (backend, tokens[1], tokens[0])] {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        poll.add(&stream, token, Interest::Read)?;
        put(ends, token, End { stream, other, waiting: Vec::new() });
    }
    Ok(())
}

/// Moves what there is; `None` if the pair has ended.
fn step(token: usize, poll: &Poll, ends: &mut [Option<End>], buffer: &mut [u8]) -> Outcome<Option<()>> {
    let Some(Some(end)) = ends.get_mut(token) else { return Ok(Some(())) };
    let other = end.other;
    if !end.waiting.is_empty() {
        let waiting = std::mem::take(&mut end.waiting);
        if !push(end, &waiting) {
            return Ok(None);
        }
        if end.waiting.is_empty() {
            poll.change(&end.stream, token, Interest::Read)?;
            let Some(Some(source)) = ends.get(other) else { return Ok(None) };
            // A source that has something waiting itself waits for its own room to write.
            if source.waiting.is_empty() {
                poll.change(&source.stream, other, Interest::Read)?;
            }
        }
        return Ok(Some(()));
    }
    let read = match end.stream.read(buffer) {
        Ok(0) => return Ok(None),
        Ok(read) => read,
        Err(error) => {
            let again = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted);
            return Ok(again.then_some(()));
        }
    };
    let Some(Some(target)) = ends.get_mut(other) else { return Ok(None) };
    if !push(target, buffer.get(..read).unwrap_or_default()) {
        return Ok(None);
    }
    if !target.waiting.is_empty() {
        poll.change(&target.stream, other, Interest::Write)?;
        if let Some(Some(end)) = ends.get(token) {
            poll.change(&end.stream, token, Interest::Nothing)?;
        }
    }
    Ok(Some(()))
}

/// Writes what fits and keeps the rest; false if the connection has ended.
fn push(end: &mut End, bytes: &[u8]) -> bool {
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        match end.stream.write(rest) {
            Ok(written) => at += written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                end.waiting.extend_from_slice(rest);
                return true;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
    true
}
