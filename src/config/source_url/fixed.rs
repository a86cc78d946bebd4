//! `static://10.0.0.1:80,10.0.0.2:80?weights=3,1`

use super::parts::Parts;
use crate::discovery::SourceSettings;
use crate::model::{Endpoint, EndpointSet, Weight};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// A longer list is shown by its first addresses and its length: it would be repeated wherever its source is named.
const SHOWN_WHOLE: usize = 5;
const SHOWN_FIRST: usize = 3;

const EXAMPLE: &str = "write static://HOST:PORT,HOST:PORT, such as static://10.0.0.1:80,[::1]:80";

pub(super) fn parse(parts: &Parts<'_>) -> Result<(SourceSettings, Option<String>), String> {
    let list = parts.authority.filter(|list| !list.is_empty()).ok_or(EXAMPLE)?;
    if parts.user()?.0.is_some() {
        return Err(format!("user and password are not accepted: {EXAMPLE}"));
    }
    if !matches!(parts.path, "" | "/") {
        return Err(format!("a list of addresses has no path: {EXAMPLE}"));
    }
    let mut endpoints: Vec<Endpoint> = Vec::new();
    let mut seen = HashSet::new();
    for text in list.split(',') {
        let addr = address(parts, text)?;
        if !seen.insert(addr) {
            return Err(format!("{addr} is given twice"));
        }
        endpoints.push(Endpoint::at(addr));
    }
    if let Some((_, weights)) = parts.parameters(&["weights"], "")?.first() {
        let weights = weights.split(',').map(weight).collect::<Result<Vec<_>, _>>()?;
        if weights.len() != endpoints.len() {
            let (many, one) = (weights.len(), endpoints.len());
            let es = if one == 1 { "" } else { "es" };
            return Err(format!(
                "{many} weights for {one} address{es}: as many of one as of the other are accepted"
            ));
        }
        for (endpoint, weight) in endpoints.iter_mut().zip(weights) {
            endpoint.weight = weight;
        }
    }
    Ok((SourceSettings::Fixed(EndpointSet::new(endpoints)), None))
}

/// The URL for people: whole if it is short, else its beginning and how many addresses it has.
pub(super) fn shown(parts: &Parts<'_>) -> String {
    let list = parts.authority.unwrap_or_default();
    let count = list.split(',').count();
    if count <= SHOWN_WHOLE {
        return parts.masked();
    }
    let first: Vec<_> = list.split(',').take(SHOWN_FIRST).collect();
    format!("static://{},… ({count})", first.join(","))
}

fn address(parts: &Parts<'_>, text: &str) -> Result<SocketAddr, String> {
    let (host, port) = parts.host_and_port(text)?;
    let port = port.ok_or_else(|| format!("{host:?} has no port: {EXAMPLE}"))?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let ip = if bare == "localhost" { Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)) } else { bare.parse() };
    let ip = ip.map_err(|_| {
        format!("{host:?} is no IP address: a fixed list takes addresses (or localhost), no names to look up")
    })?;
    Ok(SocketAddr::new(ip, port))
}

fn weight(text: &str) -> Result<Weight, String> {
    let weight = text.parse().map(Weight::new);
    weight.map_err(|_| format!("{text:?} is no weight: 0 to 65535 is accepted, one for each address"))
}
