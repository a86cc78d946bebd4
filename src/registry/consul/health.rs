//! `GET /v1/health/service/NAME`: the instances of a service, also as a blocking query.

use super::client::Call;
use super::entry::{self, Entry, Unreadable};
use super::{ConsulClient, ConsulError};
use http::{HeaderMap, Method};
use std::time::Duration;

/// Which instances are asked for.
#[derive(Clone, Copy, Debug)]
pub struct HealthQuery<'a> {
    pub service: &'a str,
    /// All of them must be on the instance.
    pub tags: &'a [String],
    pub filter: Option<&'a str>,
    pub dc: Option<&'a str>,
    /// Any server may answer.
    pub stale: bool,
}

/// Makes a query a blocking one: it is held until the index is higher than this, or `wait` is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    pub index: u64,
    pub wait: Duration,
}

/// What Consul says, in a successful answer.
#[derive(Debug)]
pub struct HealthAnswer {
    /// `None` if the header is missing or no number.
    pub index: Option<u64>,
    pub known_leader: bool,
    /// How long ago the answering server heard from the leader.
    pub last_contact: Option<Duration>,
    /// The token's rights kept something back (Consul 1.11 and later say so).
    pub filtered_by_acls: bool,
    pub entries: Vec<Result<Entry, Unreadable>>,
}

impl ConsulClient {
    /// How long an agent may take beyond the hold: a query without leader is held 7 s, a frozen leader is noticed
    /// after 12 s.
    const SLACK: Duration = Duration::from_secs(15);

    /// Asks one agent for the instances of a service, whatever their health.
    ///
    /// # Errors
    /// Everything but a whole, successful, well-formed answer.
    pub async fn health(
        &self,
        agent: usize,
        query: &HealthQuery<'_>,
        hold: Option<Hold>,
    ) -> Result<HealthAnswer, ConsulError> {
        let path = ["v1", "health", "service", query.service];
        let call = Call {
            method: Method::GET,
            path: &path,
            query: query.pairs(hold),
            body: Vec::new(),
            deadline: deadline(hold),
        };
        let reply = self.call(agent, call).await?;
        let entries = entry::list(&reply.body).map_err(|e| ConsulError::Exchange {
            agent: reply.agent,
            problem: format!("the answer is no list of instances: {e}"),
        })?;
        Ok(HealthAnswer {
            index: number(&reply.headers, "X-Consul-Index"),
            known_leader: is_true(&reply.headers, "X-Consul-KnownLeader"),
            last_contact: number(&reply.headers, "X-Consul-LastContact").map(Duration::from_millis),
            filtered_by_acls: is_true(&reply.headers, "X-Consul-Results-Filtered-By-ACLs"),
            entries,
        })
    }
}

impl HealthQuery<'_> {
    fn pairs(&self, hold: Option<Hold>) -> Vec<(&'static str, String)> {
        let mut pairs: Vec<_> = self.tags.iter().map(|tag| ("tag", tag.clone())).collect();
        pairs.extend(self.filter.map(|filter| ("filter", filter.to_owned())));
        pairs.extend(self.dc.map(|dc| ("dc", dc.to_owned())));
        if self.stale {
            pairs.push(("stale", String::new()));
        }
        if let Some(Hold { index, wait }) = hold {
            pairs.push(("index", index.to_string()));
            pairs.push(("wait", format!("{}ms", wait.as_millis())));
        }
        pairs
    }
}

/// Consul adds up to a sixteenth to the wait, to spread the herd (API documentation, "Blocking Queries").
fn deadline(hold: Option<Hold>) -> Duration {
    let wait = hold.map_or(Duration::ZERO, |hold| hold.wait);
    wait + wait / 16 + ConsulClient::SLACK
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

pub(super) fn is_true(headers: &HeaderMap, name: &str) -> bool {
    headers.get(name).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_asks_for_everything_it_was_told_and_nothing_else() {
        let tags = ["blue".to_owned(), "v 2".to_owned()];
        let query = HealthQuery { service: "web", tags: &[], filter: None, dc: None, stale: false };
        assert_eq!(query.pairs(None), []);
        let query =
            HealthQuery { tags: &tags, filter: Some("a == b"), dc: Some("dc2"), stale: true, ..query };
        let hold = Hold { index: 7, wait: Duration::from_secs(30) };
        let pairs = query.pairs(Some(hold));
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let expected =
            ["tag=blue", "tag=v 2", "filter=a == b", "dc=dc2", "stale=", "index=7", "wait=30000ms"];
        assert_eq!(pairs, expected);
    }

    #[test]
    fn the_deadline_outlasts_every_lawful_hold() {
        assert_eq!(deadline(None), Duration::from_secs(15));
        let hold = Hold { index: 1, wait: Duration::from_secs(32) };
        assert_eq!(deadline(Some(hold)), Duration::from_secs(32 + 2 + 15));
    }
}
