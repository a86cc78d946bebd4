//! A wire to a member that can be cut, cut amid an answer, slowed, or made deaf on one side.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Relays TCP to one address. Dropping it ends all connections.
#[derive(Debug)]
pub(super) struct Wire {
    addr: SocketAddr,
    line: Arc<Line>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Line {
    state: watch::Sender<State>,
    /// Bytes that the member may still send before the wire breaks.
    left: AtomicI64,
    /// What is waited before anything the client sends is passed on, in milliseconds.
    delay: AtomicU64,
    accepted: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Whole,
    Cut,
    /// What the member sends is swallowed, on old connections and new ones.
    Mute,
}

impl Wire {
    #[expect(clippy::disallowed_methods, reason = "a test's own server")]
    pub(super) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let addr = listener.local_addr().expect("its address");
        let line = Arc::new(Line {
            state: watch::Sender::new(State::Whole),
            left: AtomicI64::new(i64::MAX),
            delay: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
        });
        let shared = Arc::clone(&line);
        let accepting = tokio::spawn(async move {
            while let Ok((down, _)) = listener.accept().await {
                let line = Arc::clone(&shared);
                line.accepted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut state = line.state.subscribe();
                    let Ok(up) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = state.wait_for(|state| *state == State::Cut) => {}
                        () = relay(down, up, &line) => {}
                    }
                });
            }
        });
        Self { addr, line, accepting }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Ends all connections; new ones are closed at once.
    pub(super) fn cut(&self) {
        self.line.state.send_replace(State::Cut);
    }

    /// Cuts it after the member has sent so many more bytes.
    pub(super) fn cut_after(&self, bytes: i64) {
        self.line.left.store(bytes, Ordering::SeqCst);
    }

    pub(super) fn is_cut(&self) -> bool {
        *self.line.state.borrow() == State::Cut
    }

    /// Nothing comes from the member any more; what is sent to it still arrives there.
    pub(super) fn mute(&self) {
        self.line.state.send_replace(State::Mute);
    }

    /// As new.
    pub(super) fn mend(&self) {
        self.line.left.store(i64::MAX, Ordering::SeqCst);
        self.line.delay.store(0, Ordering::SeqCst);
        self.line.state.send_replace(State::Whole);
    }

    /// From now on the client's words take so much longer.
    pub(super) fn slow(&self, delay: Duration) {
        self.line.delay.store(delay.as_millis() as u64, Ordering::SeqCst);
    }

    /// Connections made to it so far.
    pub(super) fn accepted(&self) -> u64 {
        self.line.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

/// Carries bytes both ways until one side closes.
async fn relay(mut down: TcpStream, mut up: TcpStream, line: &Line) {
    let ((from_client, to_client), (from_member, to_member)) = (down.split(), up.split());
    tokio::select! {
        () = there(from_client, to_member, line) => {}
        () = back(from_member, to_client, line) => {}
    }
}

async fn there(mut client: ReadHalf<'_>, mut member: WriteHalf<'_>, line: &Line) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = client.read(&mut buffer).await {
        tokio::time::sleep(Duration::from_millis(line.delay.load(Ordering::SeqCst))).await;
        if member.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

async fn back(mut member: ReadHalf<'_>, mut client: WriteHalf<'_>, line: &Line) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = member.read(&mut buffer).await {
        if *line.state.borrow() == State::Mute {
            continue;
        }
        let left = line.left.fetch_sub(n as i64, Ordering::SeqCst);
        let n = n.min(usize::try_from(left).unwrap_or_default());
        if client.write_all(&buffer[..n]).await.is_err() {
            return;
        }
        if left <= n as i64 {
            line.state.send_replace(State::Cut);
            return;
        }
    }
}
