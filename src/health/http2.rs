//! A check's connection that speaks HTTP/2, kept while the server keeps it.

use super::dial::Stream;
use bytes::Bytes;
use h2::client::{Connection, SendRequest, handshake};
use http::{Request, StatusCode};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// Older kept connections are closed, as those of HTTP/1.1 are.
const KEPT: Duration = Duration::from_secs(30);

/// A connection and its driver, which runs only while somebody awaits an answer: no task of its own.
#[derive(Debug)]
pub(super) struct Link {
    sender: SendRequest<Bytes>,
    /// `None` once it has ended.
    driver: Option<Connection<Stream, Bytes>>,
}

/// A connection after an answer.
#[derive(Debug)]
pub(super) struct Kept {
    addr: SocketAddr,
    link: Link,
    until: Instant,
}

/// What was answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    /// Whether the text that was looked for is in its body.
    pub found: bool,
}

impl Kept {
    pub fn new(addr: SocketAddr, link: Link) -> Self {
        Self { addr, link, until: Instant::now() + KEPT }
    }

    pub fn reuse(self, addr: SocketAddr) -> Option<Link> {
        (self.addr == addr && self.link.driver.is_some() && Instant::now() < self.until).then_some(self.link)
    }

    /// Lets go of it when it ends or is old; never ends.
    pub async fn idle(kept: &mut Option<Self>) -> Infallible {
        if let Some(Self { link: Link { driver: Some(driver), .. }, until, .. }) = kept {
            // Both arms of the result mean the same: closed by the server, or by us.
            let _ = tokio::time::timeout_at(*until, driver).await;
            *kept = None;
        }
        std::future::pending().await
    }
}

impl Link {
    pub async fn open(stream: Stream) -> Result<Self, h2::Error> {
        let (sender, driver) = handshake(stream).await?;
        Ok(Self { sender, driver: Some(driver) })
    }

    /// Asks, and looks for `text` in the first `limit` bytes of the answer's body; reads no further than needed.
    pub async fn ask(
        &mut self,
        request: Request<()>,
        text: &[u8],
        limit: usize,
    ) -> Result<Answer, h2::Error> {
        self.drive(|sender| async move {
            let (response, _) = sender.ready().await?.send_request(request, true)?;
            let (head, mut body) = response.await?.into_parts();
            let mut read = Vec::new();
            let mut found = text.is_empty();
            while !found
                && read.len() < limit
                && let Some(data) = body.data().await
            {
                let data = data?;
                body.flow_control().release_capacity(data.len())?;
                // What was searched before can only matter as the beginning of a match.
                let from = (read.len() + 1).saturating_sub(text.len());
                read.extend_from_slice(&data);
                read.truncate(limit);
                let new = read.get(from..).unwrap_or_default();
                found = new.windows(text.len()).any(|window| window == text);
            }
            Ok(Answer { status: head.status, found })
        })
        .await
    }

    /// Awaits what `begin` makes of the sender while the connection moves.
    pub async fn drive<T, F>(&mut self, begin: impl FnOnce(SendRequest<Bytes>) -> F) -> Result<T, h2::Error>
    where
        F: Future<Output = Result<T, h2::Error>>,
    {
        let Self { sender, driver } = self;
        let mut future = pin!(begin(sender.clone()));
        std::future::poll_fn(|cx| {
            if let Some(running) = driver
                && let Poll::Ready(end) = Pin::new(running).poll(cx)
            {
                *driver = None;
                // It knows best why it ended; what has come before is told by `future`.
                return match (future.as_mut().poll(cx), end) {
                    (Poll::Pending, Err(error)) => Poll::Ready(Err(error)),
                    (polled, _) => polled,
                };
            }
            future.as_mut().poll(cx)
        })
        .await
    }
}
