//! Sockets beyond plain TCP: TLS, its files and its failures.

pub mod field;
pub mod tls;
