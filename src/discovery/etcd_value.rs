//! What people put under an etcd prefix: the value formats of the common registration libraries.
//!
//! Read are: a bare `host:port` (also go-zero's); a URL (go-kit); `{"Op":0,"Addr":…,"Metadata":…}` (etcd's own
//! `naming/endpoints`); `{"nodes":[…]}` (go-micro); `{"endpoints":["http://…"]}` (kratos); and
//! `{"host" or "address","port","weight","zone","meta"}`. One unreadable value never spoils the others.

use super::Skipped;
use crate::model::{Endpoint, InstanceId, Weight, Zone};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use url::{Host, Url};

/// A larger value is no description of an instance, in bytes.
const MAX_VALUE: usize = 256 * 1024;
/// So much of a key or a value is shown to people, in characters.
const SHOWN: usize = 120;

/// What one key holds.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Parsed {
    pub endpoints: Vec<Endpoint>,
    pub skipped: Vec<Skipped>,
}

type Object = Map<String, Value>;

/// Reads one key's value. An endpoint is called after its key, and if the key holds several also after its place.
pub fn parse(key: &[u8], value: &[u8]) -> Parsed {
    let key = String::from_utf8_lossy(key);
    match read(value) {
        Ok(Found::One(place)) => {
            let instance = InstanceId::new(&*key);
            Parsed { endpoints: vec![place.endpoint(instance)], skipped: Vec::new() }
        }
        Ok(Found::Several(places)) => {
            let mut parsed = Parsed::default();
            for (name, place) in places {
                match place {
                    Ok(place) => {
                        let instance = InstanceId::new(format!("{key}#{name}"));
                        parsed.endpoints.push(place.endpoint(instance));
                    }
                    Err(reason) => {
                        parsed
                            .skipped
                            .push(Skipped::new(format!("{}#{}", shown(&key), shown(&name)), reason));
                    }
                }
            }
            parsed
        }
        Err(reason) => Parsed { endpoints: Vec::new(), skipped: vec![Skipped::new(shown(&key), reason)] },
    }
}

enum Found {
    One(Place),
    /// By the node's id or index.
    Several(Vec<(String, Result<Place, String>)>),
}

/// An address and what is said about it.
struct Place {
    addr: SocketAddr,
    weight: Weight,
    zone: Option<Zone>,
    meta: BTreeMap<String, String>,
}

impl Place {
    fn bare(addr: SocketAddr) -> Self {
        Self { addr, weight: Weight::ONE, zone: None, meta: BTreeMap::new() }
    }

    /// With the weight, zone and metadata of an object; its own fields win over those within its metadata.
    fn described(addr: SocketAddr, object: &Object) -> Result<Self, String> {
        let meta = first(object, &["Metadata", "metadata", "meta"]);
        let inner = meta.and_then(Value::as_object);
        let field =
            |names: &[&str]| first(object, names).or_else(|| inner.and_then(|inner| first(inner, names)));
        let zone = field(&["zone", "Zone"]).and_then(Value::as_str).and_then(Zone::new);
        let weight = field(&["weight", "Weight"]).map_or(Ok(Weight::ONE), weight)?;
        let meta = match meta {
            Some(Value::Object(inner)) => inner.iter().map(|(k, v)| (k.clone(), plain(v))).collect(),
            Some(other) => BTreeMap::from([("metadata".to_owned(), plain(other))]),
            None => BTreeMap::new(),
        };
        Ok(Self { addr, weight, zone, meta })
    }

    fn endpoint(self, instance: InstanceId) -> Endpoint {
        Endpoint {
            instance,
            weight: self.weight,
            zone: self.zone,
            meta: self.meta.into(),
            ..Endpoint::at(self.addr)
        }
    }
}

fn read(value: &[u8]) -> Result<Found, String> {
    if value.len() > MAX_VALUE {
        return Err(format!("{} bytes; at most {MAX_VALUE} are read", value.len()));
    }
    let text = std::str::from_utf8(value).map_err(|_| "no UTF-8 text".to_owned())?.trim();
    if text.is_empty() {
        return Err("empty value".to_owned());
    }
    if !text.starts_with('{') {
        return Ok(Found::One(Place::bare(address(text)?)));
    }
    let object: Object = serde_json::from_str(text).map_err(|e| format!("broken JSON: {e}"))?;
    if let Some(Value::Array(nodes)) = object.get("nodes") {
        return go_micro(nodes);
    }
    if let Some(Value::Array(endpoints)) = object.get("endpoints") {
        return Ok(Found::One(Place::described(kratos(endpoints)?, &object)?));
    }
    match first(&object, &["Op"]).map(Value::as_u64) {
        None | Some(Some(0)) => {}
        Some(_) => return Err("its Op is no addition".to_owned()),
    }
    Ok(Found::One(Place::described(located(&object)?, &object)?))
}

/// go-micro's service: `nodes` with `id`, `address` and `metadata`; its `endpoints` are methods, not addresses.
fn go_micro(nodes: &[Value]) -> Result<Found, String> {
    let place = |node: &Value| match node {
        Value::Object(node) => Place::described(located(node)?, node),
        _ => Err("a node that is no object".to_owned()),
    };
    match nodes {
        [] => Err("no nodes in it".to_owned()),
        [only] => Ok(Found::One(place(only)?)),
        several => {
            let named = several.iter().enumerate().map(|(index, node)| {
                let id = node.get("id").and_then(Value::as_str).filter(|id| !id.is_empty());
                (id.map_or_else(|| index.to_string(), str::to_owned), place(node))
            });
            Ok(Found::Several(named.collect()))
        }
    }
}

/// kratos' service: one URL for each protocol that the instance speaks. Plain HTTP is preferred, then plain
/// anything, then what is left.
fn kratos(endpoints: &[Value]) -> Result<SocketAddr, String> {
    let mut best: Option<(u8, SocketAddr)> = None;
    let mut reason = "no endpoints in it".to_owned();
    for text in endpoints.iter().filter_map(Value::as_str) {
        let Ok(url) = Url::parse(text) else {
            reason = format!("no URL: {:?}", shown(text));
            continue;
        };
        let secure =
            url.scheme() == "https" || url.query_pairs().any(|(k, v)| k == "isSecure" && v == "true");
        let rank = match (secure, url.scheme()) {
            (false, "http") => 0,
            (false, _) => 1,
            (true, _) => 2,
        };
        match from_url(&url) {
            Ok(addr) if best.is_none_or(|(held, _)| rank < held) => best = Some((rank, addr)),
            Ok(_) => {}
            Err(why) => reason = why,
        }
    }
    best.map(|(_, addr)| addr).ok_or(reason)
}

/// The address within an object: `Addr`, or `address` or `host` with a `port` beside it or within.
fn located(object: &Object) -> Result<SocketAddr, String> {
    let Some(place) = first(object, &["Addr", "address", "host"]) else {
        return Err("no Addr, nodes, endpoints, address or host in it".to_owned());
    };
    let text = place.as_str().ok_or("its address is no text")?.trim();
    let Some(port) = first(object, &["port"]) else {
        return address(text);
    };
    let port = match port {
        Value::String(digits) => self::port(digits.trim())?,
        Value::Number(number) => self::port(&number.to_string())?,
        _ => return Err("its port is no number".to_owned()),
    };
    match ip(text) {
        Ok(ip) => connectable(SocketAddr::new(ip, port)),
        // With a port in both places, they have to agree.
        Err(reason) => match address(text) {
            Ok(addr) if addr.port() == port => Ok(addr),
            Ok(addr) => Err(format!("two ports: {} and {port}", addr.port())),
            Err(_) => Err(reason),
        },
    }
}

/// `host:port`, `[v6]:port` or a URL.
fn address(text: &str) -> Result<SocketAddr, String> {
    if text.contains("://") {
        let url = Url::parse(text).map_err(|e| format!("no URL: {:?}: {e}", shown(text)))?;
        return from_url(&url);
    }
    let Some((host, digits)) = text.rsplit_once(':') else {
        return Err(format!("no host:port: {:?}", shown(text)));
    };
    if host.contains(':') && !host.starts_with('[') {
        return Err(format!("an IPv6 address with a port needs brackets: {:?}", shown(text)));
    }
    connectable(SocketAddr::new(ip(host)?, port(digits)?))
}

fn from_url(url: &Url) -> Result<SocketAddr, String> {
    let ip = match url.host() {
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip),
        Some(Host::Domain(name)) => ip(name)?,
        None => return Err(format!("a URL without a host: {:?}", shown(url.as_str()))),
    };
    let port = url.port_or_known_default();
    let port = port.ok_or_else(|| format!("a URL without a port: {:?}", shown(url.as_str())))?;
    connectable(SocketAddr::new(ip, port))
}

/// An IP address, an IPv6 one also in brackets; `localhost` is the only name that is understood.
fn ip(host: &str) -> Result<IpAddr, String> {
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let ip = match inner {
        Some(inner) => inner.parse().ok().map(IpAddr::V6),
        None => host.parse().ok(),
    };
    ip.ok_or_else(|| format!("{:?} is no IP address", shown(host)))
}

fn port(digits: &str) -> Result<u16, String> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let port = if plain { digits.parse().ok() } else { None };
    port.ok_or_else(|| format!("{:?} is no port", shown(digits)))
}

fn connectable(addr: SocketAddr) -> Result<SocketAddr, String> {
    if addr.port() == 0 {
        return Err("port 0".to_owned());
    }
    if addr.ip().is_unspecified() || addr.ip().is_multicast() {
        return Err(format!("nobody can connect to {}", addr.ip()));
    }
    Ok(addr)
}

fn weight(value: &Value) -> Result<Weight, String> {
    let number = match value {
        Value::String(digits) => digits.trim().parse().ok(),
        Value::Number(number) => number.as_u64(),
        _ => None,
    };
    let weight = number.and_then(|number: u64| u16::try_from(number).ok()).map(Weight::new);
    weight.ok_or_else(|| format!("weight {} is not 0 to 65535", shown(&value.to_string())))
}

/// The first of these fields that is there and not null.
fn first<'a>(object: &'a Object, names: &[&str]) -> Option<&'a Value> {
    names.iter().filter_map(|name| object.get(*name)).find(|value| !value.is_null())
}

/// Metadata as text: a string as it is, anything else as JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(value: &str) -> Endpoint {
        let parsed = parse(b"svc/web/a", value.as_bytes());
        assert_eq!(parsed.skipped, [], "{value}");
        assert_eq!(parsed.endpoints.len(), 1, "{value}");
        assert_eq!(parsed.endpoints[0].instance.as_str(), "svc/web/a", "{value}");
        parsed.endpoints[0].clone()
    }

    fn reason(value: impl AsRef<[u8]>) -> String {
        let parsed = parse(b"svc/web/a", value.as_ref());
        assert_eq!(parsed.endpoints, [], "{}", String::from_utf8_lossy(value.as_ref()));
        assert_eq!(parsed.skipped.len(), 1);
        assert_eq!(parsed.skipped[0].entry, "svc/web/a");
        parsed.skipped[0].reason.clone()
    }

    #[test]
    fn every_format_gives_its_address() {
        for (value, addr) in [
            ("10.0.0.1:8080", "10.0.0.1:8080"),
            (" 10.0.0.1:8080\n", "10.0.0.1:8080"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
            ("localhost:80", "127.0.0.1:80"),
            (r#"{"Op":0,"Addr":"10.0.0.1:8080","Metadata":null}"#, "10.0.0.1:8080"),
            (r#"{"Addr":"10.0.0.1:8080","Metadata":"v1"}"#, "10.0.0.1:8080"),
            (r#"{"host":"10.0.0.1","port":8080}"#, "10.0.0.1:8080"),
            (r#"{"address":"10.0.0.1","port":"8080"}"#, "10.0.0.1:8080"),
            (r#"{"address":"10.0.0.1:8080"}"#, "10.0.0.1:8080"),
            (r#"{"address":"10.0.0.1:8080","port":8080}"#, "10.0.0.1:8080"),
            (r#"{"host":"::1","port":8080}"#, "[::1]:8080"),
            (r#"{"host":"[::1]","port":8080}"#, "[::1]:8080"),
            ("http://10.0.0.1:8080", "10.0.0.1:8080"),
            ("http://10.0.0.1/path", "10.0.0.1:80"),
            ("https://[::1]", "[::1]:443"),
            ("grpc://10.0.0.1:9000", "10.0.0.1:9000"),
            ("http://localhost:81", "127.0.0.1:81"),
            (
                r#"{"name":"web","version":"1","endpoints":[{"name":"Web.Get"}],
                    "nodes":[{"id":"n","address":"10.0.0.1:8080","metadata":{}}]}"#,
                "10.0.0.1:8080",
            ),
            (
                r#"{"id":"x","name":"web","metadata":{},"endpoints":["grpc://10.0.0.1:9000?isSecure=false",
                    "http://10.0.0.1:8000?isSecure=false"]}"#,
                "10.0.0.1:8000",
            ),
            (
                r#"{"endpoints":["http://10.0.0.1:8443?isSecure=true","grpc://10.0.0.1:9000?isSecure=false"]}"#,
                "10.0.0.1:9000",
            ),
            (r#"{"endpoints":["https://10.0.0.1:8443"]}"#, "10.0.0.1:8443"),
        ] {
            assert_eq!(one(value).addr, addr.parse().unwrap(), "{value}");
        }
    }

    #[test]
    fn weight_zone_and_metadata_are_kept() {
        let full = one(
            r#"{"host":"10.0.0.1","port":80,"weight":"7","zone":"eu-1","meta":{"v":"2","n":3,"deep":{"a":[]}}}"#,
        );
        assert_eq!((full.weight.get(), full.zone.as_ref().unwrap().as_str()), (7, "eu-1"));
        let meta: Vec<_> = full.meta.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(meta, [("deep", r#"{"a":[]}"#), ("n", "3"), ("v", "2")]);
        assert_eq!(one(r#"{"Op":0,"Addr":"10.0.0.1:80","Metadata":{"weight":0}}"#).weight, Weight::ZERO);
        assert_eq!(one(r#"{"Addr":"10.0.0.1:80","Metadata":"v1"}"#).meta["metadata"], "v1");
        assert_eq!(one(r#"{"Addr":"10.0.0.1:80","weight":null}"#).weight, Weight::ONE);
    }

    #[test]
    fn several_nodes_under_one_key_are_several_instances() {
        let value = br#"{"nodes":[{"id":"a","address":"10.0.0.1:80"},{"address":"10.0.0.2:80"},
            {"id":"c","address":"somewhere:80"}]}"#;
        let parsed = parse(b"k", value);
        let names: Vec<_> = parsed.endpoints.iter().map(|e| e.instance.as_str()).collect();
        assert_eq!(names, ["k#a", "k#1"]);
        assert_eq!(parsed.skipped, [Skipped::new("k#c", r#""somewhere" is no IP address"#)]);
    }

    #[test]
    fn what_cannot_be_used_is_skipped_with_its_reason() {
        for (value, expected) in [
            ("", "empty value"),
            ("   ", "empty value"),
            ("hello", "no host:port"),
            ("web-1:80", "\"web-1\" is no IP address"),
            ("2001:db8::1:80", "needs brackets"),
            ("[10.0.0.1]:80", "is no IP address"),
            ("10.0.0.1:0", "port 0"),
            ("10.0.0.1:70000", "\"70000\" is no port"),
            ("10.0.0.1:-1", "\"-1\" is no port"),
            ("10.0.0.1:+80", "\"+80\" is no port"),
            ("10.0.0.1:", "\"\" is no port"),
            ("0.0.0.0:80", "nobody can connect"),
            ("{", "broken JSON"),
            (r#"{"a":1} trailing"#, "broken JSON"),
            ("{}", "no Addr, nodes"),
            (r#"{"Addr":17}"#, "no text"),
            (r#"{"Op":1,"Addr":"10.0.0.1:80"}"#, "no addition"),
            (r#"{"host":"10.0.0.1"}"#, "no host:port"),
            (r#"{"host":"10.0.0.1","port":80.5}"#, "is no port"),
            (r#"{"host":"10.0.0.1","port":true}"#, "no number"),
            (r#"{"host":"10.0.0.1:80","port":81}"#, "two ports"),
            (r#"{"host":"10.0.0.1","port":80,"weight":65536}"#, "weight 65536"),
            (r#"{"host":"10.0.0.1","port":80,"weight":-1}"#, "weight -1"),
            (r#"{"Addr":"10.0.0.1:80","Metadata":{"weight":"much"}}"#, "weight \"much\""),
            (r#"{"nodes":[]}"#, "no nodes"),
            (r#"{"nodes":[3]}"#, "no object"),
            (r#"{"endpoints":[]}"#, "no endpoints"),
            (r#"{"endpoints":["grpc://10.0.0.1"]}"#, "without a port"),
            ("http://web.example:80", "is no IP address"),
            ("grpc://10.0.0.1", "without a port"),
            ("http://", "no URL"),
        ] {
            let reason = reason(value);
            assert!(reason.contains(expected), "{value:?}: {reason}");
        }
        assert_eq!(reason([0xff, 0xfe]), "no UTF-8 text");
        assert!(reason(vec![b'x'; MAX_VALUE + 1]).contains("at most"));
        let deep = format!("{}{}", r#"{"a":"#.repeat(1000), "}".repeat(1000));
        assert!(reason(deep).contains("recursion"));
        assert!(reason(format!("{}:80", "x".repeat(10_000))).len() < 4 * SHOWN);
    }

    fn any_addr() -> impl Strategy<Value = SocketAddr> {
        (any::<IpAddr>(), 1..=u16::MAX)
            .prop_map(|(ip, port)| SocketAddr::new(ip, port))
            .prop_filter("somewhere to connect to", |a| connectable(*a).is_ok())
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(key: Vec<u8>, value: Vec<u8>) {
            let parsed = parse(&key, &value);
            prop_assert_eq!(parsed.endpoints.len() + parsed.skipped.len(), 1);
        }

        #[test]
        fn no_text_is_too_strange(value in r#"[\[\]{}":,a-z0-9./\-]{0,60}|\{"(Addr|nodes|endpoints|host)":[\[\]{}":,0-9a]{0,30}\}"#) {
            let parsed = parse(b"k", value.as_bytes());
            prop_assert!(!parsed.endpoints.is_empty() || !parsed.skipped.is_empty());
        }

        #[test]
        fn what_is_printed_in_any_format_is_read_back(
            addr in any_addr(), weight: u16, zone in "[a-z0-9-]{1,12}", note in "\\PC{0,20}",
        ) {
            let (ip, port) = (addr.ip().to_string(), addr.port());
            let meta = serde_json::json!({ "note": note, "weight": weight.to_string(), "zone": zone });
            let text = addr.to_string();
            for bare in [text.clone(), format!("http://{addr}"), format!("grpc://{addr}/x?isSecure=false")] {
                prop_assert_eq!(one(&bare).addr, addr);
            }
            for full in [
                serde_json::json!({ "Op": 0, "Addr": text, "Metadata": meta }),
                serde_json::json!({ "host": ip, "port": port, "meta": meta }),
                serde_json::json!({ "address": ip, "port": port.to_string(), "weight": weight, "meta": meta }),
                serde_json::json!({ "address": text, "zone": zone, "meta": meta }),
                serde_json::json!({ "name": "web", "endpoints": [{}], "nodes": [{ "id": "n", "address": text, "metadata": meta }] }),
                serde_json::json!({ "id": "n", "metadata": meta, "endpoints": [format!("grpc://{ip}:1"), format!("http://{addr}?isSecure=false")] }),
            ] {
                let read = one(&full.to_string());
                prop_assert_eq!(read.addr, addr, "{}", full);
                prop_assert_eq!(read.weight, Weight::new(weight));
                prop_assert_eq!(read.zone.as_ref().map(Zone::as_str), Some(zone.as_str()));
                prop_assert_eq!(&read.meta["note"], &note);
            }
        }
    }
}
