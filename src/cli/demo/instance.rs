//! One application instance inside the demo: a small HTTP server that can be killed, slowed and broken.

use super::registry::Registry;
use crate::app::Registrations;
use crate::registration::RegistrationSettings;
use crate::telemetry::{Events, Kind};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// What an instance does to its callers; changed while it runs.
#[derive(Debug, Default)]
struct Mood {
    delay_millis: AtomicU64,
    /// 0 = none.
    status: AtomicU16,
}

/// An instance on a thread of its own, as a process of its own would be, its sidecar's side of the registry included.
/// Dropping it kills it.
#[derive(Debug)]
pub(super) struct Instance {
    pub name: String,
    pub addr: SocketAddr,
    mood: Arc<Mood>,
    life: Option<Life>,
}

#[derive(Debug)]
struct Life {
    end: oneshot::Sender<End>,
    thread: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Without a word.
    Killed,
    /// Out of the registry first, and a little later, when others have learned of it.
    Left,
}

/// Between leaving the registry and the end.
const FAREWELL: Duration = Duration::from_secs(2);
/// For the registry to take it out.
const WITHDRAW: Duration = Duration::from_secs(3);

impl Instance {
    /// Starts on a free port of 127.0.0.1, and announces itself where the registry wants that.
    pub fn start(name: String, registry: &Registry, events: &Events) -> Result<Self, String> {
        let addr = (Ipv4Addr::LOCALHOST, 0).into();
        let mut instance = Self { name, addr, mood: Arc::default(), life: None };
        instance.revive(registry, events)?;
        Ok(instance)
    }

    /// Starts again where it was.
    pub fn revive(&mut self, registry: &Registry, events: &Events) -> Result<(), String> {
        let text = |error: io::Error| error.to_string();
        let listener = TcpListener::bind(self.addr).map_err(text)?;
        self.addr = listener.local_addr().map_err(text)?;
        listener.set_nonblocking(true).map_err(text)?;
        let announcement = registry.announcement(&self.name, self.addr)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(text)?;
        let (name, mood, events) = (self.name.clone(), Arc::clone(&self.mood), events.clone());
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name(self.name.clone());
        let thread = thread.spawn(move || {
            // Dropping the runtime ends all that runs on it, as a killed process does.
            runtime.block_on(async {
                tokio::select! {
                    () = live(ended, announcement, events) => {}
                    () = serve(listener, name, mood) => {}
                }
            });
        });
        self.life = Some(Life { end, thread: thread.map_err(text)? });
        Ok(())
    }

    /// Ends without a word: connections break, new ones are refused, the registry is not told.
    pub fn kill(&mut self) {
        self.end(End::Killed);
    }

    /// Leaves the registry and ends a little later; blocks until then.
    pub fn leave(mut self) {
        self.end(End::Left);
    }

    fn end(&mut self, how: End) {
        if let Some(Life { end, thread }) = self.life.take() {
            // Its end is what is wanted; that it has ended already is fine too.
            let _ = end.send(how);
            let _ = thread.join();
        }
    }

    pub fn is_alive(&self) -> bool {
        self.life.is_some()
    }

    /// Each answer takes this much longer.
    pub fn slow(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.mood.delay_millis.store(millis, Ordering::Relaxed);
    }

    /// Answers everything but its health check with this status; `None` is well again.
    pub fn answer_with(&self, status: Option<StatusCode>) {
        self.mood.status.store(status.map_or(0, |status| status.as_u16()), Ordering::Relaxed);
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Keeps the announcement until the end.
async fn live(ended: oneshot::Receiver<End>, announcement: Option<RegistrationSettings>, events: Events) {
    let mut rng = SmallRng::from_rng(&mut rand::rng());
    let registrations = Registrations::start(announcement.into_iter().collect(), &events, &mut rng);
    if let Err((_, reason)) = &registrations {
        events.emit(Kind::RegistrationFailing, "", None, reason.clone());
    }
    if ended.await == Ok(End::Left)
        && let Ok(registrations) = registrations
    {
        registrations.withdraw_all(WITHDRAW).await;
        tokio::time::sleep(FAREWELL).await;
    }
}

async fn serve(listener: TcpListener, name: String, mood: Arc<Mood>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let name: Arc<str> = name.into();
    // Dropped with this future: a killed instance takes its connections along.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (name, mood) = (Arc::clone(&name), Arc::clone(&mood));
        let service = service_fn(move |request| answer(Arc::clone(&name), Arc::clone(&mood), request));
        connections.spawn(async move {
            // A caller that goes away is no concern of an instance's.
            let _ = stream.set_nodelay(true);
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    name: Arc<str>,
    mood: Arc<Mood>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let delay = mood.delay_millis.load(Ordering::Relaxed);
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let mut response = Response::new(Full::from(format!("hello from {name}\n")));
    if request.uri().path() != "/health"
        && let Ok(status) = StatusCode::from_u16(mood.status.load(Ordering::Relaxed))
    {
        *response.status_mut() = status;
    }
    Ok(response)
}
