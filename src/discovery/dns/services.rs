//! SRV records: the targets' addresses, priorities and weights (RFC 2782).

use super::{Seen, Silence};
use crate::discovery::Skipped;
use crate::model::{Endpoint, InstanceId, Weight};
use crate::registry::dns::{DnsClient, DnsError, DnsName, Family, Found, Reply, Srv};
use futures_util::stream::{self, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The addresses of targets, as they were when last looked up.
pub(super) type Targets = BTreeMap<DnsName, Vec<IpAddr>>;

/// Targets that are looked up at the same time.
const AT_ONCE: usize = 16;

/// What became of a target.
#[derive(Debug)]
struct Target {
    addresses: Vec<IpAddr>,
    /// What is wrong with it, for people.
    fault: Option<String>,
}

/// From records to endpoints. Only the lowest-numbered priority that has an address is used. A target that cannot be
/// looked up keeps the addresses it had; the others do not suffer from it.
pub(super) async fn resolve(
    client: &DnsClient,
    found: Found<Srv>,
    family: Family,
    known: &Targets,
) -> Result<Seen, DnsError> {
    let mut seen = Seen { ttl: found.ttl, authoritative: found.authoritative, ..Seen::default() };
    let mut groups: BTreeMap<u16, Vec<Srv>> = BTreeMap::new();
    for mut record in found.records.into_iter().filter(|record| !record.target.is_root()) {
        record.addresses.retain(|ip| family.has(ip));
        groups.entry(record.priority).or_default().push(record);
    }
    if groups.is_empty() {
        seen.silence = Some(Silence::Meant);
        seen.skipped.push(Skipped::new(".", "this target means that the service is not available"));
        return Ok(seen);
    }
    let mut failure = None;
    for (priority, group) in groups {
        if !seen.endpoints.is_empty() {
            let reason = format!("priority {priority}: it serves only while lower numbers have no address");
            seen.skipped.extend(group.iter().map(|record| Skipped::new(entry(record), &*reason)));
            let spare = group.into_iter().filter_map(|record| known.get_key_value(&record.target));
            seen.targets.extend(spare.map(|(target, addresses)| (target.clone(), addresses.clone())));
            continue;
        }
        let targets = look_up(client, &group, family, known, &mut seen, &mut failure).await;
        join(&group, &targets, &mut seen);
        let looked = targets.into_iter().filter(|(_, target)| !target.addresses.is_empty());
        seen.targets.extend(looked.map(|(name, target)| (name, target.addresses)));
    }
    seen.skipped.sort();
    if seen.endpoints.is_empty() {
        if let Some(error) = failure {
            return Err(error);
        }
        seen.silence = Some(Silence::Unclear("no target of its service records has an address"));
    }
    Ok(seen)
}

/// The addresses of a group's targets: those that came with the records, else asked for.
async fn look_up(
    client: &DnsClient,
    group: &[Srv],
    family: Family,
    known: &Targets,
    seen: &mut Seen,
    failure: &mut Option<DnsError>,
) -> BTreeMap<DnsName, Target> {
    let mut targets = BTreeMap::new();
    let mut open = BTreeSet::new();
    for record in group {
        if record.addresses.is_empty() {
            open.insert(record.target.clone());
        } else {
            let target = Target { addresses: record.addresses.clone(), fault: None };
            targets.insert(record.target.clone(), target);
        }
    }
    let questions = open.into_iter().map(|name| async move {
        let reply = client.addresses(&name, family).await;
        (name, reply)
    });
    let replies: Vec<_> = stream::iter(questions).buffer_unordered(AT_ONCE).collect().await;
    for (name, reply) in replies {
        let target = match reply {
            Ok(Reply::Found(found)) => {
                seen.ttl = seen.ttl.min(found.ttl);
                seen.authoritative &= found.authoritative;
                Target { addresses: found.records, fault: None }
            }
            Ok(Reply::Absent(absent)) => {
                seen.ttl = seen.ttl.min(absent.ttl);
                // Whose word that is, nobody says.
                seen.authoritative = false;
                Target { addresses: Vec::new(), fault: Some("its target has no address".to_owned()) }
            }
            Err(error) => {
                let addresses = known.get(&name).cloned().unwrap_or_default();
                let kept = if addresses.is_empty() { "" } else { "; the addresses it had are kept" };
                let fault = Some(format!("{error}{kept}"));
                failure.get_or_insert(error);
                Target { addresses, fault }
            }
        };
        targets.insert(name, target);
    }
    targets
}

/// Makes endpoints of a group.
///
/// A weight of 0 stands for "hardly any": beside other weights such an instance is listed and gets no requests, as every
/// weight of 0 does here. Where all weights are 0, there is nothing to choose by, and all are alike (RFC 2782).
fn join(group: &[Srv], targets: &BTreeMap<DnsName, Target>, seen: &mut Seen) {
    let of = |record: &Srv| targets.get(&record.target).map_or(&[][..], |target| &target.addresses);
    let alike = group.iter().all(|record| record.weight == 0 || of(record).is_empty());
    for record in group {
        if record.port == 0 {
            seen.skipped.push(Skipped::new(entry(record), "0 is no port"));
            continue;
        }
        if let Some(fault) = targets.get(&record.target).and_then(|target| target.fault.as_ref()) {
            seen.skipped.push(Skipped::new(entry(record), &**fault));
        }
        let instance = InstanceId::new(entry(record));
        let weight = if alike { Weight::ONE } else { Weight::new(record.weight) };
        seen.endpoints.extend(of(record).iter().map(|ip| Endpoint {
            instance: instance.clone(),
            weight,
            ..Endpoint::at((*ip, record.port).into())
        }));
    }
}

/// What a record is called: `TARGET:PORT`.
fn entry(record: &Srv) -> String {
    format!("{}:{}", record.target, record.port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::dns::{DnsSettings, Servers};
    use std::time::Duration;

    /// Nobody answers there.
    fn client() -> DnsClient {
        DnsClient::new(DnsSettings {
            servers: Servers::Given(vec![([127, 0, 0, 1], 1).into()]),
            timeout: Duration::from_millis(50),
            attempts: 1,
            ..DnsSettings::default()
        })
    }

    fn srv(priority: u16, weight: u16, target: &str, addresses: &[&str]) -> Srv {
        let target = DnsName::new(target).unwrap();
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        Srv { priority, weight, port: 80, target, addresses }
    }

    async fn resolve_all(records: Vec<Srv>, known: &Targets) -> Result<Seen, DnsError> {
        let found = Found { records, ttl: Duration::from_secs(9), authoritative: true };
        resolve(&client(), found, Family::Any, known).await
    }

    fn weights(seen: &Seen) -> Vec<(String, u16)> {
        seen.endpoints.iter().map(|e| (e.instance.to_string(), e.weight.get())).collect()
    }

    #[tokio::test]
    async fn weights_are_taken_as_they_are_unless_all_are_none() {
        let some = [srv(1, 0, "a.", &["10.0.0.1"]), srv(1, 30, "b.", &["10.0.0.2"])];
        let seen = resolve_all(some.to_vec(), &Targets::new()).await.unwrap();
        assert_eq!(weights(&seen), [("a:80".into(), 0), ("b:80".into(), 30)]);
        let none = [srv(1, 0, "a.", &["10.0.0.1"]), srv(1, 0, "b.", &["10.0.0.2", "::2"])];
        let seen = resolve_all(none.to_vec(), &Targets::new()).await.unwrap();
        assert_eq!(weights(&seen), [("a:80".into(), 1), ("b:80".into(), 1), ("b:80".into(), 1)]);
    }

    #[tokio::test]
    async fn only_the_lowest_priority_serves() {
        let records = vec![srv(20, 1, "spare.", &["10.0.0.9"]), srv(10, 1, "a.", &["10.0.0.1"])];
        let seen = resolve_all(records, &Targets::new()).await.unwrap();
        assert_eq!(weights(&seen), [("a:80".into(), 1)]);
        assert_eq!(
            seen.skipped,
            [Skipped::new("spare:80", "priority 20: it serves only while lower numbers have no address")]
        );
    }

    #[tokio::test]
    async fn a_target_that_cannot_be_looked_up_keeps_what_it_had_and_harms_no_other() {
        let records = || vec![srv(1, 1, "a.", &["10.0.0.1"]), srv(1, 1, "lost.", &[])];
        let seen = resolve_all(records(), &Targets::new()).await.unwrap();
        assert_eq!(weights(&seen), [("a:80".into(), 1)]);
        assert!(seen.skipped[0].reason.contains("127.0.0.1:1"), "{:?}", seen.skipped);
        let known = Targets::from([(DnsName::new("lost.").unwrap(), vec!["10.0.0.2".parse().unwrap()])]);
        let seen = resolve_all(records(), &known).await.unwrap();
        assert_eq!(weights(&seen), [("a:80".into(), 1), ("lost:80".into(), 1)]);
        assert!(seen.skipped[0].reason.ends_with("the addresses it had are kept"), "{:?}", seen.skipped);
        assert_eq!(seen.targets.len(), 2, "for the next time");
        let alone = resolve_all(vec![srv(1, 1, "lost.", &[])], &Targets::new()).await;
        assert!(alone.is_err(), "an error is not an empty set");
    }

    #[tokio::test]
    async fn a_port_of_zero_is_none() {
        let zero = Srv { port: 0, ..srv(1, 1, "a.", &["10.0.0.1"]) };
        let seen = resolve_all(vec![zero], &Targets::new()).await.unwrap();
        assert_eq!(seen.skipped, [Skipped::new("a:0", "0 is no port")]);
        assert!(matches!(seen.silence, Some(Silence::Unclear(_))));
    }
}
