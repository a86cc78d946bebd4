//! One connection, accepted or not.

use super::ProbeError;
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// Connects, and closes at once.
pub(super) async fn connect(addr: SocketAddr) -> Result<TcpStream, ProbeError> {
    TcpStream::connect(addr).await.map_err(ProbeError::Connect)
}
