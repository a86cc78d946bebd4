//! A connection to an instance that has left HTTP behind, or a stream of one.

use super::h2;
use super::wire::Line;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Its bytes, the first of which may have come with the response.
#[derive(Debug)]
pub struct Tunnel(Kind);

#[derive(Debug)]
enum Kind {
    One(Line),
    Two(Box<h2::Tunnel>),
}

impl Tunnel {
    pub(super) fn new(line: Line) -> Self {
        Self(Kind::One(line))
    }

    pub(super) fn multiplexed(tunnel: Box<h2::Tunnel>) -> Self {
        Self(Kind::Two(tunnel))
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::One(line) => {
                let mut wire = line.borrow_mut();
                if wire.input.is_empty() {
                    return wire.socket().poll_read(cx, buf);
                }
                buf.put_slice(&wire.take_input(buf.remaining() as u64));
                Poll::Ready(Ok(()))
            }
            Kind::Two(tunnel) => Pin::new(tunnel).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Kind::One(line) => line.borrow_mut().socket().poll_write(cx, buf),
            Kind::Two(tunnel) => Pin::new(tunnel).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::One(line) => line.borrow_mut().socket().poll_flush(cx),
            Kind::Two(tunnel) => Pin::new(tunnel).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::One(line) => line.borrow_mut().socket().poll_shutdown(cx),
            Kind::Two(tunnel) => Pin::new(tunnel).poll_shutdown(cx),
        }
    }
}
