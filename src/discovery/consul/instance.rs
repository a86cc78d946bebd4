//! One entry of Consul's health API as an endpoint.

use crate::discovery::Skipped;
use crate::model::{Endpoint, InstanceId, Standing, Weight, Zone};
use crate::registry::consul::{Check, Entry};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Consul's check of a node by gossip: with nothing else against an instance it is [`Standing::Lost`].
const SERF_HEALTH: &str = "serfHealth";

/// How telling it is that a node is thought dead.
const NODE_LOST: u8 = 2;

const NODE_MAINTENANCE: &str = "_node_maintenance";
const SERVICE_MAINTENANCE: &str = "_service_maintenance:";

/// Reads one entry. `warning`: an instance with a warning may be used, at its warning weight.
pub(super) fn read(entry: Entry, warning: bool) -> Result<Endpoint, Skipped> {
    let Entry { node, service, checks } = entry;
    let skip = |reason: String| Skipped::new(&service.id, reason);
    let text = if service.address.is_empty() { &node.address } else { &service.address };
    let ip: IpAddr = text.parse().map_err(|_| skip(format!("address {text:?} is no IP address")))?;
    if ip.is_unspecified() {
        return Err(skip(format!("address {text:?} is nowhere")));
    }
    let port = u16::try_from(service.port).ok().filter(|port| *port != 0);
    let port = port.ok_or_else(|| skip(format!("port {} is not in 1 to 65535", service.port)))?;
    let warned = checks.iter().any(|check| check.status == "warning");
    let weight = if warned && warning { service.weights.warning } else { service.weights.passing };
    let weight = u16::try_from(weight).map_err(|_| skip(format!("weight {weight} is not in 0 to 65535")))?;
    Ok(Endpoint {
        addr: SocketAddr::new(ip, port),
        // An id that is only the service's name is what every node gives it: the node tells them apart.
        instance: if service.id == service.name {
            InstanceId::new(format!("{}@{}", service.id, node.node))
        } else {
            InstanceId::new(service.id)
        },
        weight: Weight::new(weight),
        zone: zone(&service.meta).or_else(|| zone(&node.meta)),
        standing: standing(&checks, warning),
        meta: meta(service.meta, &service.tags).into(),
    })
}

/// Its metadata, and its tags as `tags`.
fn meta(mut meta: BTreeMap<String, String>, tags: &[String]) -> BTreeMap<String, String> {
    if !tags.is_empty() {
        meta.entry("tags".to_owned()).or_insert_with(|| tags.join(","));
    }
    meta
}

fn zone(meta: &BTreeMap<String, String>) -> Option<Zone> {
    ["zone", "availability_zone"].iter().find_map(|key| Zone::new(meta.get(*key)?))
}

/// The worst that the checks say. The text depends on the checks alone, not on their order: it is compared.
fn standing(checks: &[Check], warning: bool) -> Standing {
    let verdicts = checks.iter().filter_map(|check| verdict(check, warning));
    match verdicts.min() {
        None => Standing::Passing,
        Some((NODE_LOST, text)) => Standing::Lost(text.into()),
        Some((_, text)) => Standing::Critical(text.into()),
    }
}

/// Why this check takes the instance out, and how telling that is: what was meant comes before what was measured,
/// the instance's own state before its node's.
fn verdict(check: &Check, warning: bool) -> Option<(u8, String)> {
    let Check { id, status } = check;
    match status.as_str() {
        "passing" => None,
        "warning" if warning => None,
        "warning" => Some((3, format!("check {id} warning"))),
        _ if id == NODE_MAINTENANCE => Some((0, "node maintenance".into())),
        _ if id.starts_with(SERVICE_MAINTENANCE) => Some((0, "service maintenance".into())),
        _ if id == SERF_HEALTH => Some((NODE_LOST, SERF_HEALTH.into())),
        _ => Some((1, format!("check {id} {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn entry(service: Value, checks: &[(&str, &str)]) -> Entry {
        let mut whole = json!({"ID": "web-1", "Service": "web", "Address": "10.0.0.1", "Port": 80});
        whole.as_object_mut().unwrap().extend(service.as_object().unwrap().clone());
        let checks: Vec<_> = checks.iter().map(|(id, s)| json!({"CheckID": id, "Status": s})).collect();
        let node = json!({"Node": "n1", "Address": "10.9.9.9", "Meta": {"availability_zone": "eu-1"}});
        serde_json::from_value(json!({"Node": node, "Service": whole, "Checks": checks})).unwrap()
    }

    fn stands(checks: &[(&str, &str)], warning: bool) -> String {
        match read(entry(json!({}), checks), warning).unwrap().standing {
            Standing::Passing => "passing".into(),
            Standing::Lost(text) => format!("lost: {text}"),
            Standing::Critical(text) => text.to_string(),
        }
    }

    #[test]
    fn an_entry_becomes_an_endpoint() {
        let weights = json!({"Passing": 7, "Warning": 2});
        let service = json!({"Address": "", "Weights": weights, "Meta": {"version": "3"}});
        let endpoint = read(entry(service, &[("serfHealth", "passing")]), false).unwrap();
        assert_eq!(endpoint.addr, "10.9.9.9:80".parse().unwrap());
        assert_eq!((endpoint.instance.as_str(), endpoint.weight.get()), ("web-1", 7));
        assert_eq!(endpoint.zone.unwrap().as_str(), "eu-1");
        assert_eq!(endpoint.meta["version"], "3");
        assert!(endpoint.standing.is_passing());
        let service = json!({"ID": "web", "Address": "fd00::1", "Meta": {"zone": "b"}});
        let endpoint = read(entry(service, &[]), false).unwrap();
        assert_eq!(endpoint.addr, "[fd00::1]:80".parse().unwrap());
        assert_eq!((endpoint.instance.as_str(), endpoint.zone.unwrap().as_str()), ("web@n1", "b"));
    }

    #[test]
    fn tags_are_metadata() {
        let tags = |service: Value| read(entry(service, &[]), false).unwrap().meta.get("tags").cloned();
        assert_eq!(tags(json!({"Tags": ["blue", "v2"]})).as_deref(), Some("blue,v2"));
        assert_eq!(tags(json!({"Tags": ["blue"], "Meta": {"tags": "own"}})).as_deref(), Some("own"));
        assert_eq!(
            [tags(json!({"Tags": []})), tags(json!({"Tags": null})), tags(json!({}))],
            [None, None, None]
        );
    }

    #[test]
    fn what_cannot_be_reached_is_skipped_with_its_reason() {
        let cases = [
            (json!({"Port": -1}), "port -1 "),
            (json!({"Port": 0}), "port 0 "),
            (json!({"Port": 70000}), "port 70000 "),
            (json!({"Address": "not an ip"}), "\"not an ip\""),
            (json!({"Address": "localhost"}), "\"localhost\""),
            (json!({"Address": "127.0.0.1:80"}), "\"127.0.0.1:80\""),
            (json!({"Address": "[::1]"}), "\"[::1]\""),
            (json!({"Address": "0.0.0.0"}), "nowhere"),
            (json!({"Weights": {"Passing": 65536}}), "weight 65536 "),
            (json!({"Weights": {"Passing": -1}}), "weight -1 "),
        ];
        for (service, part) in cases {
            let skipped = read(entry(service.clone(), &[]), false).unwrap_err();
            assert_eq!(skipped.entry, "web-1");
            assert!(skipped.reason.contains(part), "{service}: {}", skipped.reason);
        }
        let huge = json!({"Weights": {"Passing": 65535, "Warning": 0}});
        assert_eq!(read(entry(huge, &[]), false).unwrap().weight.get(), 65535);
    }

    #[test]
    fn the_worst_check_decides_whatever_the_order() {
        let (serf, own) = ((SERF_HEALTH, "critical"), ("service:web-1", "critical"));
        let cases: [(&[(&str, &str)], &str); 7] = [
            (&[("a", "passing")], "passing"),
            (&[("a", "passing"), own], "check service:web-1 critical"),
            (&[serf, own], "check service:web-1 critical"),
            (&[serf, ("a", "passing")], "lost: serfHealth"),
            (&[own, ("_service_maintenance:web-1", "critical")], "service maintenance"),
            (&[own, ("_node_maintenance", "critical"), serf], "node maintenance"),
            (&[("b", "critical"), ("a", "critical"), ("0", "warning")], "check a critical"),
        ];
        for (checks, expected) in cases {
            assert_eq!(stands(checks, true), expected, "{checks:?}");
            let reversed: Vec<_> = checks.iter().rev().copied().collect();
            assert_eq!(stands(&reversed, true), expected, "{reversed:?}");
        }
    }

    #[test]
    fn a_warning_takes_out_unless_it_is_welcome() {
        let checks = [("a", "passing"), ("b", "warning")];
        assert_eq!(stands(&checks, false), "check b warning");
        assert_eq!(stands(&checks, true), "passing");
        let service = json!({"Weights": {"Passing": 7, "Warning": 2}});
        let weight = |warning| read(entry(service.clone(), &checks), warning).unwrap().weight.get();
        assert_eq!((weight(true), weight(false)), (2, 7));
        let service = json!({"Weights": {"Passing": 7, "Warning": 0}});
        assert_eq!(read(entry(service, &checks), true).unwrap().weight, Weight::ZERO);
    }
}
