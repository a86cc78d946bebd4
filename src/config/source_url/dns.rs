//! `dns://orders.internal:80`, `srv://_http._tcp.orders.internal`, each with `?server=10.0.0.2:53&family=4&tcp=true`

use super::parts::Parts;
use crate::config::dns;
use crate::config::registries::Registries;
use crate::discovery::{Records, SourceSettings};
use crate::registry::dns::{DnsName, Family, Servers};
use std::net::Ipv4Addr;

const ADDRESSES: &str = "write dns://NAME:PORT";
const SERVICES: &str = "write srv://NAME, such as srv://_http._tcp.orders.internal";

/// A and AAAA records, all at one port.
pub(super) fn addresses(
    parts: &Parts<'_>,
    registries: &Registries,
) -> Result<(SourceSettings, Option<String>), String> {
    let (name, port) = name_and_port(parts, ADDRESSES)?;
    let port = port.ok_or_else(|| format!("the port of the instances is missing: {ADDRESSES}"))?;
    read(parts, registries, name, Records::Addresses { port })
}

/// SRV records, each with a port of its own.
pub(super) fn services(
    parts: &Parts<'_>,
    registries: &Registries,
) -> Result<(SourceSettings, Option<String>), String> {
    let (name, port) = name_and_port(parts, SERVICES)?;
    if port.is_some() {
        return Err(format!("a service record has a port of its own: {SERVICES}"));
    }
    read(parts, registries, name, Records::Services)
}

fn name_and_port<'u>(parts: &Parts<'u>, example: &str) -> Result<(&'u str, Option<u16>), String> {
    let (user, host) = parts.user()?;
    if user.is_some() {
        return Err(format!("user and password are not accepted: {example}"));
    }
    if parts.authority.is_none() || host.is_empty() {
        return Err(format!("the name is missing: {example}"));
    }
    if !matches!(parts.path, "" | "/") {
        return Err(format!("a name has no path: {example}; which server is asked, ?server=HOST:PORT says"));
    }
    if host.contains(',') {
        return Err(format!("one name is accepted: {example}"));
    }
    let (name, port) = parts.host_and_port(host)?;
    if name.starts_with('[') || name.parse::<Ipv4Addr>().is_ok() {
        return Err(format!("{name:?} is an address, no name: write static://HOST:PORT"));
    }
    Ok((name, port))
}

fn read(
    parts: &Parts<'_>,
    registries: &Registries,
    name: &str,
    records: Records,
) -> Result<(SourceSettings, Option<String>), String> {
    let mut settings = registries.dns.settings.clone();
    let checked = DnsName::new(name).map_err(|error| error.to_string())?;
    let mut query = registries.dns.query(checked, records);
    let mut servers = Vec::new();
    for (key, value) in parts.parameters(&["server", "family", "tcp"], "server")? {
        match key.as_str() {
            "server" => servers.push(dns::server(&value)?),
            "tcp" => {
                settings.tcp = match value.as_str() {
                    "false" => false,
                    "true" => true,
                    _ => return Err(format!("tcp: {value:?} is not accepted; accepted: false, true")),
                }
            }
            _ => {
                query.family = match value.as_str() {
                    "4" => Family::V4,
                    "6" => Family::V6,
                    "any" => Family::Any,
                    _ => return Err(format!("family: {value:?} is not accepted; accepted: 4, 6, any")),
                }
            }
        }
    }
    if !servers.is_empty() {
        settings.servers = Servers::Given(servers);
    }
    let title = name.split('.').find(|part| !part.starts_with('_')).map(ToOwned::to_owned);
    Ok((SourceSettings::Dns(settings, query), title))
}
