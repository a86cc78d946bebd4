//! A wire that can be cut: relays TCP to one address, or refuses to.

use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Relays connections while it is whole. Dropping it ends them all.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    whole: Arc<watch::Sender<bool>>,
    accepting: JoinHandle<()>,
}

impl Relay {
    #[expect(clippy::disallowed_methods, reason = "a test's own server")]
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let addr = listener.local_addr().expect("its address");
        let whole = Arc::new(watch::Sender::new(true));
        let state = Arc::clone(&whole);
        let accepting = tokio::spawn(async move {
            while let Ok((mut down, _)) = listener.accept().await {
                let mut state = state.subscribe();
                tokio::spawn(async move {
                    if !*state.borrow_and_update() {
                        return;
                    }
                    let Ok(mut up) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut down, &mut up) => {}
                        _ = state.changed() => {}
                    }
                });
            }
        });
        Self { addr, whole, accepting }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
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
