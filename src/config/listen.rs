//! Addresses to listen on, and that no two parts want the same one.

use super::problem::Origin;
use super::value::quoted;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const EXAMPLE: &str = "write for example \"127.0.0.1:9001\", \"[::1]:9001\" or \"0.0.0.0:9001\"";

/// Both loopback addresses at a port.
pub(super) fn loopback(port: u16) -> Vec<SocketAddr> {
    vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
}

/// One address and port.
///
/// # Errors
/// What would be accepted.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let addr: SocketAddr = text.parse().map_err(|_| {
        let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u64>().ok());
        match port {
            Some(port) if port > u64::from(u16::MAX) => {
                format!("port {port} is out of range: 1 to 65535 is accepted")
            }
            _ => format!("{text:?} is no address to listen on: {EXAMPLE}"),
        }
    })?;
    if addr.port() == 0 { Err("port 0 is out of range: 1 to 65535 is accepted".to_owned()) } else { Ok(addr) }
}

/// As [`address`], or a port alone, which `localhost` may precede, for both loopback addresses.
///
/// # Errors
/// What would be accepted.
pub(super) fn addresses(text: &str) -> Result<Vec<SocketAddr>, String> {
    match text.strip_prefix("localhost:").unwrap_or(text).parse::<u64>() {
        Ok(number) => match u16::try_from(number) {
            Ok(port) if port > 0 => Ok(loopback(port)),
            _ => Err(format!("port {number} is out of range: 1 to 65535 is accepted")),
        },
        Err(_) => Ok(vec![address(text)?]),
    }
}

/// Addresses as TOML writes the inside of a list of them.
pub(super) fn shown(addrs: &[SocketAddr]) -> String {
    let shown: Vec<_> = addrs.iter().map(|addr| quoted(&addr.to_string())).collect();
    shown.join(", ")
}

/// Who listens where, so far.
#[derive(Debug, Default)]
pub(super) struct Taken(Vec<(SocketAddr, String)>);

impl Taken {
    /// Takes an address for `path`.
    ///
    /// # Errors
    /// Who has it already.
    pub(super) fn take(&mut self, addr: SocketAddr, path: &str, origin: &Origin) -> Result<(), String> {
        let other = self.0.iter().find(|(other, _)| overlap(*other, addr)).map(|(other, by)| {
            if *other == addr {
                format!("{addr} is taken by {by}")
            } else {
                format!("{addr} is within {other}, taken by {by}")
            }
        });
        let by = match origin {
            Origin::Default => format!("{path} (its default)"),
            Origin::Line { line, .. } => format!("{path} in line {line}"),
            _ => path.to_owned(),
        };
        self.0.push((addr, by));
        other.map_or(Ok(()), Err)
    }
}

/// The same port at the same address, or at all addresses of its family (IPv6 listeners take no IPv4 connections).
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let all = |ip: IpAddr| ip.is_unspecified();
    a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && (a.ip() == b.ip() || all(a.ip()) || all(b.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_means_both_loopback_addresses() {
        let expected: Vec<SocketAddr> =
            vec!["127.0.0.1:9001".parse().unwrap(), "[::1]:9001".parse().unwrap()];
        assert_eq!(addresses("9001").unwrap(), expected);
        assert_eq!(addresses("localhost:9001").unwrap(), expected);
        assert_eq!(addresses("[::]:80").unwrap(), ["[::]:80".parse().unwrap()]);
        for bad in [
            "",
            "0",
            "localhost:0",
            "localhost",
            "127.0.0.1",
            "127.0.0.1:0",
            "127.0.0.1:70000",
            "70000",
            ":80",
        ] {
            assert!(addresses(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_address_has_one_owner() {
        let mut taken = Taken::default();
        let mut take = |addr: &str| taken.take(addr.parse().unwrap(), "a", &Origin::Default);
        assert_eq!(take("127.0.0.1:1"), Ok(()));
        assert_eq!(take("[::1]:1"), Ok(()));
        assert_eq!(take("127.0.0.2:1"), Ok(()));
        assert_eq!(take("127.0.0.1:1"), Err("127.0.0.1:1 is taken by a (its default)".to_owned()));
        assert!(take("0.0.0.0:1").is_err());
        assert!(take("[::]:1").is_err());
        assert_eq!(take("0.0.0.0:2"), Ok(()));
        assert!(take("10.0.0.1:2").is_err());
    }
}
