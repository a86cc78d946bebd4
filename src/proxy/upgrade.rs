//! Connections that leave HTTP behind: WebSocket and the like.

use super::client::{Client, Phase};
use crate::cluster::Ticket;
use crate::model::Outcome;
use crate::upstream::Tunnel;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Carries the bytes of a connection that was upgraded.
pub(super) async fn tunnel(from: OnUpgrade, to: Tunnel, ticket: Ticket, idle: Duration, client: &Client) {
    let Ok(from) = from.await else { return };
    client.enter(Phase::Tunnel, Instant::now());
    drop(client.take_heard());
    carry(TokioIo::new(from), to, idle).await;
    ticket.finish(Outcome::Success);
}

/// Carries bytes both ways until both sides have closed, one has failed, or nothing moved for `idle`.
pub(super) async fn carry(from: impl AsyncRead + AsyncWrite + Unpin, to: Tunnel, idle: Duration) {
    let moved = Cell::new(Instant::now());
    let mut client = Watched { io: from, moved: &moved };
    let mut instance = Watched { io: to, moved: &moved };
    let watchdog = async {
        while moved.get().elapsed() < idle {
            tokio::time::sleep_until(moved.get() + idle).await;
        }
    };
    tokio::select! {
        copied = tokio::io::copy_bidirectional(&mut client, &mut instance) => {
            tracing::debug!(?copied, "tunnel ended");
        }
        () = watchdog => tracing::debug!("tunnel idle"),
    }
}

/// Notes when bytes moved.
struct Watched<'a, T> {
    io: T,
    moved: &'a Cell<Instant>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<'_, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.moved.set(Instant::now());
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<'_, T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
