//! What the app finds in its environment.

use crate::config::Settings;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `OUTRIGGER_<SERVICE>_URL` of every service that has a port, `http://` or `tcp://`, the same of every listener, and `OUTRIGGER_ADMIN_URL`.
///
/// # Errors
/// Which two want the same variable.
pub(super) fn of(settings: &Settings) -> Result<BTreeMap<String, String>, String> {
    let mut owners: BTreeMap<String, (String, String)> = BTreeMap::new();
    let mut add = |variable: String, owner: String, scheme: &str, addr: Option<SocketAddr>| {
        let Some(addr) = addr else { return Ok(()) };
        let url = format!("{scheme}://{}", called(addr));
        match owners.insert(variable.clone(), (owner.clone(), url)) {
            None => Ok(()),
            Some((other, _)) => {
                Err(format!("{other} and {owner} would both give the app {variable}: rename one of them"))
            }
        }
    };
    add("OUTRIGGER_ADMIN_URL".to_owned(), "the admin address".to_owned(), "http", settings.admin.listen)?;
    for service in &settings.services {
        let name = service.name.as_str();
        let scheme = if service.listen_tls.is_some() { "https" } else { service.protocol.as_str() };
        add(variable(name), format!("service {name}"), scheme, best(&service.listen))?;
    }
    for listener in &settings.listeners {
        let name = listener.name.as_str();
        let scheme = if listener.listen_tls.is_some() { "https" } else { "http" };
        add(variable(name), format!("listener {name}"), scheme, best(&listener.listen))?;
    }
    Ok(owners.into_iter().map(|(variable, (_, url))| (variable, url)).collect())
}

/// The first one of IPv4, which every library speaks.
fn best(listen: &[SocketAddr]) -> Option<SocketAddr> {
    listen.iter().find(|addr| addr.is_ipv4()).or(listen.first()).copied()
}

/// `OUTRIGGER_ORDERS_V2_URL` of `orders-v2`.
fn variable(service: &str) -> String {
    let name: String = service
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
        .collect();
    format!("OUTRIGGER_{name}_URL")
}

/// Where the app calls what listens on all addresses.
fn called(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, from_pairs};

    #[test]
    fn a_name_becomes_a_variable() {
        assert_eq!(variable("orders"), "OUTRIGGER_ORDERS_URL");
        assert_eq!(variable("Web-2.eu_west"), "OUTRIGGER_WEB_2_EU_WEST_URL");
    }

    #[test]
    fn the_app_calls_an_address_that_it_can_reach() {
        for (listens, calls) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:2", "[::1]:2"), ("10.0.0.1:3", "10.0.0.1:3")]
        {
            assert_eq!(called(listens.parse().unwrap()).to_string(), calls);
        }
    }

    #[test]
    fn two_services_do_not_share_a_variable() {
        let pair = |port: u16, name: &str| (port.to_string(), format!("consul:{name}"));
        let settings = |pairs: &[(String, String)]| {
            from_pairs(pairs, &[], Some("off"), &Environment::Fixed([].into())).unwrap().settings
        };
        let two = of(&settings(&[pair(9001, "orders"), pair(9002, "stock")])).unwrap();
        let expected = [
            ("OUTRIGGER_ORDERS_URL", "http://127.0.0.1:9001"),
            ("OUTRIGGER_STOCK_URL", "http://127.0.0.1:9002"),
        ];
        assert_eq!(two, expected.map(|(name, url)| (name.to_owned(), url.to_owned())).into());
        let error = of(&settings(&[pair(9001, "a-b"), pair(9002, "a.b")])).unwrap_err();
        assert_eq!(
            error,
            "service a-b and service a.b would both give the app OUTRIGGER_A_B_URL: rename one of them"
        );
    }
}
