//! The load: keep-alive connections on one thread, in bursts (closed loop) or at a fixed rate (open loop).

use crate::Outcome;
use crate::poll::{Interest, Poll};
use crate::wire::Wire;
use memchr::memmem;
use rustls::ClientConfig;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// No byte for so long is a failure.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// When a burst ends; what has been asked by then is still answered and counted.
#[derive(Clone, Copy)]
pub enum Until {
    Over(Duration),
    Count(usize),
}

pub struct Client {
    poll: Poll,
    connections: Vec<Connection>,
    /// Those without a request under way; the one that has waited longest is next.
    idle: VecDeque<usize>,
    buffer: Vec<u8>,
    tls: Option<Arc<ClientConfig>>,
    /// Each request opens a connection of its own, and closes it after the answer.
    fresh: bool,
    /// Connections that the other side had closed and that were opened again.
    pub reopened: usize,
}

struct Connection {
    wire: Wire,
    to: SocketAddr,
    /// The beginning of a head whose end has not come yet.
    head: Vec<u8>,
    /// What is missing of the body, once the head is known.
    left: Option<usize>,
    busy: bool,
    /// When the request was due, which is not when it could be sent.
    due: Instant,
}

enum Progress {
    More,
    Answered,
    Closed,
}

pub fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: bench.local\r\nuser-agent: compare\r\naccept: */*\r\n\r\n")
        .into_bytes()
}

impl Client {
    /// Opens `count` connections, spread over the addresses in turn.
    pub fn connect(to: &[SocketAddr], count: usize) -> Outcome<Self> {
        Self::secured(to, count, None)
    }

    /// As [`Self::connect`], with TLS.
    pub fn secured(to: &[SocketAddr], count: usize, tls: Option<Arc<ClientConfig>>) -> Outcome<Self> {
        let mut client = Self {
            poll: Poll::new()?,
            connections: Vec::with_capacity(count),
            idle: VecDeque::new(),
            buffer: vec![0; 256 * 1024],
            tls,
            fresh: false,
            reopened: 0,
        };
        client.grow(to, count)?;
        Ok(client)
    }

    /// From now on each request has a connection of its own.
    #[must_use]
    pub fn anew(self) -> Self {
        Self { fresh: true, ..self }
    }

    /// Opens more connections, up to `count` in all.
    pub fn grow(&mut self, to: &[SocketAddr], count: usize) -> Outcome<()> {
        for to in to.iter().cycle().take(count.saturating_sub(self.connections.len())) {
            let token = self.connections.len();
            let wire = Wire::connect(*to, self.tls.as_ref())?;
            self.poll.add(wire.socket(), token, Interest::Read)?;
            let due = Instant::now();
            self.connections.push(Connection {
                wire,
                to: *to,
                head: Vec::new(),
                left: None,
                busy: false,
                due,
            });
            self.idle.push_back(token);
        }
        Ok(())
    }

    /// Keeps `in_flight` requests under way, on the connections in turn; returns how many were answered.
    pub fn burst(&mut self, request: &[u8], in_flight: usize, until: Until) -> Outcome<usize> {
        let begun = Instant::now();
        let (mut asked, mut answered, mut running) = (0, 0, 0);
        let may = |asked: usize| match until {
            Until::Over(length) => begun.elapsed() < length,
            Until::Count(count) => asked < count,
        };
        let mut ready = Vec::new();
        loop {
            while running < in_flight && may(asked) {
                let Some(next) = self.idle.pop_front() else { break };
                self.send(next, request, begun)?;
                (asked, running) = (asked + 1, running + 1);
            }
            if running == 0 {
                return Ok(answered);
            }
            self.poll.wait(Some(PATIENCE), &mut ready)?;
            if ready.is_empty() {
                return Err(format!("{running} requests had no answer for {PATIENCE:?}").into());
            }
            for &token in &ready {
                match self.read(token)? {
                    Progress::More => {}
                    Progress::Answered => {
                        answered += 1;
                        self.idle.push_back(token);
                        running -= 1;
                        if may(asked)
                            && let Some(next) = self.idle.pop_front()
                        {
                            self.send(next, request, begun)?;
                            (asked, running) = (asked + 1, running + 1);
                        }
                    }
                    Progress::Closed => self.reopen(token, request)?,
                }
            }
        }
    }

    /// Asks `count` times at `rate` per second, whatever the answers do; returns how long each took from the moment
    /// it was due, so that a request that had to wait for a free connection counts with its wait.
    pub fn paced(&mut self, request: &[u8], rate: u32, count: u32) -> Outcome<Vec<Duration>> {
        let period = Duration::from_secs(1) / rate;
        let start = Instant::now() + Duration::from_millis(2);
        let (mut next, mut running) = (0, 0_usize);
        let mut took = Vec::with_capacity(count as usize);
        let mut ready = Vec::new();
        while next < count || running > 0 {
            let due = start + period * next;
            let now = Instant::now();
            if next < count
                && due <= now
                && let Some(token) = self.idle.pop_front()
            {
                self.send(token, request, due)?;
                (next, running) = (next + 1, running + 1);
                continue;
            }
            let until_due = next < count && !self.idle.is_empty();
            let timeout = if until_due { due.saturating_duration_since(now) } else { PATIENCE };
            self.poll.wait(Some(timeout), &mut ready)?;
            if ready.is_empty() && !until_due {
                return Err(format!("{running} requests had no answer for {PATIENCE:?}").into());
            }
            for &token in &ready {
                match self.read(token)? {
                    Progress::More => {}
                    Progress::Answered => {
                        took.extend(self.connections.get(token).map(|c| c.due.elapsed()));
                        self.idle.push_back(token);
                        running -= 1;
                    }
                    Progress::Closed => self.reopen(token, request)?,
                }
            }
        }
        Ok(took)
    }

    fn send(&mut self, token: usize, request: &[u8], due: Instant) -> Outcome<()> {
        let Some(c) = self.connections.get_mut(token) else { return Err("no such connection".into()) };
        if self.fresh {
            c.wire.part();
            c.wire = Wire::connect(c.to, self.tls.as_ref())?;
            self.poll.add(c.wire.socket(), token, Interest::Read)?;
        }
        (c.busy, c.due, c.left) = (true, due, None);
        match c.wire.write(request) {
            Ok(written) if written == request.len() => Ok(()),
            Ok(_) => Err("a request did not fit into an empty socket".into()),
            // It was closed while it was idle; the next read says so too, and it is opened again then.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn read(&mut self, token: usize) -> Outcome<Progress> {
        let Some(c) = self.connections.get_mut(token) else { return Ok(Progress::More) };
        let read = match c.wire.read(&mut self.buffer) {
            Ok(0) => 0,
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(Progress::More);
            }
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => 0,
            Err(error) => return Err(error.into()),
        };
        if read == 0 {
            let halfway = c.left.is_some() || !c.head.is_empty();
            return if halfway { Err("an answer broke off".into()) } else { Ok(Progress::Closed) };
        }
        if !c.busy {
            return Err("an answer to nothing".into());
        }
        let bytes = self.buffer.get(..read).unwrap_or_default();
        let left = match c.left {
            Some(left) => left.checked_sub(read),
            None => {
                let (head, body) = if c.head.is_empty() {
                    match memmem::find(bytes, b"\r\n\r\n") {
                        Some(end) => (body_length(bytes)?, read - end - 4),
                        None => {
                            c.head.extend_from_slice(bytes);
                            return Ok(Progress::More);
                        }
                    }
                } else {
                    c.head.extend_from_slice(bytes);
                    let Some(end) = memmem::find(&c.head, b"\r\n\r\n") else { return Ok(Progress::More) };
                    (body_length(&c.head)?, c.head.len() - end - 4)
                };
                c.head.clear();
                head.checked_sub(body)
            }
        };
        let Some(left) = left else { return Err("an answer was longer than it said".into()) };
        c.left = Some(left);
        if left > 0 {
            return Ok(Progress::More);
        }
        (c.busy, c.left) = (false, None);
        Ok(Progress::Answered)
    }

    /// Opens a connection again that was closed between two answers, and repeats its request if it had one under way.
    fn reopen(&mut self, token: usize, request: &[u8]) -> Outcome<()> {
        let Some(c) = self.connections.get_mut(token) else { return Ok(()) };
        self.reopened += 1;
        c.wire = Wire::connect(c.to, self.tls.as_ref())?;
        c.head.clear();
        self.poll.add(c.wire.socket(), token, Interest::Read)?;
        let (busy, due) = (c.busy, c.due);
        if busy { self.send(token, request, due) } else { Ok(()) }
    }
}

/// The length of the body that a head announces; anything but a 200 with a length is a failure.
fn body_length(bytes: &[u8]) -> Outcome<usize> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    head.parse(bytes)?;
    if head.code != Some(200) {
        return Err(format!("an answer was {}, not 200", head.code.unwrap_or(0)).into());
    }
    let length = head.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|h| std::str::from_utf8(h.value).ok()).and_then(|v| v.parse().ok());
    length.ok_or_else(|| "an answer without a content-length".into())
}
