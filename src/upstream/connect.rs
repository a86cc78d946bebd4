//! A new connection to a target: TCP, and TLS over it where the service has that.

use super::error::Cause;
use super::socket::Socket;
use super::{ConnectionSettings, SendError};
use crate::model::Target;
use crate::net::tls::{ServerName, TlsClient, TlsFailure};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Connects within the limit of the settings, the handshake of TLS included. `alpn` is offered instead of what the
/// settings say.
pub(super) async fn connect(
    target: &Target,
    settings: &ConnectionSettings,
    alpn: Option<&'static [&'static [u8]]>,
) -> Result<Socket, SendError> {
    connect_within(settings.connect, target, settings, alpn, b"").await
}

async fn connect_within(
    limit: Duration,
    target: &Target,
    settings: &ConnectionSettings,
    alpn: Option<&'static [&'static [u8]]>,
    ahead: &[u8],
) -> Result<Socket, SendError> {
    let connecting = async {
        let mut stream = TcpStream::connect(target.endpoint.addr).await.map_err(SendError::connect)?;
        // Small requests must not wait for an acknowledgement (Nagle, RFC 896).
        stream.set_nodelay(true).map_err(SendError::connect)?;
        // Fits into any socket's buffer.
        stream.write_all(ahead).await.map_err(SendError::connect)?;
        match &settings.tls {
            None => Ok(Socket::Tcp(stream)),
            Some(tls) => secure(target, tls, alpn, stream).await,
        }
    };
    tokio::time::timeout(limit, connecting).await.map_err(|_| SendError::connect(Cause::Timeout))?
}

async fn secure(
    target: &Target,
    tls: &TlsClient,
    alpn: Option<&'static [&'static [u8]]>,
    stream: TcpStream,
) -> Result<Socket, SendError> {
    let endpoint = &target.endpoint;
    let failed = |why, name: Option<&ServerName<'_>>| {
        tell_distrust(target, &why);
        let name = name.map(|name| name.to_str().into_owned());
        SendError::connect(Cause::Tls { why, name: name.unwrap_or_default() })
    };
    let name =
        tls.name_of(endpoint.addr.ip(), endpoint.tls_server_name()).map_err(|why| failed(why, None))?;
    let connected = match alpn {
        Some(alpn) => tls.offering(alpn).connect(name.clone(), stream).await,
        None => tls.connect(name.clone(), stream).await,
    };
    connected.map(|stream| Socket::Tls(Box::new(stream))).map_err(|why| failed(why, Some(&name)))
}

/// One line, until it works again.
pub(super) fn tell_distrust(target: &Target, why: &TlsFailure) {
    if target.history.trusts(false) {
        let endpoint = &target.endpoint;
        tracing::warn!(target.addr = %endpoint.addr, instance = %endpoint.instance, %why, "an instance cannot be used over TLS");
    }
}

/// An answer came over TLS.
pub(super) fn tell_trust(target: &Target) {
    if target.history.trusts(true) {
        let endpoint = &target.endpoint;
        tracing::info!(target.addr = %endpoint.addr, instance = %endpoint.instance, "an instance can be used over TLS again");
    }
}

/// Connects for bytes that are not HTTP, or gives up after `limit`. `ahead` goes out first, before the handshake of TLS.
///
/// # Errors
/// Always of [`super::Stage::Connect`].
pub async fn connect_for_bytes(
    target: &Target,
    settings: &ConnectionSettings,
    limit: Duration,
    ahead: &[u8],
) -> Result<Socket, SendError> {
    let socket = connect_within(limit, target, settings, Some(&[]), ahead).await?;
    if socket.is_tls() {
        tell_trust(target);
    }
    Ok(socket)
}
