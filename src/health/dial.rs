//! Connections to a target: TCP, and TLS over it where the check wants that.

use super::ProbeError;
use crate::net::tls::{TlsClient, TlsStream, part};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_util::either::Either;

pub(super) type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// How long a server's last word is waited for when all it was asked for is the handshake.
const PARTING: Duration = Duration::from_secs(1);

/// Opens connections, one at a time.
#[derive(Debug)]
pub(super) struct Dialer {
    tls: Option<TlsClient>,
    /// What the registry calls the server.
    name: Option<String>,
    handshaking: bool,
}

impl Dialer {
    pub(super) fn new(tls: Option<TlsClient>) -> Self {
        Self { tls, name: None, handshaking: false }
    }

    /// With what the registry calls the server, for TLS that has no name of its own.
    pub(super) fn called(self, name: Option<String>) -> Self {
        Self { name, ..self }
    }

    pub(super) async fn dial(&mut self, addr: SocketAddr) -> Result<Stream, ProbeError> {
        self.handshaking = false;
        let stream = TcpStream::connect(addr).await.map_err(ProbeError::Connect)?;
        // A probe is a few small packets; without this they might wait. A socket that refuses works all the same.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return Ok(Either::Left(stream)) };
        let name = tls.name_of(addr.ip(), self.name.as_deref())?;
        self.handshaking = true;
        let secured = tls.connect(name, stream).await;
        self.handshaking = false;
        Ok(Either::Right(Box::new(secured?)))
    }

    /// What TLS has agreed on (RFC 7301).
    pub(super) fn agreed(stream: &Stream) -> Option<&[u8]> {
        match stream {
            Either::Left(_) => None,
            Either::Right(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }

    pub(super) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// The last call of [`Self::dial`] was given up in the middle of the handshake.
    pub(super) fn was_handshaking(&self) -> bool {
        self.handshaking
    }

    /// What URIs call what is spoken.
    pub(super) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Servers may want to know who asks, and we cannot tell them.
    pub(super) fn is_anonymous(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.is_identified())
    }

    /// Whether there is somebody; `spare` is the time that is left for a server's last word.
    pub(super) async fn knock(
        &mut self,
        addr: SocketAddr,
        spare: impl Fn() -> Duration,
    ) -> Result<(), ProbeError> {
        let Either::Right(stream) = self.dial(addr).await? else { return Ok(()) };
        let parting = tokio::time::timeout(PARTING.min(spare()), part(*stream));
        // One that keeps silent has nothing against us.
        Ok(parting.await.unwrap_or(Ok(()))?)
    }
}
