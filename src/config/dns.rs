//! `[dns]`: whom to ask for names, and how long answers are believed.

use super::section::Section;
use super::value::{DAY, MILLI, quoted};
use crate::discovery::{DnsQuery, Records};
use crate::registry::dns::{DnsName, DnsSettings, Servers};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const PORT: u16 = 53;
const SECOND: Duration = Duration::from_secs(1);

/// What source URLs take from the table.
#[derive(Clone, Debug)]
pub(super) struct Dns {
    pub(super) settings: DnsSettings,
    min_ttl: Duration,
    max_ttl: Duration,
}

impl Dns {
    pub(super) fn read(section: Section<'_>) -> Self {
        let default = DnsSettings::default();
        let servers = section.find("servers").map(|_| {
            let show = |server: &SocketAddr| quoted(&server.to_string());
            let expected = "an address such as \"10.0.0.2:53\", or a list of them";
            section.list_of_some("servers", Vec::new(), show, |scalar| server(scalar.text(expected)?))
        });
        let search = section.find("search").map(|_| {
            let show = |name: &DnsName| quoted(&name.to_string());
            section.list("search", Vec::new(), show, |scalar| {
                let text = scalar.text("a domain such as \"service.consul\", or a list of them")?;
                DnsName::new(text).map_err(|error| error.to_string())
            })
        });
        let settings = DnsSettings {
            servers: servers.map_or(default.servers, Servers::Given),
            search,
            timeout: section.duration("timeout", MILLI..=DAY, default.timeout),
            attempts: section.integer("attempts", 1..=10, default.attempts),
            tcp: section.flag("tcp", default.tcp),
        };
        let min_ttl = section.duration("min_ttl", SECOND..=DAY, SECOND);
        let max_ttl = section.duration("max_ttl", SECOND..=DAY, Duration::from_secs(30));
        if min_ttl > max_ttl {
            section.conflict(&["min_ttl", "max_ttl"], "min_ttl is longer than max_ttl");
        }
        section.finish();
        Self { settings, min_ttl, max_ttl }
    }

    pub(super) fn query(&self, name: DnsName, records: Records) -> DnsQuery {
        DnsQuery { min_ttl: self.min_ttl, max_ttl: self.max_ttl, ..DnsQuery::new(name, records) }
    }
}

/// `HOST[:PORT]`, where the host is an IP address.
///
/// # Errors
/// What would be accepted.
pub(super) fn server(text: &str) -> Result<SocketAddr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let addr = match bare.parse::<IpAddr>() {
        Ok(ip) => Some((ip, PORT).into()),
        Err(_) => text.parse::<SocketAddr>().ok().filter(|addr| addr.port() > 0),
    };
    addr.ok_or_else(|| {
        format!("{text:?} is no DNS server: an IP address is accepted, with a port or without, such as 10.0.0.2:53")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_an_address_and_may_have_a_port() {
        for (text, addr) in [
            ("10.0.0.2", "10.0.0.2:53"),
            ("10.0.0.2:5353", "10.0.0.2:5353"),
            ("::1", "[::1]:53"),
            ("[::1]", "[::1]:53"),
            ("[::1]:5353", "[::1]:5353"),
        ] {
            assert_eq!(server(text).unwrap().to_string(), addr);
        }
        for bad in ["", "localhost", "10.0.0.2:0", "10.0.0.2:70000", "10.0.0", "dns.internal:53"] {
            assert!(server(bad).unwrap_err().contains("10.0.0.2:53"), "{bad}");
        }
    }
}
