//! One worker's kept-alive connections, by target.

use super::body::UpstreamBody;
use super::connect::connect;
use super::stream::Heard;
use super::{ConnectionSettings, SendError, Stage};
use crate::model::{History, Target, TargetId};
use crate::rt::LocalTasks;
use http::{Request, Response};
use http_body::Body;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// This worker's way to all targets. Dropping it closes the idle connections; busy ones end with their exchange.
#[derive(Debug)]
pub struct Upstream<B> {
    pools: RefCell<HashMap<TargetId, Pool<B>>>,
    tasks: LocalTasks,
}

#[derive(Debug)]
struct Pool<B> {
    history: Arc<History>,
    /// Most recently used last: the oldest ones run into their idle limit.
    idle: Vec<Idle<B>>,
    /// What still runs at this target, to be cut when its drain time is over.
    running: HashMap<u64, AbortHandle>,
    next_run: u64,
    settings: ConnectionSettings,
}

#[derive(Debug)]
struct Idle<B> {
    wire: Wire<B>,
    since: Instant,
}

/// A connection as its user sees it.
#[derive(Debug)]
struct Wire<B> {
    sender: SendRequest<B>,
    heard: Heard,
}

/// A connection that is in use; given back when its exchange has ended well.
#[derive(Debug)]
pub(super) struct Lease<B> {
    upstream: Weak<Upstream<B>>,
    target: TargetId,
    wire: Wire<B>,
}

impl<B> Upstream<B>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub fn new(tasks: LocalTasks) -> Rc<Self> {
        Rc::new(Self { pools: RefCell::default(), tasks })
    }

    /// Sends a request on a kept-alive connection, or on a new one if there is none or `fresh` is asked for.
    ///
    /// # Errors
    /// [`SendError`] tells how far the request got.
    pub async fn send(
        self: &Rc<Self>,
        target: &Target,
        mut request: Request<B>,
        settings: &ConnectionSettings,
        fresh: bool,
    ) -> Result<Response<UpstreamBody<B>>, SendError> {
        if !fresh {
            while let Some(mut wire) = self.take_idle(target, settings) {
                wire.heard.forget();
                match wire.sender.try_send_request(request).await {
                    Ok(response) => return Ok(self.opened(target, wire, response)),
                    Err(mut error) => match error.take_message() {
                        // It was closed under our hands before anything was written: no harm done.
                        Some(unsent) => request = unsent,
                        None => {
                            return Err(SendError {
                                stage: Stage::Head,
                                reused: true,
                                heard: wire.heard.get(),
                                source: error.into_error().into(),
                            });
                        }
                    },
                }
            }
        }
        let mut wire = self.open(target, settings).await?;
        match wire.sender.try_send_request(request).await {
            Ok(response) => Ok(self.opened(target, wire, response)),
            Err(mut error) => {
                let stage = if error.take_message().is_some() { Stage::Unsent } else { Stage::Head };
                let heard = wire.heard.get();
                Err(SendError { stage, reused: false, heard, source: error.into_error().into() })
            }
        }
    }

    /// Lets something that is no pooled connection (a tunnel) be cut when the target's drain time is over.
    pub fn run(
        self: &Rc<Self>,
        target: &Target,
        settings: &ConnectionSettings,
        name: &'static str,
        task: impl Future<Output = ()> + 'static,
    ) {
        let mut pools = self.pools.borrow_mut();
        let pool = Self::pool(&mut pools, target, settings);
        let number = pool.next_run;
        pool.next_run += 1;
        let (weak, id) = (Rc::downgrade(self), target.id());
        let abort = self.tasks.spawn(name, async move {
            task.await;
            if let Some(pools) = weak.upgrade()
                && let Some(pool) = pools.pools.borrow_mut().get_mut(&id)
            {
                pool.running.remove(&number);
            }
        });
        pool.running.insert(number, abort);
    }

    /// Closes what has been idle for too long or leads to removed targets, and cuts what outlived its drain time.
    pub fn sweep(&self, now: Instant) {
        self.pools.borrow_mut().retain(|_, pool| {
            pool.idle.retain(|idle| {
                now.saturating_duration_since(idle.since) < pool.settings.keep_alive
                    && !idle.wire.sender.is_closed()
            });
            let Some(retired) = pool.history.retired_at() else { return true };
            pool.idle.clear();
            if now.saturating_duration_since(retired) >= pool.settings.drain {
                for (_, abort) in pool.running.drain() {
                    abort.abort();
                }
            }
            !pool.running.is_empty()
        });
    }

    fn take_idle(&self, target: &Target, settings: &ConnectionSettings) -> Option<Wire<B>> {
        let mut pools = self.pools.borrow_mut();
        let pool = pools.get_mut(&target.id())?;
        while let Some(idle) = pool.idle.pop() {
            if idle.wire.sender.is_ready() && idle.since.elapsed() < settings.keep_alive {
                return Some(idle.wire);
            }
        }
        None
    }

    async fn open(
        self: &Rc<Self>,
        target: &Target,
        settings: &ConnectionSettings,
    ) -> Result<Wire<B>, SendError> {
        let stream = connect(target.endpoint.addr, settings.connect).await?;
        let heard = stream.heard();
        let (sender, connection) = http1::Builder::new()
            .preserve_header_case(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(SendError::connect)?;
        self.run(target, settings, "upstream", async move {
            // Its error reaches the one who waits for the response.
            let _ = connection.with_upgrades().await;
        });
        Ok(Wire { sender, heard })
    }

    fn opened(
        self: &Rc<Self>,
        target: &Target,
        wire: Wire<B>,
        response: Response<hyper::body::Incoming>,
    ) -> Response<UpstreamBody<B>> {
        let lease = Lease { upstream: Rc::downgrade(self), target: target.id(), wire };
        response.map(|body| UpstreamBody::new(body, lease))
    }

    fn pool<'a>(
        pools: &'a mut HashMap<TargetId, Pool<B>>,
        target: &Target,
        settings: &ConnectionSettings,
    ) -> &'a mut Pool<B> {
        pools.entry(target.id()).or_insert_with(|| Pool {
            history: Arc::clone(&target.history),
            idle: Vec::new(),
            running: HashMap::new(),
            next_run: 0,
            settings: settings.clone(),
        })
    }

    fn put_idle(&self, target: TargetId, wire: Wire<B>) {
        if let Some(pool) = self.pools.borrow_mut().get_mut(&target)
            && pool.idle.len() < pool.settings.keep_alive_connections
            && pool.history.retired_at().is_none()
        {
            pool.idle.push(Idle { wire, since: Instant::now() });
        }
    }
}

impl<B> Lease<B>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// The exchange is over and the connection may carry another, as soon as hyper has put it in order.
    pub(super) fn give_back(mut self) {
        let Some(upstream) = self.upstream.upgrade() else { return };
        if self.wire.sender.is_ready() {
            upstream.put_idle(self.target, self.wire);
        } else if !self.wire.sender.is_closed() {
            let weak = self.upstream.clone();
            upstream.tasks.spawn("settle", async move {
                if self.wire.sender.ready().await.is_ok()
                    && let Some(upstream) = weak.upgrade()
                {
                    upstream.put_idle(self.target, self.wire);
                }
            });
        }
    }
}
