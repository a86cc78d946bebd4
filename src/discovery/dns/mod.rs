//! DNS as a source: A, AAAA and SRV records, asked for again when their lifetime is over.
//!
//! DNS has no history that could be followed, so an answer is judged by who gives it. The zone's own server is believed
//! when it takes addresses away. A resolver may only have forgotten, and "no such name" is what many a failure looks
//! like: these are doubtful. A failure that says so is no answer at all.

mod services;

use super::{Answer, Discover, DiscoverError, DnsQuery, Records, Skipped, Trust};
use crate::model::{Endpoint, EndpointSet};
use crate::registry::dns::{Absent, DnsClient, DnsError, DnsName, DnsSettings, Reply};
use services::Targets;
use std::time::Duration;
use tokio::time::Instant;

/// The instances behind one name.
#[derive(Debug)]
pub struct Dns {
    client: DnsClient,
    query: DnsQuery,
    /// The whole name that had records last: it is asked for first, not every search domain each time.
    found: Option<DnsName>,
    /// What the targets of service records were last.
    targets: Targets,
    /// When the last answer runs out; `None` asks at once.
    due: Option<Instant>,
    /// The last answer's set.
    last: EndpointSet,
    /// An error came after the last answer.
    broken: bool,
}

/// What one look at DNS came to.
#[derive(Debug)]
struct Seen {
    endpoints: Vec<Endpoint>,
    skipped: Vec<Skipped>,
    ttl: Duration,
    /// Servers of the zones themselves said all of it.
    authoritative: bool,
    /// Why there is no endpoint, if there is none.
    silence: Option<Silence>,
    targets: Targets,
    /// The whole name that has the records.
    name: Option<DnsName>,
}

/// What it means that there is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    /// A record says in so many words that the service is not available.
    Meant,
    Unclear(&'static str),
}

impl Dns {
    /// Between the starts of two looks, whatever lifetimes and losses ask for.
    const PACE: Duration = Duration::from_secs(1);

    pub fn new(settings: DnsSettings, query: DnsQuery) -> Self {
        Self {
            client: DnsClient::new(settings),
            query,
            found: None,
            targets: Targets::default(),
            due: None,
            last: EndpointSet::default(),
            broken: false,
        }
    }

    /// Looks at the name that had records last, then at all that it may stand for. If none of them has any, an error at
    /// one of them counts: the records may be there.
    async fn look(&self) -> Result<Seen, DnsError> {
        let mut nothing: Option<Absent> = None;
        let mut failure = None;
        if let Some(name) = &self.found {
            match self.look_at(name).await? {
                Ok(seen) => return Ok(seen),
                Err(absent) => nothing = Some(absent),
            }
        }
        for name in self.client.candidates(&self.query.name).await? {
            if self.found.as_ref() == Some(&name) {
                continue;
            }
            match self.look_at(&name).await {
                Ok(Ok(seen)) => return Ok(seen),
                Ok(Err(absent)) => nothing = Some(nothing.map_or(absent, |other| neither(other, absent))),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        match (failure, nothing) {
            (Some(error), _) => Err(error),
            (None, nothing) => Ok(Seen::nothing(nothing)),
        }
    }

    /// Looks at one whole name; the inner error is a "no".
    async fn look_at(&self, name: &DnsName) -> Result<Result<Seen, Absent>, DnsError> {
        let family = self.query.family;
        let seen = match self.query.records {
            Records::Addresses { port } => match self.client.addresses(name, family).await? {
                Reply::Absent(absent) => return Ok(Err(absent)),
                Reply::Found(found) => Seen {
                    endpoints: found.records.iter().map(|ip| Endpoint::at((*ip, port).into())).collect(),
                    ttl: found.ttl,
                    authoritative: found.authoritative,
                    ..Seen::default()
                },
            },
            Records::Services => match self.client.services(name).await? {
                Reply::Absent(absent) => return Ok(Err(absent)),
                Reply::Found(found) => services::resolve(&self.client, found, family, &self.targets).await?,
            },
        };
        Ok(Ok(Seen { name: Some(name.clone()), ..seen }))
    }

    fn answer(&mut self, seen: Seen, now: Instant) -> Answer {
        let set = EndpointSet::new(seen.endpoints);
        let trust = match seen.silence {
            Some(Silence::Meant) => Trust::Trusted,
            Some(Silence::Unclear(why)) => Trust::Doubtful(why),
            None if covers(&set, &self.last) => Trust::Trusted,
            None if self.broken => Trust::Doubtful("the first answer after an error"),
            None if self.found.is_some() && seen.name != self.found => {
                Trust::Doubtful("another search domain has the name now")
            }
            None if !seen.authoritative => Trust::Doubtful("a resolver says so, not the zone's own server"),
            None => Trust::Trusted,
        };
        let (min, max) = (self.query.min_ttl, self.query.max_ttl);
        self.due = Some(now + seen.ttl.min(max).max(min));
        self.broken = false;
        self.last = set.clone();
        if seen.name.is_some() {
            self.found = seen.name;
            self.targets = seen.targets;
        }
        let hint = match seen.silence {
            Some(Silence::Unclear(why)) => Some(format!("{}: {why}", self.query.name)),
            Some(Silence::Meant) | None => None,
        };
        Answer { set, skipped: seen.skipped, trust, position: None, hint }
    }
}

impl Discover for Dns {
    async fn next(&mut self) -> Result<Answer, DiscoverError> {
        // Nothing of `self` changes before the last await is over: a dropped call has only cost questions.
        if let Some(due) = self.due {
            tokio::time::sleep_until(due).await;
        }
        match self.look().await {
            Ok(seen) => Ok(self.answer(seen, Instant::now())),
            Err(error) => {
                self.broken = true;
                self.due = None;
                Err(DiscoverError::Failed(error.to_string()))
            }
        }
    }

    fn rewind(&mut self) {
        self.due = None;
    }

    fn pace(&self, _last: Option<&EndpointSet>) -> Duration {
        Self::PACE
    }
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            skipped: Vec::new(),
            ttl: Duration::MAX,
            authoritative: true,
            silence: None,
            targets: Targets::default(),
            name: None,
        }
    }
}

impl Seen {
    fn nothing(absent: Option<Absent>) -> Self {
        let why = match absent {
            Some(Absent { no_name: false, .. }) => "the name has no such records",
            _ => "there is no such name (NXDOMAIN)",
        };
        let ttl = absent.map_or(Duration::ZERO, |absent| absent.ttl);
        Self { ttl, silence: Some(Silence::Unclear(why)), ..Self::default() }
    }
}

/// Neither of two names has anything.
fn neither(one: Absent, other: Absent) -> Absent {
    Absent { no_name: one.no_name && other.no_name, ttl: one.ttl.min(other.ttl) }
}

/// Whether none of the addresses of `old` is missing.
fn covers(set: &EndpointSet, old: &EndpointSet) -> bool {
    old.iter().all(|endpoint| set.binary_search_by_key(&endpoint.addr, |e| e.addr).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Dns {
        let name = DnsName::new("web.example.").unwrap();
        Dns::new(DnsSettings::default(), DnsQuery::new(name, Records::Addresses { port: 80 }))
    }

    fn seen(hosts: &[u8], authoritative: bool) -> Seen {
        Seen {
            endpoints: hosts.iter().map(|host| Endpoint::at(([10, 0, 0, *host], 80).into())).collect(),
            authoritative,
            ttl: Duration::from_secs(10),
            name: Some(DnsName::new("web.example.").unwrap()),
            ..Seen::default()
        }
    }

    fn hear(source: &mut Dns, seen: Seen) -> Trust {
        source.answer(seen, Instant::now()).trust
    }

    const RESOLVER: Trust = Trust::Doubtful("a resolver says so, not the zone's own server");

    #[test]
    fn the_zones_own_server_is_believed_when_it_takes_addresses_away() {
        let mut source = source();
        assert_eq!(hear(&mut source, seen(&[1, 2, 3], true)), Trust::Trusted);
        assert_eq!(hear(&mut source, seen(&[1], true)), Trust::Trusted);
        assert_eq!(hear(&mut source, seen(&[4], true)), Trust::Trusted);
    }

    #[test]
    fn a_resolver_is_asked_twice_about_a_loss() {
        let mut source = source();
        assert_eq!(hear(&mut source, seen(&[1, 2, 3], false)), Trust::Trusted, "there was nothing to lose");
        assert_eq!(hear(&mut source, seen(&[3, 1, 2, 4], false)), Trust::Trusted, "nothing is lost");
        assert_eq!(hear(&mut source, seen(&[1, 2, 3], false)), RESOLVER);
        assert_eq!(hear(&mut source, seen(&[1, 2, 3], false)), Trust::Trusted, "it says so again");
    }

    #[test]
    fn a_loss_after_an_error_or_by_another_search_domain_is_doubtful_whoever_tells_it() {
        let mut source = source();
        hear(&mut source, seen(&[1, 2], true));
        source.broken = true;
        assert_eq!(hear(&mut source, seen(&[1], true)), Trust::Doubtful("the first answer after an error"));
        assert_eq!(hear(&mut source, seen(&[], true)), Trust::Trusted, "only the first");
        hear(&mut source, seen(&[1, 2], true));
        let other = Seen { name: Some(DnsName::new("web.other.").unwrap()), ..seen(&[7], true) };
        assert!(matches!(hear(&mut source, other), Trust::Doubtful(_)));
    }

    #[test]
    fn nothing_at_all_is_never_trusted_unless_a_record_says_it() {
        let mut source = source();
        hear(&mut source, seen(&[1, 2], true));
        for (no_name, said) in [(true, "no such name (NXDOMAIN)"), (false, "no such records")] {
            let absent = Absent { no_name, ttl: Duration::from_secs(5) };
            let trust = hear(&mut source, Seen::nothing(Some(absent)));
            assert!(matches!(trust, Trust::Doubtful(why) if why.contains(said)), "{trust:?}");
        }
        let meant = Seen { silence: Some(Silence::Meant), ..seen(&[], false) };
        assert_eq!(hear(&mut source, meant), Trust::Trusted);
    }

    #[tokio::test(start_paused = true)]
    async fn lifetimes_are_kept_within_their_bounds() {
        let mut source = source();
        for (ttl, waits) in [(0, 1), (10, 10), (86_400, 30)] {
            let now = Instant::now();
            source.answer(Seen { ttl: Duration::from_secs(ttl), ..seen(&[1], true) }, now);
            assert_eq!(source.due, Some(now + Duration::from_secs(waits)), "{ttl}");
        }
        source.rewind();
        assert_eq!(source.due, None);
    }
}
