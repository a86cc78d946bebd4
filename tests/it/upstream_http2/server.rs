//! An instance that speaks HTTP/2 and misbehaves where a path asks for it.

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// Ends, connections included, when dropped.
pub struct H2Server {
    pub addr: SocketAddr,
    pub state: Arc<State>,
    accepting: JoinHandle<()>,
}

/// How a server differs from a plain one.
#[derive(Clone, Default)]
pub struct Manners {
    pub name: &'static str,
    pub max_streams: Option<u32>,
    /// Takes WebSockets (RFC 8441).
    pub websockets: bool,
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub uri: String,
    pub headers: HeaderMap,
}

#[derive(Default)]
pub struct State {
    name: &'static str,
    pub accepted: AtomicUsize,
    pub open: AtomicUsize,
    /// Requests that run, and the most that ever did.
    pub running: AtomicUsize,
    pub most: AtomicUsize,
    /// Requests that were reset before they were answered whole, and for which reason.
    pub resets: Mutex<Vec<Reason>>,
    /// Bytes of bodies that were handed to flow control, and that came.
    pub sent: AtomicUsize,
    pub came: AtomicUsize,
    requests: Mutex<Vec<Seen>>,
    pub let_go: Notify,
    commands: watch::Sender<Command>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Command {
    #[default]
    Serve,
    /// Graceful GOAWAY on all connections that are there.
    GoAway,
    /// Ends all connections that are there.
    Die,
    /// Connections that are there fall silent, and stay open.
    Freeze,
}

impl H2Server {
    pub async fn start() -> Self {
        Self::with(Manners::default()).await
    }

    #[expect(clippy::disallowed_methods, reason = "a server of a test, ended by its handle")]
    pub async fn with(manners: Manners) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(State { name: manners.name, ..State::default() });
        let shared = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (state, manners) = (Arc::clone(&shared), manners.clone());
                state.accepted.fetch_add(1, SeqCst);
                state.open.fetch_add(1, SeqCst);
                connections.spawn(async move {
                    match &manners.tls {
                        Some(tls) => {
                            if let Ok(stream) = TlsAcceptor::from(Arc::clone(tls)).accept(stream).await {
                                serve(stream, &state, &manners).await;
                            }
                        }
                        None => serve(stream, &state, &manners).await,
                    }
                    state.open.fetch_sub(1, SeqCst);
                });
            }
        });
        Self { addr, state, accepting }
    }

    pub fn requests(&self) -> Vec<Seen> {
        self.state.requests.lock().unwrap().clone()
    }

    /// Whatever runs on the connections that are there now.
    pub fn command(&self, command: Command) {
        self.state.commands.send_replace(command);
    }

    pub fn accepted(&self) -> usize {
        self.state.accepted.load(SeqCst)
    }

    pub fn open(&self) -> usize {
        self.state.open.load(SeqCst)
    }

    pub fn running(&self) -> usize {
        self.state.running.load(SeqCst)
    }

    pub fn most(&self) -> usize {
        self.state.most.load(SeqCst)
    }

    pub fn sent(&self) -> usize {
        self.state.sent.load(SeqCst)
    }

    pub fn came(&self) -> usize {
        self.state.came.load(SeqCst)
    }

    pub fn resets(&self) -> Vec<Reason> {
        self.state.resets.lock().unwrap().clone()
    }

    /// Answers what waits for that.
    pub fn let_go(&self) {
        self.state.let_go.notify_waiters();
    }
}

impl Drop for H2Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve<T>(io: T, state: &Arc<State>, manners: &Manners)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = Builder::new();
    if let Some(most) = manners.max_streams {
        builder.max_concurrent_streams(most);
    }
    if manners.websockets {
        builder.enable_connect_protocol();
    }
    let mut commands = state.commands.subscribe();
    commands.mark_unchanged();
    let Ok(mut connection) = builder.handshake(io).await else { return };
    let mut handlers = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let state = Arc::clone(state);
                    handlers.spawn(handle(request, respond, state));
                }
                _ => return,
            },
            _ = commands.changed() => {
                let command = *commands.borrow_and_update();
                match command {
                    Command::Serve => {}
                    Command::GoAway => connection.graceful_shutdown(),
                    Command::Die => return,
                    Command::Freeze => std::future::pending().await,
                }
            },
        }
    }
}

/// Counts a request as running.
struct Running(Arc<State>);

impl Running {
    fn new(state: &Arc<State>) -> Self {
        state.most.fetch_max(state.running.fetch_add(1, SeqCst) + 1, SeqCst);
        Self(Arc::clone(state))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

async fn handle(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, state: Arc<State>) {
    let _running = Running::new(&state);
    let (parts, mut body) = request.into_parts();
    let seen =
        Seen { method: parts.method.to_string(), uri: parts.uri.to_string(), headers: parts.headers.clone() };
    state.requests.lock().unwrap().push(seen);
    let answer = || Response::builder().header("x-instance", state.name);
    let whole = |text: &'static str, mut respond: SendResponse<Bytes>| {
        if let Ok(mut stream) = respond.send_response(answer().body(()).unwrap(), false) {
            let _ = stream.send_data(text.into(), true);
        }
    };
    match parts.uri.path() {
        "/echo" => {
            // Trailers that are not announced do not pass over HTTP/1.1.
            let head = answer().header("trailer", "x-sum").body(()).unwrap();
            let mut out = respond.send_response(head, false).unwrap();
            while let Some(Ok(bytes)) = body.data().await {
                body.flow_control().release_capacity(bytes.len()).unwrap();
                if !send(&mut out, bytes, &state).await {
                    return;
                }
            }
            match body.trailers().await {
                Ok(Some(trailers)) => out.send_trailers(trailers).unwrap(),
                Ok(None) => out.send_data(Bytes::new(), true).unwrap(),
                Err(error) => state.resets.lock().unwrap().extend(error.reason()),
            }
        }
        "/tunnel" if parts.method == "CONNECT" => {
            let mut out = respond.send_response(answer().body(()).unwrap(), false).unwrap();
            while let Some(Ok(bytes)) = body.data().await {
                body.flow_control().release_capacity(bytes.len()).unwrap();
                if !send(&mut out, bytes, &state).await {
                    return;
                }
            }
            let _ = out.send_data(Bytes::new(), true);
        }
        "/refuse" => respond.send_reset(Reason::REFUSED_STREAM),
        "/reset" => respond.send_reset(Reason::INTERNAL_ERROR),
        "/reset-body" => {
            let mut out = respond.send_response(answer().body(()).unwrap(), false).unwrap();
            send(&mut out, "half".into(), &state).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            out.send_reset(Reason::INTERNAL_ERROR);
        }
        "/hang" => {
            let reason = poll_fn(|cx| respond.poll_reset(cx)).await;
            state.resets.lock().unwrap().extend(reason.ok());
        }
        "/hold" => {
            tokio::select! {
                () = state.let_go.notified() => whole("held", respond),
                reason = poll_fn(|cx| respond.poll_reset(cx)) => {
                    state.resets.lock().unwrap().extend(reason.ok());
                }
            }
        }
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(100)).await;
            whole("slow", respond);
        }
        "/endless" => {
            let mut out = respond.send_response(answer().body(()).unwrap(), false).unwrap();
            while send(&mut out, vec![7; 16 << 10].into(), &state).await {}
            if let Ok(reason) = poll_fn(|cx| out.poll_reset(cx)).await {
                state.resets.lock().unwrap().push(reason);
            }
        }
        "/large" => {
            let length = 32 << 20;
            let head = answer().header("content-length", length).body(()).unwrap();
            let mut out = respond.send_response(head, false).unwrap();
            for _ in 0..length / (16 << 10) {
                send(&mut out, vec![7; 16 << 10].into(), &state).await;
            }
            let _ = out.send_data(Bytes::new(), true);
        }
        "/deaf" => {
            // Takes what fits into the window, and nothing more.
            let _ = poll_fn(|cx| respond.poll_reset(cx)).await;
            drop(body);
        }
        "/count" => {
            while let Some(Ok(bytes)) = body.data().await {
                state.came.fetch_add(bytes.len(), SeqCst);
                body.flow_control().release_capacity(bytes.len()).unwrap();
            }
            whole("counted", respond);
        }
        "/early" => {
            let mut out = respond.send_response(answer().status(413).body(()).unwrap(), false).unwrap();
            let _ = out.send_data("no".into(), true);
            while let Some(Ok(bytes)) = body.data().await {
                state.came.fetch_add(bytes.len(), SeqCst);
                body.flow_control().release_capacity(bytes.len()).unwrap();
            }
        }
        "/short" => {
            let head = answer().header("content-length", "9").body(()).unwrap();
            let mut out = respond.send_response(head, false).unwrap();
            out.send_data("four".into(), true).unwrap();
        }
        "/empty-but-long" => {
            let head = answer().header("content-length", "9").body(()).unwrap();
            respond.send_response(head, true).unwrap();
        }
        "/length" => {
            let head = answer().header("content-length", "4").body(()).unwrap();
            let mut out = respond.send_response(head, false).unwrap();
            if parts.method != "HEAD" {
                out.send_data("four".into(), false).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            if out.send_data(Bytes::new(), true).is_err() {
                state.resets.lock().unwrap().push(Reason::CANCEL);
            }
        }
        "/nothing" => {
            let _ = respond.send_response(answer().status(204).body(()).unwrap(), true);
        }
        "/interim" => {
            let early = Response::builder().status(103).header("link", "</a.css>").body(()).unwrap();
            respond.send_informational(early).unwrap();
            whole("final", respond);
        }
        "/continue" => {
            respond.send_informational(Response::builder().status(100).body(()).unwrap()).unwrap();
            while let Some(Ok(bytes)) = body.data().await {
                state.came.fetch_add(bytes.len(), SeqCst);
                body.flow_control().release_capacity(bytes.len()).unwrap();
            }
            whole("continued", respond);
        }
        "/grpc.Service/Call" => {
            let head = answer().header("content-type", "application/grpc").header("trailer", "grpc-status");
            let head = head.body(()).unwrap();
            let mut out = respond.send_response(head, false).unwrap();
            out.send_data("message".into(), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            out.send_trailers(trailers).unwrap();
        }
        _ => whole("fine", respond),
    }
}

/// Sends as flow control allows; `false` if the stream was reset.
async fn send(out: &mut SendStream<Bytes>, mut bytes: Bytes, state: &State) -> bool {
    while !bytes.is_empty() {
        out.reserve_capacity(bytes.len());
        while out.capacity() == 0 {
            match poll_fn(|cx| out.poll_capacity(cx)).await {
                Some(Ok(_)) => {}
                _ => return false,
            }
        }
        let part = bytes.split_to(out.capacity().min(bytes.len()));
        state.sent.fetch_add(part.len(), SeqCst);
        if out.send_data(part, false).is_err() {
            return false;
        }
    }
    true
}
