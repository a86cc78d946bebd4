//! Consul as a source: the health API by blocking queries, under distrust.
//!
//! Consul says "no instances" for many reasons: it forgot them, the token lost a right, nobody is there. Only the
//! history of its index tells them apart; `history` holds those rules, `instance` reads single entries.

#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod history;
mod instance;

use super::{Answer, ConsulQuery, Discover, DiscoverError, Skipped};
use crate::model::EndpointSet;
use crate::net::stamp::Stamp;
use crate::registry::consul::{
    ConsulClient, ConsulError, ConsulSettings, HealthAnswer, HealthQuery, Hold, Refusal,
};
use history::{History, Reading};
use rand::RngExt;
use rand::rngs::SmallRng;
use std::time::Duration;
use tokio::time::Instant;

/// The instances of one service, as Consul knows them.
#[derive(Debug)]
pub struct Consul {
    client: ConsulClient,
    query: ConsulQuery,
    /// Number of the agent in use; 0 is the preferred one.
    agent: usize,
    history: History,
    /// The last hold ran its whole time, so that no pause lies between it and the next question.
    settled: bool,
    /// The token's file as it was at the last question.
    token: Stamp,
    /// Whether Consul enforces ACLs, as far as it has said.
    acls: Option<bool>,
    /// When to ask for everything again, index or not.
    reread_at: Instant,
    /// Spreads the re-reads of many sidecars.
    rng: SmallRng,
}

impl Consul {
    /// Between the starts of two questions ...
    const PACE: Duration = Duration::from_millis(100);
    /// ... and while there is no instance: Consul then wakes us for every change of any service.
    const PACE_EMPTY: Duration = Duration::from_secs(1);
    /// The first hold after a pause ends this soon. An agent that restarted within the pause counts its index from the
    /// beginning, and hides all changes from whoever asks with the old one for as long as the hold lasts.
    const FIRST_HOLD: Duration = Duration::from_secs(2);
    /// For a look whether a preferred agent works again.
    const LOOK: Duration = Duration::from_secs(2);
    /// A server that has not heard of its leader for longer tells old news.
    const OLD_NEWS: Duration = Duration::from_secs(10);

    /// # Errors
    /// If the settings cannot work: no address, an unusable TLS file.
    pub fn new(settings: ConsulSettings, query: ConsulQuery, rng: SmallRng) -> Result<Self, ConsulError> {
        let client = ConsulClient::new(settings)?;
        let mut source = Self {
            client,
            query,
            agent: 0,
            history: History::default(),
            settled: false,
            token: Stamp::default(),
            acls: None,
            reread_at: Instant::now(),
            rng,
        };
        source.plan_reread(Instant::now());
        Ok(source)
    }

    async fn ask(&self, agent: usize, hold: Option<Hold>) -> Result<HealthAnswer, ConsulError> {
        let query = HealthQuery {
            service: &self.query.service,
            tags: &self.query.tags,
            filter: self.query.filter.as_deref(),
            dc: self.query.dc.as_deref(),
            stale: self.query.stale,
        };
        self.client.health(agent, &query, hold).await
    }

    /// The first agent before the one in use that answers again.
    async fn preferred(&self) -> Option<(usize, HealthAnswer)> {
        for agent in 0..self.agent {
            if let Ok(Ok(answer)) = tokio::time::timeout(Self::LOOK, self.ask(agent, None)).await {
                return Some((agent, answer));
            }
        }
        None
    }

    fn take(
        &mut self,
        answer: HealthAnswer,
        hold: Option<Hold>,
        took: Duration,
    ) -> Result<Answer, DiscoverError> {
        let now = Instant::now();
        let denied = self.acls == Some(true) && self.history.looks_denied(answer.index);
        if answer.entries.is_empty() && (answer.filtered_by_acls || denied) {
            self.history.deny();
            return Err(DiscoverError::Refused(format!(
                "Consul's ACLs hide every instance of {:?} from this token; {}",
                self.query.service,
                permission(&self.query.service)
            )));
        }
        if hold.is_none() {
            self.plan_reread(now);
        }
        let (mut endpoints, mut skipped) = (Vec::new(), Vec::new());
        for entry in answer.entries {
            match entry {
                Ok(entry) => match instance::read(entry, self.query.warning) {
                    Ok(endpoint) => endpoints.push(endpoint),
                    Err(entry) => skipped.push(entry),
                },
                Err(entry) => skipped.push(Skipped::new(entry.entry, entry.reason)),
            }
        }
        skipped.sort();
        let set = EndpointSet::new(endpoints);
        let reading = Reading {
            index: answer.index,
            asked: hold.map(|hold| hold.index),
            early: hold.is_some_and(|hold| took < hold.wait),
            known_leader: answer.known_leader,
            filtered: answer.filtered_by_acls,
        };
        self.settled = hold.is_some() && !reading.early;
        let trust = self.history.judge(&reading, &set, now);
        let nobody = set.is_empty() && skipped.is_empty();
        let hint = self.hint(nobody, answer.known_leader, answer.last_contact);
        // An index that is missing counts as 1.
        let position = Some(answer.index.unwrap_or(1).max(1));
        Ok(Answer { set, skipped, trust, position, hint })
    }

    /// What may be wrong although Consul answers.
    fn hint(&self, nobody: bool, known_leader: bool, last_contact: Option<Duration>) -> Option<String> {
        let contact = last_contact.unwrap_or_default();
        if !known_leader || contact > Self::OLD_NEWS {
            let known = if known_leader { "an old answer" } else { "no cluster leader" };
            return Some(format!("{known}: the server heard a leader {:.1} s ago", contact.as_secs_f32()));
        }
        if !nobody || self.acls != Some(true) {
            return None;
        }
        let given = if self.client.has_token() { "" } else { "no token is given and " };
        Some(format!("no instances or no permission: {given}{}", permission(&self.query.service)))
    }

    fn fail(&mut self, error: &ConsulError) -> DiscoverError {
        self.history.fail();
        self.settled = false;
        if error.is_of_the_agent() {
            self.agent = (self.agent + 1).checked_rem(self.client.agents()).unwrap_or(0);
            // What has just failed need not be looked at again before the next one is asked.
            self.plan_reread(Instant::now());
        }
        match error.refusal() {
            None => DiscoverError::Failed(error.to_string()),
            Some(refusal) => DiscoverError::Refused(format!("{error}; {}", self.mend(refusal))),
        }
    }

    fn mend(&self, refusal: Refusal) -> String {
        match refusal {
            Refusal::Permission => permission(&self.query.service),
            Refusal::Filter => "the filter must be mended".into(),
            Refusal::Datacenter => {
                format!("Consul knows no datacenter {:?}", self.query.dc.as_deref().unwrap_or(""))
            }
            Refusal::Request => "the source's settings must be mended".into(),
        }
    }

    fn plan_reread(&mut self, now: Instant) {
        self.reread_at = now + self.query.reread.mul_f64(self.rng.random_range(0.8..1.2));
    }
}

fn permission(service: &str) -> String {
    format!("a token needs service:read on {service:?} and node:read on its nodes")
}

impl Discover for Consul {
    async fn next(&mut self) -> Result<Answer, DiscoverError> {
        // Nothing that tells one answer from another changes before the last await is over: a dropped call has only
        // cost a request.
        let started = Instant::now();
        let due = started >= self.reread_at;
        if due && let Some((agent, answer)) = self.preferred().await {
            self.agent = agent;
            return self.take(answer, None, started.elapsed());
        }
        let index = self.history.index().filter(|_| !due);
        let wait = if self.settled { self.query.wait } else { self.query.wait.min(Self::FIRST_HOLD) };
        let mut hold = index.map(|index| Hold { index, wait });
        loop {
            self.token = self.client.token_stamp().await;
            let asked = Instant::now();
            let answer = tokio::select! {
                answer = self.ask(self.agent, hold) => answer,
                // What the old token may not see cannot wake a query that it holds.
                () = self.client.token_changed(&self.token) => {
                    hold = None;
                    continue;
                }
            };
            let took = asked.elapsed();
            return match answer {
                Ok(answer) => {
                    if answer.entries.is_empty() && self.acls.is_none() {
                        // Who does not say is asked with the next empty answer.
                        self.acls = self.client.has_acls(self.agent).await.ok();
                    }
                    self.take(answer, hold, took)
                }
                Err(error) => Err(self.fail(&error)),
            };
        }
    }

    async fn mended(&mut self) {
        self.client.token_changed(&self.token).await;
    }

    fn rewind(&mut self) {
        self.history.forget_index();
    }

    fn pace(&self, last: Option<&EndpointSet>) -> Duration {
        if last.is_some_and(|set| set.is_empty()) { Self::PACE_EMPTY } else { Self::PACE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::TlsFiles;
    use crate::registry::consul::{Entry, Unreadable};
    use rand::SeedableRng;

    fn source() -> Consul {
        let address = |port| url::Url::parse(&format!("http://127.0.0.1:{port}")).unwrap();
        let settings = ConsulSettings {
            addresses: vec![address(1), address(2)],
            token: None,
            tls: TlsFiles::default(),
            namespace: None,
        };
        Consul::new(settings, ConsulQuery::new("web"), SmallRng::seed_from_u64(1)).unwrap()
    }

    fn answer(entries: Vec<Result<Entry, Unreadable>>, filtered_by_acls: bool) -> HealthAnswer {
        HealthAnswer { index: Some(9), known_leader: true, last_contact: None, filtered_by_acls, entries }
    }

    #[test]
    fn an_empty_list_that_acls_emptied_is_a_refusal() {
        // The header exists since Consul 1.11 only, so no server of the tests sends it.
        let error = source().take(answer(Vec::new(), true), None, Duration::ZERO).unwrap_err();
        assert!(matches!(&error, DiscoverError::Refused(text) if text.contains("node:read")), "{error}");
        let unreadable = Unreadable { entry: "a".into(), reason: "shape".into() };
        let some = source().take(answer(vec![Err(unreadable)], true), None, Duration::ZERO).unwrap();
        assert_eq!(some.skipped, [Skipped::new("a", "shape")]);
        assert!(matches!(some.trust, super::super::Trust::Doubtful(_)));
    }

    #[test]
    fn a_list_that_empties_without_its_index_is_a_refusal_where_acls_are_enforced() {
        for (acls, refused) in [(None, false), (Some(false), false), (Some(true), true)] {
            let mut source = source();
            let one = Unreadable { entry: "a".into(), reason: "shape".into() };
            let entry = crate::registry::consul::Entry {
                node: serde_json::from_str("{\"Node\": \"n1\", \"Address\": \"127.0.0.1\"}").unwrap(),
                service: serde_json::from_str("{\"ID\": \"w\", \"Service\": \"web\", \"Port\": 81}").unwrap(),
                checks: Vec::new(),
            };
            source.take(answer(vec![Ok(entry), Err(one)], false), None, Duration::ZERO).unwrap();
            source.acls = acls;
            let empty = source.take(answer(Vec::new(), false), None, Duration::ZERO);
            assert_eq!(matches!(empty, Err(DiscoverError::Refused(_))), refused, "{acls:?}: {empty:?}");
        }
    }

    #[test]
    fn the_next_agent_is_for_faults_of_this_one_only() {
        let mut source = source();
        let refused = ConsulError::Status { agent: "a".into(), status: 403, text: "ACL not found".into() };
        let error = source.fail(&refused);
        assert!(
            matches!(&error, DiscoverError::Refused(text) if text.contains("ACL not found; a token needs"))
        );
        assert_eq!(source.agent, 0);
        let broken = ConsulError::Exchange { agent: "a".into(), problem: "cut".into() };
        source.reread_at = Instant::now();
        assert!(matches!(source.fail(&broken), DiscoverError::Failed(_)));
        assert_eq!(source.agent, 1);
        assert!(source.reread_at > Instant::now(), "the preferred one is left alone for now");
        source.fail(&broken);
        assert_eq!(source.agent, 0, "and round again");
    }

    #[test]
    fn an_empty_service_is_asked_for_seldom() {
        let source = source();
        assert_eq!(source.pace(None), Duration::from_millis(100));
        assert_eq!(source.pace(Some(&EndpointSet::default())), Duration::from_secs(1));
    }

    #[test]
    fn re_reads_are_spread() {
        let mut source = source();
        let now = Instant::now();
        for _ in 0..100 {
            source.plan_reread(now);
            let after = source.reread_at - now;
            assert!((240..=360).contains(&after.as_secs()), "{after:?}");
        }
    }

    #[test]
    fn what_may_be_wrong_is_said_beside_the_answer() {
        let mut source = source();
        let heard = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(source.hint(true, true, heard(0)), None, "without ACLs nobody means nobody");
        let leaderless = source.hint(false, false, heard(40)).unwrap();
        assert!(
            leaderless.contains("no cluster leader") && leaderless.contains("40.0 s ago"),
            "{leaderless}"
        );
        assert!(source.hint(false, true, heard(11)).unwrap().contains("old answer"));
        source.acls = Some(true);
        assert_eq!(source.hint(false, true, heard(1)), None);
        let hint = source.hint(true, true, None).unwrap();
        assert!(hint.contains("no token is given") && hint.contains("node:read"), "{hint}");
    }
}
