//! One application instance inside the demo: a small HTTP server that can be killed, slowed and broken.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
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

/// An instance on a thread of its own, as a process of its own would be. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Instance {
    pub name: String,
    pub addr: SocketAddr,
    mood: Arc<Mood>,
    life: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Instance {
    /// Starts on a free port of 127.0.0.1.
    pub fn start(name: String) -> io::Result<Self> {
        let addr = (Ipv4Addr::LOCALHOST, 0).into();
        let mut instance = Self { name, addr, mood: Arc::default(), life: None };
        instance.revive()?;
        Ok(instance)
    }

    /// Starts again where it was.
    pub fn revive(&mut self) -> io::Result<()> {
        let listener = TcpListener::bind(self.addr)?;
        self.addr = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (name, mood) = (self.name.clone(), Arc::clone(&self.mood));
        let (kill, killed) = oneshot::channel();
        let thread = std::thread::Builder::new().name(self.name.clone());
        let thread = thread.spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = killed => {}
                    () = serve(listener, name, mood) => {}
                }
            });
        })?;
        self.life = Some((kill, thread));
        Ok(())
    }

    /// Ends without a word: connections break, new ones are refused.
    pub fn kill(&mut self) {
        if let Some((kill, thread)) = self.life.take() {
            // Its end is what is wanted; that it has ended already is fine too.
            let _ = kill.send(());
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
