//! A new connection to a target.

use super::SendError;
use super::error::Cause;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// Connects, or gives up after `limit`.
///
/// # Errors
/// Always of [`super::Stage::Connect`].
pub async fn connect(addr: SocketAddr, limit: Duration) -> Result<TcpStream, SendError> {
    let stream = tokio::time::timeout(limit, TcpStream::connect(addr))
        .await
        .map_err(|_| SendError::connect(Cause::Timeout))?
        .map_err(SendError::connect)?;
    // Small requests must not wait for an acknowledgement (Nagle, RFC 896).
    stream.set_nodelay(true).map_err(SendError::connect)?;
    Ok(stream)
}
