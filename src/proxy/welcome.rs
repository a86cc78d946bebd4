//! The beginning of a connection to a listener that speaks TLS: the handshake, and a word to those who do not.

use super::client::Client;
use super::connection::Watched;
use super::error::Fault;
use super::transport::Transport;
use super::worker::Seat;
use crate::net::tls::server::TlsServer;
use crate::policy::Protocol;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// How a TLS record of a handshake begins (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;

/// How long a client that speaks no TLS has to take its answer.
const FAREWELL: Duration = Duration::from_secs(1);

/// A listener's TLS.
#[derive(Clone, Debug)]
pub(super) struct Doorman {
    tls: TlsServer,
    /// Somebody spoke plain HTTP here: told once.
    told: Arc<AtomicBool>,
}

impl Doorman {
    pub fn new(tls: TlsServer) -> Self {
        Self { tls, told: Arc::default() }
    }

    /// Waits for the client's first byte, then shakes hands within the time for a head; `None` if the connection is
    /// over.
    pub async fn welcome(self, seat: &Seat, stream: TcpStream, task: &mut Watched) -> Option<Transport> {
        let (client, limits) = (&*seat.client, &seat.worker.shared.limits);
        let stream = Transport::Plain(stream);
        let first = first_byte(&stream, client, task).await?;
        let Transport::Plain(stream) = stream else { return None };
        if first != HANDSHAKE {
            self.turn_away(client, stream, first).await;
            return None;
        }
        let service = client.cluster.name();
        let handshake = async {
            match client.cluster.settings.protocol {
                Protocol::Http => self.tls.accept(stream).await,
                Protocol::Tcp => self.tls.accept_bytes(stream).await,
            }
        };
        match timeout(limits.head_timeout, handshake).await {
            Ok(Ok(stream)) => Some(Transport::Tls(Box::new(stream))),
            Ok(Err(error)) => {
                tracing::debug!(%service, peer = %client.peer, %error, "no TLS came about");
                None
            }
            Err(_) => {
                tracing::debug!(%service, peer = %client.peer, "no TLS came about in time");
                None
            }
        }
    }

    /// Tells a client that speaks plain HTTP what is wrong; others get nothing.
    async fn turn_away(&self, client: &Client, mut stream: TcpStream, first: u8) {
        let service = client.cluster.name();
        tracing::debug!(%service, peer = %client.peer, first, "no TLS");
        if !first.is_ascii_uppercase() || client.cluster.settings.protocol == Protocol::Tcp {
            return;
        }
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(%service, peer = %client.peer, "a client speaks plain HTTP to a port with TLS");
        }
        let fault = Fault::BadRequest("this port speaks TLS: use https");
        client.count_refusal(fault.status().as_u16(), Instant::now());
        // Unread bytes would make a reset of the end, and the client might lose the answer.
        let farewell = async {
            let mut unread = [0; 4096];
            let _ = stream.read(&mut unread).await;
            let _ = stream.write_all(&fault.raw(service.as_str())).await;
            let _ = stream.shutdown().await;
            while stream.read(&mut unread).await.is_ok_and(|bytes| bytes > 0) {}
        };
        let _ = timeout(FAREWELL, farewell).await;
    }
}

/// The first byte that comes, which stays unread; `None` if none will.
async fn first_byte(stream: &Transport, client: &Client, task: &mut Watched) -> Option<u8> {
    let Transport::Plain(socket) = stream else { return None };
    std::future::poll_fn(|cx| {
        task.by(client, cx.waker());
        let mut room = [MaybeUninit::uninit(); 1];
        let mut first = ReadBuf::uninit(&mut room);
        match socket.poll_peek(cx, &mut first) {
            Poll::Ready(Ok(_)) => Poll::Ready(first.filled().first().copied()),
            Poll::Ready(Err(_)) => Poll::Ready(None),
            Poll::Pending if client.is_over() && !stream.has_unread() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
