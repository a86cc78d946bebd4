//! Finds a request its place on an HTTP/2 connection, and finds out which instances speak it.

use super::connect::{connect, tell_distrust, tell_trust};
use super::error::Cause;
use super::h2::{Link, Made, Opening, Refused, Slot, begin, is_websocket, make};
use super::pool::{Pool, Upstream};
use super::socket::Socket;
use super::{ConnectionSettings, HttpVersion, Reply, SendError, Sending, Stage};
use crate::model::{Target, TargetId};
use ::h2::client::SendRequest;
use bytes::Bytes;
use http_body::Body;
use std::rc::Rc;

/// What a content type begins with that goes over HTTP/1.1, too, although it looks like gRPC's.
const GRPC_WEB: &[u8] = b"application/grpc-web";

/// A place on a connection, and whether that had carried a request before.
type Place = (SendRequest<Bytes>, Slot, bool);

/// What a request that may go over HTTP/2 comes to.
pub(super) enum Spoken<B> {
    /// It was sent.
    Two(Reply),
    /// The instance speaks HTTP/1.1, or only that will do; this is the body.
    One(B),
}

/// Whether a request may go over HTTP/2.
pub(super) fn may_be(settings: &ConnectionSettings, ask: &Sending<'_>) -> bool {
    match settings.http {
        HttpVersion::One => false,
        HttpVersion::Two => true,
        HttpVersion::Auto if settings.tls.is_some() => true,
        HttpVersion::Auto => ask.grpc && !ask.upgrade && memchr::memmem::find(ask.head, GRPC_WEB).is_none(),
    }
}

impl Upstream {
    /// Sends a request over HTTP/2 if the instance speaks it.
    pub(super) async fn send_multiplexed<B>(
        self: &Rc<Self>,
        target: &Target,
        ask: &Sending<'_>,
        body: B,
        settings: &ConnectionSettings,
        fresh: bool,
    ) -> Result<Spoken<B>, SendError>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let optional = settings.http == HttpVersion::Auto;
        let unsent = |source| SendError { stage: Stage::Head, reused: false, heard: true, source };
        let mut after = if fresh { self.opened(target.id()) } else { 0 };
        loop {
            let Some((sender, slot, reused)) = self.place(target, settings, &mut after).await? else {
                return Ok(Spoken::One(body));
            };
            let websocket = ask.upgrade && is_websocket(ask.head);
            if ask.upgrade && !(websocket && sender.is_extended_connect_protocol_enabled()) {
                if optional {
                    return Ok(Spoken::One(body));
                }
                if websocket {
                    let why = "the instance takes no WebSockets over HTTP/2 (RFC 8441)";
                    return Err(unsent(Cause::Protocol(why.to_owned())));
                }
            }
            let begun = begin(sender, slot, reused, ask, websocket, target.endpoint.addr);
            match begun {
                Ok(begun) => return begun.exchange(body, ask).await.map(Spoken::Two),
                // It was closed under our hands before anything was written: no harm done.
                Err(Refused::Closed) => {}
                Err(Refused::Untranslatable(why)) => return Err(unsent(Cause::Protocol(why.to_owned()))),
            }
        }
    }

    /// A place on a connection that was opened after so many others; waits for one. `None` if the instance speaks
    /// HTTP/1.1.
    async fn place(
        self: &Rc<Self>,
        target: &Target,
        settings: &ConnectionSettings,
        after: &mut u64,
    ) -> Result<Option<Place>, SendError> {
        loop {
            let (opening, room) = {
                let mut pools = self.pools();
                let pool = Pool::of(&mut pools, target, settings);
                if pool.speaks_one && settings.http == HttpVersion::Auto {
                    return Ok(None);
                }
                let links = pool.links.get_or_insert_default();
                if links.is_full(settings) {
                    // No newer one will come.
                    *after = 0;
                }
                if let Some(place) = links.take(*after) {
                    return Ok(Some(place));
                }
                if links.may_grow(settings) {
                    links.opening = Some(self.open_shared(target.clone(), settings.clone()));
                }
                (links.opening.clone(), Rc::clone(&links.room))
            };
            match opening {
                Some(opening) => tokio::select! {
                    opened = opening.wait() => opened?,
                    () = room.wait(*after > 0) => {}
                },
                None => room.wait(*after > 0).await,
            }
        }
    }

    fn opened(&self, target: TargetId) -> u64 {
        let pools = self.pools();
        pools.get(&target).and_then(|pool| pool.links.as_ref()).map_or(0, |links| links.opened)
    }

    /// Opens a connection in a task of its own, for whoever waits.
    fn open_shared(self: &Rc<Self>, target: Target, settings: ConnectionSettings) -> Rc<Opening> {
        let opening = Rc::<Opening>::default();
        let end = End { upstream: Rc::clone(self), target: target.id(), opening: Rc::clone(&opening) };
        self.tasks().spawn("connect", async move {
            let opened = tokio::time::timeout(settings.connect, open(&target, &settings)).await;
            let outcome = opened.unwrap_or_else(|_| Err(SendError::connect(Cause::Timeout)));
            end.opening.finish(outcome.map(|opened| end.upstream.adopt(&target, &settings, opened)));
        });
        opening
    }

    /// Makes a new connection one that requests may use.
    fn adopt(&self, target: &Target, settings: &ConnectionSettings, opened: Opened) {
        let mut pools = self.pools();
        let pool = Pool::of(&mut pools, target, settings);
        match opened {
            Opened::One(socket) => {
                pool.speaks_one = true;
                pool.keep(socket, self.now());
            }
            Opened::Two { made, secure } => {
                pool.speaks_one = false;
                let links = pool.links.get_or_insert_default();
                let room = Rc::clone(&links.room);
                let (link, driving) =
                    Link::new(*made, links.opened, secure, room, self.tasks(), settings.connect);
                links.opened += 1;
                link.is_driven_by(self.tasks().spawn("http2", driving));
                links.add(link);
            }
        }
    }
}

/// A connection that came about.
enum Opened {
    One(Socket),
    Two { made: Box<Made>, secure: bool },
}

/// Ends the opening whatever becomes of its task.
struct End {
    upstream: Rc<Upstream>,
    target: TargetId,
    opening: Rc<Opening>,
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(links) = self.upstream.pools().get_mut(&self.target).and_then(|pool| pool.links.as_mut())
        {
            links.opening = None;
        }
        self.opening.finish(Err(SendError::connect(Cause::Closed)));
    }
}

async fn open(target: &Target, settings: &ConnectionSettings) -> Result<Opened, SendError> {
    let socket = connect(target, settings, None).await?;
    let secure = socket.is_tls();
    if secure && socket.protocol() != Some(b"h2") {
        if settings.http == HttpVersion::Auto {
            return Ok(Opened::One(socket));
        }
        let why =
            "the instance does not agree on HTTP/2 over TLS (ALPN), and the service is set to http = \"2\"";
        return Err(SendError::connect(Cause::Protocol(why.to_owned())));
    }
    match make(socket).await {
        Ok(made) => {
            if secure {
                tell_trust(target);
            }
            Ok(Opened::Two { made: Box::new(made), secure })
        }
        Err(cause) => {
            if let Cause::Tls { why, .. } = &cause {
                tell_distrust(target, why);
            }
            Err(SendError::connect(cause))
        }
    }
}
