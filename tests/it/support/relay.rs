//! A wire that can be cut: relays TCP to one address and counts what comes back, or refuses to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Relays connections while it is whole. Dropping it ends them all.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    whole: Arc<watch::Sender<bool>>,
    bytes: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl Relay {
    #[expect(clippy::disallowed_methods, reason = "a test's own server")]
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let addr = listener.local_addr().expect("its address");
        let whole = Arc::new(watch::Sender::new(true));
        let (state, bytes) = (Arc::clone(&whole), Arc::<AtomicU64>::default());
        let count = Arc::clone(&bytes);
        let accepting = tokio::spawn(async move {
            while let Ok((down, _)) = listener.accept().await {
                let (mut state, count) = (state.subscribe(), Arc::clone(&count));
                tokio::spawn(async move {
                    if !*state.borrow_and_update() {
                        return;
                    }
                    let Ok(up) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        () = relay(down, up, &count) => {}
                        _ = state.changed() => {}
                    }
                });
            }
        });
        Self { addr, whole, bytes, accepting }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How much the target has sent so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Ends all connections; new ones are closed at once.
    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// Relays again.
    pub fn mend(&self) {
        self.whole.send_replace(true);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
        self.whole.send_replace(false);
    }
}

/// Carries bytes both ways until both sides have closed.
async fn relay(mut down: TcpStream, mut up: TcpStream, count: &AtomicU64) {
    let ((mut from_client, mut to_client), (mut from_target, mut to_target)) = (down.split(), up.split());
    let there = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_target).await;
        let _ = to_target.shutdown().await;
    };
    let back = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n @ 1..) = from_target.read(&mut buffer).await {
            count.fetch_add(n as u64, Ordering::Relaxed);
            if to_client.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
        let _ = to_client.shutdown().await;
    };
    tokio::join!(there, back);
}
