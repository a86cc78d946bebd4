//! The agent's own list of services: register, report health, look, deregister.

use super::client::{Call, Reply};
use super::health::is_true;
use super::{ConsulClient, ConsulError};
use http::Method;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What the agent is told of a service. An identical registration changes nothing and moves no index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AgentService {
    #[serde(rename = "ID")]
    pub id: String,
    pub name: String,
    pub address: String,
    pub port: u16,
    pub tags: Vec<String>,
    pub meta: BTreeMap<String, String>,
    pub weights: AgentWeights,
    pub check: AgentCheck,
}

/// 1 to 65535: Consul takes no 0 for a passing instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AgentWeights {
    pub passing: u16,
    pub warning: u16,
}

/// The one check of a service; the agent calls it `service:ID`. Times are in Go's notation, such as `15000ms`.
///
/// It has no note: a note is output, and whoever changes a check's output wakes every watcher of the service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AgentCheck {
    pub status: &'static str,
    pub deregister_critical_service_after: String,
    /// Critical unless somebody reports in time.
    #[serde(rename = "TTL", skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// Or the agent asks by itself.
    #[serde(rename = "HTTP", skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub header: BTreeMap<String, Vec<String>>,
    /// `host:port`, or `host:port/service`.
    #[serde(rename = "GRPC", skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
    #[serde(rename = "TCP", skip_serializing_if = "Option::is_none")]
    pub tcp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

/// A service as the agent has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AgentEntry {
    pub service: String,
    #[serde(default)]
    pub address: String,
    #[serde(default)]
    pub port: i64,
}

/// What is reported of a service with a TTL check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    Pass,
    Fail,
}

/// What the agent made of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beat {
    Heard,
    /// It knows no such service, or not with such a check; its words.
    Unknown(String),
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "ServiceID")]
    id: String,
    #[serde(rename = "ServiceAddress", default)]
    address: String,
    #[serde(rename = "ServicePort", default)]
    port: i64,
}

impl Listed {
    fn is(&self, id: &str, addr: SocketAddr) -> bool {
        self.id == id
            && self.port == i64::from(addr.port())
            && self.address.parse::<IpAddr>().is_ok_and(|ip| ip == addr.ip())
    }
}

impl ConsulClient {
    /// The only agent that is registered at: an entry at a second one would be a second entry.
    const HOME: usize = 0;
    /// For one call to the agent about its own list. It tries to tell the servers before it answers, and without a
    /// leader gives up only after 7.2 s (Consul 1.8); other calls wait meanwhile.
    const AGENT_DEADLINE: Duration = Duration::from_secs(10);

    /// Registers a service, or changes it. Checks that it had before and that are not in this one go away.
    ///
    /// # Errors
    /// Everything but success.
    pub async fn register(&self, service: &AgentService) -> Result<(), ConsulError> {
        let body = serde_json::to_vec(service)
            .map_err(|error| ConsulError::Settings(format!("the registration is no JSON: {error}")))?;
        let query = vec![("replace-existing-checks", "true".to_owned())];
        let path = ["v1", "agent", "service", "register"];
        self.agent(Method::PUT, &path, query, body).await.map(|_| ())
    }

    /// Takes a service away; it need not be there.
    ///
    /// # Errors
    /// Everything but success.
    pub async fn deregister(&self, id: &str) -> Result<(), ConsulError> {
        let path = ["v1", "agent", "service", "deregister", id];
        match self.agent(Method::PUT, &path, Vec::new(), Vec::new()).await {
            // So say versions from 1.9 on.
            Err(ConsulError::Status { status: 404, .. }) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The service of this id at the agent, if there is one.
    ///
    /// # Errors
    /// Everything but a readable answer.
    pub async fn service(&self, id: &str) -> Result<Option<AgentEntry>, ConsulError> {
        let path = ["v1", "agent", "service", id];
        let reply = match self.agent(Method::GET, &path, Vec::new(), Vec::new()).await {
            Err(ConsulError::Status { status: 404, .. }) => return Ok(None),
            reply => reply?,
        };
        let unreadable = |error: serde_json::Error| ConsulError::Exchange {
            agent: reply.agent.clone(),
            problem: format!("the answer is no service: {error}"),
        };
        serde_json::from_slice(&reply.body).map(Some).map_err(unreadable)
    }

    /// Reports the health of a service with a TTL check, which starts the TTL anew.
    ///
    /// # Errors
    /// Everything but success and "no such check".
    pub async fn report(&self, id: &str, report: Report) -> Result<Beat, ConsulError> {
        let check = format!("service:{id}");
        let word = match report {
            Report::Pass => "pass",
            Report::Fail => "fail",
        };
        match self.agent(Method::PUT, &["v1", "agent", "check", word, &check], Vec::new(), Vec::new()).await {
            Ok(_) => Ok(Beat::Heard),
            Err(ConsulError::Status { status, text, .. }) if knows_no_check(status, &text) => {
                Ok(Beat::Unknown(text))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the servers' catalogue has the service at this address: other nodes may have the same id. Any of them may answer: what is in a stale answer is there; what is
    /// not, is missing only if a leader is known, and else `None`.
    ///
    /// # Errors
    /// Everything but a readable answer.
    pub async fn is_in_catalogue(
        &self,
        name: &str,
        id: &str,
        addr: SocketAddr,
    ) -> Result<Option<bool>, ConsulError> {
        let query = vec![("stale", String::new()), ("filter", format!("ServiceID == {id:?}"))];
        let reply = self.agent(Method::GET, &["v1", "catalog", "service", name], query, Vec::new()).await?;
        let listed: Vec<Listed> =
            serde_json::from_slice(&reply.body).map_err(|error| ConsulError::Exchange {
                agent: reply.agent.clone(),
                problem: format!("the answer is no list of services: {error}"),
            })?;
        let found = listed.iter().any(|entry| entry.is(id, addr));
        Ok((found || is_true(&reply.headers, "X-Consul-KnownLeader")).then_some(found))
    }

    async fn agent(
        &self,
        method: Method,
        path: &[&str],
        query: Vec<(&'static str, String)>,
        body: Vec<u8>,
    ) -> Result<Reply, ConsulError> {
        let call = Call { method, path, query, body, deadline: Self::AGENT_DEADLINE };
        self.call(Self::HOME, call).await
    }
}

/// Consul 1.8 says 500 and `CheckID "…" does not have associated TTL`; newer ones say 404 `Unknown check ID`.
fn knows_no_check(status: u16, text: &str) -> bool {
    status == 404 || (status == 500 && (text.contains("associated TTL") || text.contains("nknown check")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_id_at_another_address_is_another_service() {
        let text = r#"{"ServiceID": "web-1", "ServiceAddress": "10.0.0.1", "ServicePort": 80}"#;
        let listed: Listed = serde_json::from_str(text).unwrap();
        assert!(listed.is("web-1", ([10, 0, 0, 1], 80).into()));
        for (id, addr) in [("web-2", [10, 0, 0, 1]), ("web-1", [10, 0, 0, 2])] {
            assert!(!listed.is(id, (addr, 80).into()));
        }
        assert!(!listed.is("web-1", ([10, 0, 0, 1], 81).into()));
    }

    #[test]
    fn a_registration_is_what_the_agent_reads() {
        let service = AgentService {
            id: "web-1".into(),
            name: "web".into(),
            address: "10.0.0.1".into(),
            port: 80,
            tags: vec!["a".into()],
            meta: [("v".to_owned(), "2".to_owned())].into(),
            weights: AgentWeights { passing: 3, warning: 1 },
            check: AgentCheck {
                status: "passing",
                deregister_critical_service_after: "600000ms".into(),
                ttl: Some("15000ms".into()),
                ..AgentCheck::default()
            },
        };
        let expected = serde_json::json!({
            "ID": "web-1", "Name": "web", "Address": "10.0.0.1", "Port": 80, "Tags": ["a"], "Meta": {"v": "2"},
            "Weights": {"Passing": 3, "Warning": 1},
            "Check": {"Status": "passing", "DeregisterCriticalServiceAfter": "600000ms", "TTL": "15000ms"},
        });
        assert_eq!(serde_json::to_value(&service).unwrap(), expected);
    }

    #[test]
    fn a_forgotten_check_is_told_from_other_trouble() {
        for (status, text, unknown) in [
            (500, "CheckID \"service:a\" does not have associated TTL", true),
            (404, "Unknown check ID \"service:a\"", true),
            (500, "rpc error making call: EOF", false),
            (403, "Permission denied", false),
        ] {
            assert_eq!(knows_no_check(status, text), unknown, "{status} {text}");
        }
    }
}
