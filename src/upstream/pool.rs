//! One worker's kept-alive connections, by target.

use super::connect::{connect, tell_distrust, tell_trust};
use super::error::Cause;
use super::exchange::{Reply, Sending, exchange};
use super::h2::Links;
use super::head::{Head, Length, Malformed};
use super::multiplex::{self, Spoken};
use super::outgoing::Outgoing;
use super::socket::Socket;
use super::tunnel::Tunnel;
use super::wire::{Line, Wire};
use super::{ConnectionSettings, HttpVersion, STUCK, SendError, Stage, UpstreamBody};
use crate::model::{History, Target, TargetId};
use crate::net::tls::TlsFailure;
use crate::rt::LocalTasks;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::Body;
use rustc_hash::FxHashMap;
use std::cell::{Cell, RefCell, RefMut};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use tokio::time::Instant;

/// Read buffers that wait for their next use: a connection needs one only while it is in use.
const SPARE_BUFFERS: usize = 64;

/// This worker's way to all targets. Dropping it closes the idle connections; busy ones end with their exchange.
#[derive(Debug)]
pub struct Upstream {
    pools: RefCell<FxHashMap<TargetId, Pool>>,
    buffers: RefCell<Vec<BytesMut>>,
    /// As of the last sweep: exact enough to tell how long a connection has been idle.
    now: Cell<Instant>,
    tasks: LocalTasks,
}

#[derive(Debug)]
pub(super) struct Pool {
    history: Arc<History>,
    /// Most recently used last: the oldest ones run into their idle limit.
    idle: Vec<Idle>,
    /// All connections to this target, to be cut when its drain time is over.
    lines: Vec<Weak<RefCell<Wire>>>,
    /// Those that carry several requests at once.
    pub links: Option<Box<Links>>,
    /// Asked for HTTP/2, it agreed on HTTP/1.1.
    pub speaks_one: bool,
    settings: ConnectionSettings,
}

impl Pool {
    pub fn of<'a>(
        pools: &'a mut FxHashMap<TargetId, Self>,
        target: &Target,
        settings: &ConnectionSettings,
    ) -> &'a mut Self {
        pools.entry(target.id()).or_insert_with(|| Self {
            history: Arc::clone(&target.history),
            idle: Vec::new(),
            lines: Vec::new(),
            links: None,
            speaks_one: false,
            settings: settings.clone(),
        })
    }

    /// Keeps a new connection for the next request.
    pub fn keep(&mut self, socket: Socket, now: Instant) {
        let line = Rc::new(RefCell::new(Wire::new(socket)));
        self.lines.push(Rc::downgrade(&line));
        self.idle.push(Idle { line, since: now });
    }
}

#[derive(Debug)]
struct Idle {
    line: Line,
    since: Instant,
}

/// A connection that is in use; given back when its exchange has ended well. Dropped, it is closed.
#[derive(Debug)]
pub(super) struct Lease {
    upstream: Rc<Upstream>,
    target: TargetId,
    line: Line,
}

impl Upstream {
    pub fn new(tasks: LocalTasks) -> Rc<Self> {
        Rc::new(Self {
            pools: RefCell::default(),
            buffers: RefCell::default(),
            now: Cell::new(Instant::now()),
            tasks,
        })
    }

    /// Sends a request on a kept-alive connection, or on a new one if there is none or `fresh` is asked for.
    ///
    /// # Errors
    /// [`SendError`] tells how far the request got.
    pub async fn send<B>(
        self: &Rc<Self>,
        target: &Target,
        ask: &Sending<'_>,
        body: B,
        settings: &ConnectionSettings,
        fresh: bool,
    ) -> Result<Reply, SendError>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut body = body;
        if multiplex::may_be(settings, ask) {
            match Box::pin(self.send_multiplexed(target, ask, body, settings, fresh)).await? {
                Spoken::Two(reply) => return Ok(reply),
                Spoken::One(unsent) => body = unsent,
            }
        }
        let mut outgoing = Outgoing::new(body, ask.framing);
        loop {
            let kept = if fresh { None } else { self.take_idle(target.id()) };
            let is_kept = kept.is_some();
            let reused = kept.as_ref().is_some_and(|line| line.borrow().used);
            let line = match kept {
                Some(line) => line,
                // In a box, as all that is rare: a request's future is moved as a whole when it begins.
                None => Box::pin(self.open(target, settings)).await?,
            };
            match exchange(&line, &mut outgoing, ask).await {
                Ok(head) => {
                    if settings.tls.is_some() {
                        tell_trust(target);
                    }
                    return self.reply(target.id(), line, outgoing, head, ask);
                }
                // It was closed under our hands before anything was written: no harm done.
                Err(source) if is_kept && outgoing.is_untouched() && !matches!(source, Cause::Body(_)) => {}
                Err(source) => {
                    let heard = line.borrow().heard;
                    let stage = if outgoing.is_untouched() { Stage::Unsent } else { Stage::Head };
                    let error = SendError { stage, reused, heard, source };
                    return Err(if reused || heard { error } else { refused(error, target) });
                }
            }
        }
    }

    pub(super) fn pools(&self) -> RefMut<'_, FxHashMap<TargetId, Pool>> {
        self.pools.borrow_mut()
    }

    pub(super) fn tasks(&self) -> &LocalTasks {
        &self.tasks
    }

    /// As of the last sweep.
    pub(super) fn now(&self) -> Instant {
        self.now.get()
    }

    /// Closes what has been idle for too long or leads to removed targets, and cuts what outlived its drain time.
    pub fn sweep(&self, now: Instant) {
        self.now.set(now);
        self.pools.borrow_mut().retain(|_, pool| {
            pool.idle.retain_mut(|idle| {
                now.saturating_duration_since(idle.since) < pool.settings.keep_alive
                    && idle.line.borrow_mut().is_quiet()
            });
            pool.lines.retain(|line| {
                let Some(line) = line.upgrade() else { return false };
                line.borrow_mut().end_if_stuck(now, STUCK);
                true
            });
            // A target that was gone may come back as another program.
            pool.speaks_one &= !pool.lines.is_empty();
            if let Some(links) = &mut pool.links {
                links.sweep(now, &pool.settings);
            }
            let Some(retired) = pool.history.retired_at() else { return true };
            pool.idle.clear();
            if let Some(links) = &mut pool.links {
                links.retire();
            }
            if now.saturating_duration_since(retired) >= pool.settings.drain {
                pool.lines
                    .drain(..)
                    .filter_map(|line| line.upgrade())
                    .for_each(|line| line.borrow_mut().cut());
                pool.links.iter_mut().for_each(|links| links.cut());
            }
            !pool.lines.is_empty() || pool.links.as_ref().is_some_and(|links| !links.is_empty())
        });
    }

    fn take_idle(&self, target: TargetId) -> Option<Line> {
        let mut pools = self.pools.borrow_mut();
        let idle = &mut pools.get_mut(&target)?.idle;
        while let Some(Idle { line, .. }) = idle.pop() {
            let mut wire = line.borrow_mut();
            if wire.is_quiet() {
                wire.input = self.buffers.borrow_mut().pop().unwrap_or_default();
                wire.heard = false;
                drop(wire);
                return Some(line);
            }
        }
        None
    }

    async fn open(&self, target: &Target, settings: &ConnectionSettings) -> Result<Line, SendError> {
        let socket = connect(target, settings, Some(HttpVersion::One.alpn())).await?;
        let line = Rc::new(RefCell::new(Wire::new(socket)));
        let mut pools = self.pools.borrow_mut();
        let pool = Pool::of(&mut pools, target, settings);
        pool.lines.push(Rc::downgrade(&line));
        Ok(line)
    }

    /// A response has begun. What is still to be sent of its request goes on beside it.
    fn reply<B>(
        self: &Rc<Self>,
        target: TargetId,
        line: Line,
        mut outgoing: Outgoing<B>,
        head: Head,
        ask: &Sending<'_>,
    ) -> Result<Reply, SendError>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let malformed = |why: Malformed| {
            let source = why.into();
            SendError { stage: Stage::Head, reused: false, heard: true, source }
        };
        let length = head.body_length(ask.to_head).map_err(malformed)?;
        let mut wire = line.borrow_mut();
        wire.keep = head.keeps_alive() && length != Length::UntilClose;
        if !outgoing.is_past_head(ask.head) {
            wire.broke(std::io::ErrorKind::BrokenPipe.into());
        }
        if !outgoing.is_over() && !wire.is_broken() {
            wire.sending = true;
            let (upstream, line) = (Rc::clone(self), Rc::clone(&line));
            self.tasks.spawn("upload", async move {
                let sent = std::future::poll_fn(|cx| outgoing.poll(cx, &mut line.borrow_mut(), b"")).await;
                let mut wire = line.borrow_mut();
                wire.sending = false;
                if sent.is_err() {
                    // The instance must not take what it has for the whole.
                    wire.cut();
                } else if std::mem::take(&mut wire.returned) {
                    drop(wire);
                    upstream.put_idle(target, line);
                }
            });
        }
        drop(wire);
        let switched = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let lease = Lease { upstream: Rc::clone(self), target, line };
        let body = if switched {
            UpstreamBody::switched(lease)
        } else {
            UpstreamBody::exclusive(lease, length).map_err(malformed)?
        };
        Ok(Reply { head, body })
    }

    fn put_idle(&self, target: TargetId, line: Line) {
        let mut pools = self.pools.borrow_mut();
        let Some(pool) = pools.get_mut(&target) else { return };
        if pool.idle.len() >= pool.settings.keep_alive_connections || pool.history.retired_at().is_some() {
            return;
        }
        let mut wire = line.borrow_mut();
        if !wire.is_clean() {
            return;
        }
        let mut buffers = self.buffers.borrow_mut();
        if let Some(buffer) = wire.park()
            && buffers.len() < SPARE_BUFFERS
        {
            buffers.push(buffer);
        }
        drop(wire);
        pool.idle.push(Idle { line, since: self.now.get() });
    }
}

/// With TLS 1.3 a server judges our certificate, or the lack of one, only after our side of the handshake is over (RFC
/// 8446, section 4.4.2.4): what it says then comes in the place of the first answer, and the request was not seen.
fn refused(error: SendError, target: &Target) -> SendError {
    let Cause::Io(io) = &error.source else { return error };
    let Some(why) = TlsFailure::of_stream(io).filter(|_| TlsFailure::is_of_our_certificate(io)) else {
        return error;
    };
    tell_distrust(target, &why);
    SendError::connect(Cause::Tls { why, name: String::new() })
}

impl Lease {
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// The response is over, and the connection may carry another one.
    pub fn give_back(self) {
        let mut wire = self.line.borrow_mut();
        wire.returned = wire.sending;
        if !wire.sending {
            drop(wire);
            self.upstream.put_idle(self.target, Rc::clone(&self.line));
        }
    }

    pub fn into_tunnel(self) -> Tunnel {
        Tunnel::new(Rc::clone(&self.line))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut wire = self.line.borrow_mut();
        // Nobody waits for the answer to what is still being sent.
        if wire.sending && !wire.returned {
            wire.cut();
        }
    }
}
