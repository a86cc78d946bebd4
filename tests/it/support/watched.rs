//! A Consul source as it runs in the sidecar, and what it published.

use super::eventually;
use outrigger::discovery::consul::Consul;
use outrigger::discovery::{Answer, ConsulQuery, Feed, StatusView, WatchSettings, watch};
use outrigger::model::{Endpoint, ServiceName, Standing};
use outrigger::registry::consul::ConsulSettings;
use outrigger::rt::Tasks;
use outrigger::telemetry::Events;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Generous: the machine may be busy. What is asserted of speed is asserted elsewhere.
pub const SOON: Duration = Duration::from_secs(10);

pub fn rng() -> SmallRng {
    SmallRng::seed_from_u64(7)
}

pub fn source(settings: ConsulSettings, query: ConsulQuery) -> Consul {
    Consul::new(settings, query, rng()).unwrap()
}

/// The source as it runs in the sidecar, and every answer that it published.
pub struct Watched {
    pub tasks: Tasks,
    pub feed: Feed,
    pub seen: Vec<Arc<Answer>>,
}

pub fn watched(settings: ConsulSettings, query: ConsulQuery) -> Watched {
    let tasks = Tasks::new(Events::default());
    let name = ServiceName::new("web").unwrap();
    let source = source(settings, query);
    let feed = watch(&tasks, name, "consul:web".into(), source, WatchSettings::default(), rng());
    Watched { tasks, feed, seen: Vec::new() }
}

impl Watched {
    /// Waits for an answer of which `check` is true; all answers on the way are kept in `seen`.
    pub async fn sees(&mut self, what: &str, check: impl Fn(&Answer) -> bool) -> Arc<Answer> {
        let search = async {
            loop {
                let newest = self.feed.answers.borrow_and_update().clone();
                if let Some(answer) = newest {
                    self.seen.push(Arc::clone(&answer));
                    if check(&answer) {
                        return answer;
                    }
                }
                self.feed.answers.changed().await.expect("the watch runs");
            }
        };
        match tokio::time::timeout(SOON, search).await {
            Ok(answer) => answer,
            Err(_) => panic!("not seen: {what}; last: {:#?}; {:?}", self.seen.last(), self.status()),
        }
    }

    pub async fn sees_addrs(&mut self, addrs: &[&str]) -> Arc<Answer> {
        self.sees(&format!("{addrs:?}"), |answer| addrs_of(answer) == addrs).await
    }

    pub async fn fails(&self, what: &str) -> String {
        eventually(what, SOON, async || {
            let view = self.status();
            view.failing_for.and(view.last_error).map(|error| error.to_string())
        })
        .await
    }

    pub fn status(&self) -> StatusView {
        self.feed.status.view(Instant::now())
    }

    pub fn kept(&self) -> Vec<String> {
        self.feed.answers.borrow().as_deref().map(addrs_of).unwrap_or_default()
    }
}

pub fn addrs_of(answer: &Answer) -> Vec<String> {
    answer.set.iter().map(|e| e.addr.to_string()).collect()
}

pub fn by_id<'a>(answer: &'a Answer, id: &str) -> Option<&'a Endpoint> {
    answer.set.iter().find(|e| e.instance.as_str() == id)
}

/// `passing`, the reason for lost (named so) or critical, or `missing`.
pub fn standing(answer: &Answer, id: &str) -> String {
    match by_id(answer, id).map(|e| &e.standing) {
        None => "missing".into(),
        Some(Standing::Passing) => "passing".into(),
        Some(Standing::Lost(reason)) => format!("lost: {reason}"),
        Some(Standing::Critical(reason)) => reason.to_string(),
    }
}
