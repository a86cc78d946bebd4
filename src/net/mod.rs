//! Sockets beyond plain TCP: TLS, its files and its failures; fields of messages by name.

pub mod field;
pub mod stamp;
pub mod tls;
pub mod websocket;
