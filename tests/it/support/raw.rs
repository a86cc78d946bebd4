//! Servers that break the rules on purpose, for the faults that a real server cannot be made to produce.

use super::message::{Head, Wire};
use socket2::{Domain, SockRef, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What a raw server does next on a connection.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends these bytes as they are.
    Send(Vec<u8>),
    /// Does nothing for so long.
    Wait(Duration),
    /// Ends the connection in order.
    Close,
    /// Ends it with a reset (RST).
    Reset,
    /// Keeps it open and never does anything again.
    Hang,
}

impl Step {
    /// A complete 200 with a length; the connection may be used again.
    pub fn ok(body: &str) -> Self {
        Self::send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    }

    /// An answer with this status and an empty body.
    pub fn status(code: u16) -> Self {
        Self::send(format!("HTTP/1.1 {code} Scripted\r\nContent-Length: 0\r\n\r\n"))
    }

    /// A 200 that announces the whole body and sends the first half of it.
    pub fn half(body: &str) -> Self {
        let half = body.get(..body.len() / 2).expect("an ASCII body");
        Self::send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{half}", body.len()))
    }

    pub fn send(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Send(bytes.into())
    }
}

/// A request as it was received.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which connection it came on, from 1.
    pub connection: usize,
    /// Which request of that connection it is, from 1.
    pub turn: usize,
    /// Its head, names in the case they were sent in.
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

#[derive(Debug, Default)]
struct Seen {
    connections: AtomicUsize,
    /// Held for one push or one copy.
    requests: Mutex<Vec<Request>>,
}

/// A server on the test's own runtime; it and its connections end when it is dropped.
#[derive(Debug)]
pub struct RawServer {
    addr: SocketAddr,
    seen: Arc<Seen>,
    _accepting: JoinSet<()>,
}

impl RawServer {
    /// Reads each request whole (a length or chunks), then does what the script says; when the steps end, it reads
    /// the next request of the connection.
    pub async fn start(script: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::scripted(Vec::new(), script).await
    }

    /// Does the same for every request.
    pub async fn always(steps: Vec<Step>) -> Self {
        Self::start(move |_| steps.clone()).await
    }

    /// Does these steps on every new connection without reading a byte, then hangs.
    pub async fn deaf(mut steps: Vec<Step>) -> Self {
        steps.push(Step::Hang);
        Self::scripted(steps, |_| Vec::new()).await
    }

    async fn scripted(
        greeting: Vec<Step>,
        script: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let seen = Arc::<Seen>::default();
        let (script, counted) = (Arc::new(script), Arc::clone(&seen));
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let number = counted.connections.fetch_add(1, Relaxed) + 1;
                let (greeting, script, seen) = (greeting.clone(), Arc::clone(&script), Arc::clone(&counted));
                connections.spawn(async move {
                    let Some(wire) = play(Wire::new(stream), greeting).await else { return };
                    serve(wire, number, &seen, &*script).await;
                });
            }
        });
        Self { addr, seen, _accepting: accepting }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Relaxed)
    }

    /// Requests read whole so far, in the order of their ends.
    pub fn requests(&self) -> Vec<Request> {
        self.seen.requests.lock().unwrap().clone()
    }
}

async fn serve(mut wire: Wire, connection: usize, seen: &Seen, script: &impl Fn(&Request) -> Vec<Step>) {
    for turn in 1.. {
        let Ok(head) = wire.head().await else { return };
        let Ok((body, trailers)) = wire.content(&head, false).await else { return };
        let request = Request { connection, turn, head, body, trailers };
        let steps = script(&request);
        seen.requests.lock().unwrap().push(request);
        match play(wire, steps).await {
            Some(open) => wire = open,
            None => return,
        }
    }
}

/// Does the steps; `None` when the connection is over.
async fn play(mut wire: Wire, steps: Vec<Step>) -> Option<Wire> {
    for step in steps {
        match step {
            Step::Send(bytes) => wire.send(bytes).await.ok()?,
            Step::Wait(time) => tokio::time::sleep(time).await,
            Step::Close => return None,
            Step::Reset => {
                reset(wire.stream);
                return None;
            }
            Step::Hang => std::future::pending().await,
        }
    }
    Some(wire)
}

/// Ends a connection with RST: lingering for no time discards what was not sent (socket(7), SO_LINGER).
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger");
    drop(stream);
}

/// A port whose connects neither succeed nor fail: its queue of connections is full and nobody accepts.
#[derive(Debug)]
pub struct FullQueue {
    addr: SocketAddr,
    _listener: Socket,
    _queued: Vec<Socket>,
}

impl FullQueue {
    pub fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a port");
        listener.listen(0).expect("listening");
        let addr = listener.local_addr().expect("an address").as_socket().expect("an IP address");
        let queued = std::iter::from_fn(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.connect_timeout(&addr.into(), Duration::from_millis(200)).is_ok().then_some(socket)
        });
        Self { addr, _queued: queued.take(16).collect(), _listener: listener }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}
