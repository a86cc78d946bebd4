//! The local app in etcd: one key under a lease, never without one.

use super::{Announcement, Lease, Registrar, RegistrarError, Renewal, Standing};
use crate::discovery::etcd_value;
use crate::model::Weight;
use crate::registry::etcd::{EtcdClient, EtcdError, EtcdSettings, KeyValue, PutRequest, RangeRequest};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

/// Keeps one key. The lease is remembered until it is known to be gone, so that none is left behind.
#[derive(Debug)]
pub struct EtcdRegistrar {
    client: EtcdClient,
    members: usize,
    key: Vec<u8>,
    value: Vec<u8>,
    /// The same with weight 0.
    farewell: Vec<u8>,
    addr: SocketAddr,
    ttl: Duration,
    reassert: Duration,
    /// For one member's answer; each verb sets its own.
    patience: Duration,
    lease: Option<i64>,
    /// When the key was last known to be ours.
    proven: Option<Instant>,
    /// This process has written the key.
    wrote: bool,
}

/// The key as it is now.
enum Found {
    Absent,
    /// With our lease.
    Held(KeyValue),
    /// Ours by its address, but with this other lease; 0 is none.
    Astray(KeyValue),
    Foreign(KeyValue),
}

impl EtcdRegistrar {
    /// A stop has little time, and the next member must get its turn.
    const PATIENCE_AT_THE_END: Duration = Duration::from_secs(1);
    /// For the farewell in all: what matters is that the lease is revoked.
    const FAREWELL: Duration = Duration::from_millis(500);

    /// `prefix` ends in `/`.
    pub fn new(
        settings: EtcdSettings,
        announcement: &Announcement,
        prefix: &str,
        ttl: Duration,
        reassert: Duration,
    ) -> Self {
        Self {
            members: settings.endpoints.len().max(1),
            client: EtcdClient::new(settings),
            key: format!("{prefix}{}", announcement.id).into_bytes(),
            value: value(announcement).to_string().into_bytes(),
            farewell: value(&Announcement { weight: Weight::ZERO, ..announcement.clone() })
                .to_string()
                .into_bytes(),
            addr: announcement.addr,
            ttl,
            reassert,
            patience: Self::patience(ttl),
            lease: None,
            proven: None,
            wrote: false,
        }
    }

    /// The TTL must suffice for all members.
    fn patience(ttl: Duration) -> Duration {
        (ttl / 5).max(Duration::from_secs(1))
    }

    /// Asks one member after the other until one answers.
    async fn ask<T>(
        &mut self,
        question: impl for<'c> Fn(&'c mut EtcdClient) -> BoxFuture<'c, Result<T, EtcdError>>,
    ) -> Result<T, EtcdError> {
        let limit = self.patience;
        let mut turn = 1;
        loop {
            let member = self.client.member();
            let answer = match tokio::time::timeout(limit, question(&mut self.client)).await {
                Ok(answer) => answer,
                Err(_) => self
                    .client
                    .heed(Err(EtcdError::Unavailable(format!("{member}: no answer within {limit:?}")))),
            };
            match answer {
                Err(EtcdError::Unavailable(_)) if turn < self.members => turn += 1,
                answer => return answer,
            }
        }
    }

    /// A lease that holds: the one we have, else a new one.
    async fn hold(&mut self) -> Result<i64, EtcdError> {
        if let Some(id) = self.lease {
            match self.ask(|client| Box::pin(client.lease_keep_alive(id))).await {
                Ok(_) => return Ok(id),
                Err(EtcdError::LeaseLost(_)) => self.lease = None,
                Err(error) => return Err(error),
            }
        }
        let ttl = self.ttl;
        let granted = self.ask(|client| Box::pin(client.lease_grant(ttl))).await?;
        self.lease = Some(granted.id);
        Ok(granted.id)
    }

    async fn find(&mut self) -> Result<Found, EtcdError> {
        let request = RangeRequest { key: self.key.clone(), ..RangeRequest::default() };
        let answer = self.ask(|client| Box::pin(client.range(request.clone()))).await?;
        let Some(kv) = answer.kvs.into_iter().next() else { return Ok(Found::Absent) };
        if self.lease.is_some_and(|lease| lease == kv.lease) {
            return Ok(Found::Held(kv));
        }
        let parsed = etcd_value::parse(&kv.key, &kv.value).endpoints;
        // Nonsense without a lease in the place of what we wrote is somebody's slip; elsewhere it may be meant.
        let ours = match parsed.as_slice() {
            [] => kv.lease == 0 && self.wrote,
            endpoints => endpoints.iter().all(|endpoint| endpoint.addr == self.addr),
        };
        Ok(if ours { Found::Astray(kv) } else { Found::Foreign(kv) })
    }

    /// Weight 0 before the end: callers take their leave at once, and see that what follows is meant. To those who watch,
    /// a lease that was revoked and one that ran out look alike.
    async fn say_farewell(&mut self, lease: i64) -> Result<(), EtcdError> {
        let Found::Held(kv) = self.find().await? else { return Ok(()) };
        let request = PutRequest { key: self.key.clone(), value: self.farewell.clone(), lease };
        // Whatever comes of it: if the app recovers, the key is to be looked at.
        self.proven = None;
        self.ask(|client| Box::pin(client.put_unchanged(request.clone(), kv.mod_revision))).await?;
        Ok(())
    }

    fn taken(&self, other: &KeyValue) -> String {
        format!(
            "{}: the key {} belongs to {}, and not to {}: give another id",
            self.client.member(),
            String::from_utf8_lossy(&self.key),
            shown(&other.value),
            self.addr
        )
    }
}

impl Registrar for EtcdRegistrar {
    /// etcd knows presence only.
    fn shows_failing(&self) -> bool {
        false
    }

    async fn announce(&mut self, _: Standing) -> Result<Lease, RegistrarError> {
        self.patience = Self::patience(self.ttl);
        let revision = match self.find().await? {
            Found::Absent => 0,
            Found::Astray(kv) => kv.mod_revision,
            Found::Foreign(kv) => return Err(RegistrarError::Refused(self.taken(&kv))),
            // Of an earlier try, whose answer was lost.
            Found::Held(kv) if kv.value == self.value => {
                let lease = self.hold().await?;
                if lease == kv.lease {
                    self.proven = Some(Instant::now());
                    return Ok(Lease::seen(lease));
                }
                // The lease ended just now, and the key with it.
                0
            }
            // It was about to leave.
            Found::Held(kv) => kv.mod_revision,
        };
        let lease = self.hold().await?;
        let request = PutRequest { key: self.key.clone(), value: self.value.clone(), lease };
        let put = self.ask(|client| Box::pin(client.put_unchanged(request.clone(), revision))).await?;
        if !put {
            return Err(RegistrarError::Unavailable(format!(
                "{}: somebody else changed the key {} just now",
                self.client.member(),
                String::from_utf8_lossy(&self.key)
            )));
        }
        (self.proven, self.wrote) = (Some(Instant::now()), true);
        Ok(Lease::seen(lease))
    }

    async fn renew(&mut self, _: Standing) -> Result<Renewal, RegistrarError> {
        self.patience = Self::patience(self.ttl);
        let Some(lease) = self.lease else { return Ok(Renewal::Lost("there is no lease".to_owned())) };
        match self.ask(|client| Box::pin(client.lease_keep_alive(lease))).await {
            Ok(_) => {}
            Err(EtcdError::LeaseLost(text)) => {
                self.lease = None;
                return Ok(Renewal::Lost(text));
            }
            Err(error) => return Err(error.into()),
        }
        if self.proven.is_none_or(|at| at.elapsed() >= self.reassert) {
            let found = match self.find().await {
                Ok(found) => found,
                Err(error @ EtcdError::Unavailable(_)) => return Err(error.into()),
                // The lease holds; that nobody may look after the key is no reason to let it go.
                Err(error) => {
                    let doubt = Some(format!("cannot look after the key: {error}"));
                    return Ok(Renewal::Kept(Lease { doubt, ..Lease::seen(lease) }));
                }
            };
            match found {
                Found::Held(kv) if kv.value == self.value => self.proven = Some(Instant::now()),
                Found::Held(kv) => {
                    return Ok(Renewal::Lost(format!("the key says {} now", shown(&kv.value))));
                }
                Found::Absent => return Ok(Renewal::Lost("somebody removed the key".to_owned())),
                Found::Astray(_) => {
                    return Ok(Renewal::Lost("somebody wrote the key without its lease".to_owned()));
                }
                Found::Foreign(kv) => return Ok(Renewal::Lost(self.taken(&kv))),
            }
        }
        Ok(Renewal::Kept(Lease::seen(lease)))
    }

    async fn withdraw(&mut self) -> Result<bool, RegistrarError> {
        self.patience = Self::PATIENCE_AT_THE_END;
        let mut was_there = false;
        if let Some(lease) = self.lease {
            was_there = true;
            // Whatever came of that, the lease decides.
            let member = self.client.member();
            if tokio::time::timeout(Self::FAREWELL, self.say_farewell(lease)).await.is_err() {
                let late = EtcdError::Unavailable(format!("{member}: no answer in time"));
                // The next member is asked to revoke.
                let _ = self.client.heed::<()>(Err(late));
            }
            match self.ask(|client| Box::pin(client.lease_revoke(lease))).await {
                Ok(()) | Err(EtcdError::LeaseLost(_)) => self.lease = None,
                Err(error) => return Err(error.into()),
            }
        }
        self.proven = None;
        // Somebody may have written our key without a lease, which would be a ghost for ever. With another lease it is
        // a later life of ours.
        if let Found::Astray(kv) = self.find().await?
            && kv.lease == 0
        {
            let key = self.key.clone();
            was_there |=
                self.ask(|client| Box::pin(client.delete_unchanged(key.clone(), kv.mod_revision))).await?;
        }
        Ok(was_there)
    }
}

impl From<EtcdError> for RegistrarError {
    fn from(error: EtcdError) -> Self {
        let text = error.to_string();
        match error {
            EtcdError::Refused(_) | EtcdError::Unauthenticated(_) => Self::Refused(text),
            EtcdError::Rejected(_) => Self::Full(text),
            _ => Self::Unavailable(text),
        }
    }
}

/// As etcd's own Go naming package writes it.
fn value(announcement: &Announcement) -> Value {
    let mut metadata: Map<String, Value> =
        announcement.meta.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect();
    metadata.insert("weight".to_owned(), announcement.weight.get().into());
    if let Some(zone) = &announcement.zone {
        metadata.insert("zone".to_owned(), zone.as_str().into());
    }
    if !announcement.tags.is_empty() {
        metadata.insert("tags".to_owned(), json!(announcement.tags));
    }
    json!({ "Op": 0, "Addr": announcement.addr.to_string(), "Metadata": metadata })
}

/// The beginning of a value, fit for one line.
fn shown(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(100).collect();
    format!("{line:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{InstanceId, ServiceName, Zone};

    #[test]
    fn what_is_written_is_what_discovery_reads() {
        let announcement = Announcement {
            service: ServiceName::new("web").unwrap(),
            id: InstanceId::new("web-h-80"),
            addr: "[2001:db8::1]:80".parse().unwrap(),
            tags: vec!["v2".into()],
            meta: [("version".to_owned(), "2".to_owned())].into(),
            weight: Weight::new(7),
            zone: Zone::new("eu-1"),
        };
        let parsed =
            etcd_value::parse(b"/services/web/web-h-80", value(&announcement).to_string().as_bytes());
        let [endpoint] = &parsed.endpoints[..] else { panic!("{:?}", parsed.skipped) };
        assert_eq!(endpoint.addr, announcement.addr);
        assert_eq!((endpoint.weight, &endpoint.zone), (announcement.weight, &announcement.zone));
        assert_eq!(endpoint.meta.get("version").map(String::as_str), Some("2"));
    }

    #[test]
    fn a_full_etcd_is_tried_less_often_and_a_refusing_one_seldom() {
        let full = EtcdError::Rejected("etcdserver: mvcc: database space exceeded".into());
        assert!(matches!(RegistrarError::from(full), RegistrarError::Full(_)));
        let refused = EtcdError::Refused("permission denied".into());
        assert!(matches!(RegistrarError::from(refused), RegistrarError::Refused(_)));
    }
}
