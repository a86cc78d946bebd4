//! The local app at a Consul agent: registered with a check, vouched for before its TTL is over.

use super::{Announcement, ConsulCheck, Lease, Registrar, RegistrarError, Renewal, Standing};
use crate::health::{CheckKind, CheckSettings};
use crate::registry::consul::{
    AgentCheck, AgentEntry, AgentService, AgentWeights, Beat, ConsulClient, ConsulError, ConsulSettings,
    Report,
};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::time::Instant;

/// Speaks to one agent: an entry at a second one would be a second entry.
#[derive(Debug)]
pub struct ConsulRegistrar {
    client: ConsulClient,
    service: AgentService,
    addr: SocketAddr,
    check: ConsulCheck,
    reassert: Duration,
    /// When the whole registration was last sent; `None` if something went wrong since.
    asserted: Option<Instant>,
    /// It was found in the catalogue.
    seen: bool,
    /// How often the catalogue did not have it although the agent did.
    misses: u32,
    has_token: bool,
}

impl ConsulRegistrar {
    /// After so many misses in a row a token is in use that may not read the catalogue (it lacks node:read).
    const HIDDEN: u32 = 3;
    /// The catalogue hears of a registration some milliseconds later: it is asked so often.
    const LOOKS: u32 = 5;
    const FIRST_PAUSE: Duration = Duration::from_millis(20);

    /// # Errors
    /// What keeps the client from being built, such as a certificate that cannot be read.
    pub fn new(
        settings: ConsulSettings,
        announcement: &Announcement,
        (check, app): (ConsulCheck, &CheckSettings),
        (ttl, deregister_after, reassert): (Duration, Duration, Duration),
    ) -> Result<Self, ConsulError> {
        let has_token = settings.token.is_some();
        let client = ConsulClient::new(settings)?;
        let mut meta = announcement.meta.clone();
        if let Some(zone) = &announcement.zone {
            meta.insert("zone".to_owned(), zone.to_string());
        }
        let asked = match check {
            ConsulCheck::Ttl => AgentCheck { ttl: Some(go(ttl)), ..AgentCheck::default() },
            ConsulCheck::Agent => by_agent(announcement.addr, app),
        };
        let weight = announcement.weight.get();
        let service = AgentService {
            id: announcement.id.to_string(),
            name: announcement.service.to_string(),
            address: announcement.addr.ip().to_string(),
            port: announcement.addr.port(),
            tags: announcement.tags.clone(),
            meta,
            weights: AgentWeights { passing: weight, warning: 1 },
            check: AgentCheck { deregister_critical_service_after: go(deregister_after), ..asked },
        };
        let addr = announcement.addr;
        Ok(Self { client, service, addr, check, reassert, asserted: None, seen: false, misses: 0, has_token })
    }

    /// Sends everything; identical to what the agent has, it changes nothing there but mends the catalogue.
    async fn assert(&mut self, standing: Standing) -> Result<Lease, RegistrarError> {
        self.asserted = None;
        let mut service = self.service.clone();
        service.check.status = match standing {
            Standing::Passing => "passing",
            Standing::Failing => "critical",
        };
        self.client.register(&service).await?;
        // A check that the agent had already keeps its status whatever the registration says.
        if self.check == ConsulCheck::Ttl
            && let Beat::Unknown(text) = self.client.report(&self.service.id, report(standing)).await?
        {
            return Err(RegistrarError::Unavailable(format!("registered, and forgotten at once: {text}")));
        }
        self.seen = self.look().await;
        self.asserted = Some(Instant::now());
        Ok(self.lease())
    }

    /// Whether the catalogue has it by now.
    async fn look(&mut self) -> bool {
        let mut pause = Self::FIRST_PAUSE;
        for _ in 0..Self::LOOKS {
            match self.listed().await {
                Some(true) => {
                    self.misses = 0;
                    return true;
                }
                Some(false) => tokio::time::sleep(pause).await,
                None => return false,
            }
            pause *= 2;
        }
        self.misses = self.misses.saturating_add(1);
        self.is_hidden()
    }

    /// Whether the catalogue has it; `None` if the servers cannot say.
    async fn listed(&self) -> Option<bool> {
        match self.client.is_in_catalogue(&self.service.name, &self.service.id, self.addr).await {
            Ok(answer) => answer,
            // Who may not ask is shown nothing.
            Err(error) => error.refusal().map(|_| false),
        }
    }

    fn is_hidden(&self) -> bool {
        self.has_token && self.misses >= Self::HIDDEN
    }

    /// What the agent has under our id is ours; `None` if it has nothing.
    async fn found(&self) -> Result<Option<Result<(), AgentEntry>>, RegistrarError> {
        let Some(entry) = self.client.service(&self.service.id).await? else { return Ok(None) };
        let ours = i64::from(self.addr.port()) == entry.port
            && entry.address.parse::<IpAddr>().is_ok_and(|ip| ip == self.addr.ip());
        Ok(Some(if ours { Ok(()) } else { Err(entry) }))
    }

    /// Why the lease is lost, if it is.
    async fn loss(&mut self, standing: Standing) -> Result<Option<String>, RegistrarError> {
        if self.check == ConsulCheck::Ttl
            && let Beat::Unknown(text) = self.client.report(&self.service.id, report(standing)).await?
        {
            return Ok(Some(format!("the agent has forgotten it: {text}")));
        }
        if !self.seen {
            match self.listed().await {
                Some(true) => self.seen = true,
                // The servers can hear again, and have not heard of it: the agent would tell them some time later.
                Some(false) => self.asserted = None,
                None => {}
            }
        }
        if self.check == ConsulCheck::Ttl && !self.is_due() {
            return Ok(None);
        }
        match self.found().await? {
            None => return Ok(Some("the agent has forgotten it".to_owned())),
            Some(Err(other)) => return Ok(Some(self.taken(&other))),
            Some(Ok(())) => {}
        }
        if self.is_due() && self.seen && !self.is_hidden() && self.listed().await == Some(false) {
            return Ok(Some("somebody removed it from the catalogue".to_owned()));
        }
        Ok(None)
    }

    /// It is time to send everything anew.
    fn is_due(&self) -> bool {
        self.asserted.is_none_or(|at| at.elapsed() >= self.reassert)
    }

    fn lease(&self) -> Lease {
        let unseen = || "the agent has it, the servers' catalogue does not show it yet".to_owned();
        Lease { id: None, seen: self.seen, doubt: (!self.seen).then(unseen) }
    }

    fn taken(&self, other: &AgentEntry) -> String {
        let AgentEntry { service, address, port } = other;
        let address = if address.is_empty() { "the node's address" } else { address };
        format!(
            "the id {:?} belongs to {service:?} at {address}, port {port}, and not to {}: give another id",
            self.service.id, self.addr
        )
    }
}

impl Registrar for ConsulRegistrar {
    fn shows_failing(&self) -> bool {
        true
    }

    fn asks_by_itself(&self) -> bool {
        self.check == ConsulCheck::Agent
    }

    async fn announce(&mut self, standing: Standing) -> Result<Lease, RegistrarError> {
        if let Some(Err(other)) = self.found().await? {
            return Err(RegistrarError::Refused(self.taken(&other)));
        }
        self.assert(standing).await
    }

    async fn renew(&mut self, standing: Standing) -> Result<Renewal, RegistrarError> {
        let loss = self.loss(standing).await.inspect_err(|_| self.asserted = None)?;
        if let Some(how) = loss {
            self.seen = false;
            return Ok(Renewal::Lost(how));
        }
        if self.is_due() {
            self.assert(standing).await.map(Renewal::Kept)
        } else {
            Ok(Renewal::Kept(self.lease()))
        }
    }

    async fn withdraw(&mut self) -> Result<bool, RegistrarError> {
        let is_there = matches!(self.found().await?, Some(Ok(())));
        if is_there {
            self.client.deregister(&self.service.id).await?;
        }
        self.seen = false;
        Ok(is_there)
    }
}

impl From<ConsulError> for RegistrarError {
    fn from(error: ConsulError) -> Self {
        let text = error.to_string();
        if error.is_of_the_agent() { Self::Unavailable(text) } else { Self::Refused(text) }
    }
}

fn report(standing: Standing) -> Report {
    match standing {
        Standing::Passing => Report::Pass,
        Standing::Failing => Report::Fail,
    }
}

/// The agent asks the app as we do, at the address that others are told.
fn by_agent(mut addr: SocketAddr, app: &CheckSettings) -> AgentCheck {
    addr.set_port(app.port.unwrap_or(addr.port()));
    let timing = AgentCheck {
        interval: Some(go(app.interval)),
        timeout: Some(go(app.timeout)),
        ..AgentCheck::default()
    };
    match &app.kind {
        CheckKind::Tcp => AgentCheck { tcp: Some(addr.to_string()), ..timing },
        CheckKind::Grpc(service) if service.is_empty() => {
            AgentCheck { grpc: Some(addr.to_string()), ..timing }
        }
        CheckKind::Grpc(service) => AgentCheck { grpc: Some(format!("{addr}/{service}")), ..timing },
        CheckKind::Http(http) => AgentCheck {
            http: Some(format!("http://{addr}{}", http.path)),
            method: Some(http.method.to_string()),
            ..timing
        },
    }
}

/// A time in Go's notation.
fn go(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::HttpCheck;

    #[test]
    fn the_agent_asks_what_we_would_ask() {
        let addr: SocketAddr = "[::1]:80".parse().unwrap();
        let app =
            CheckSettings { port: Some(81), ..CheckSettings::new(CheckKind::Http(HttpCheck::get("/up"))) };
        let check = by_agent(addr, &app);
        assert_eq!(check.http.as_deref(), Some("http://[::1]:81/up"));
        assert_eq!((check.interval.as_deref(), check.timeout.as_deref()), (Some("10000ms"), Some("2000ms")));
        let check = by_agent(addr, &CheckSettings::new(CheckKind::Tcp));
        assert_eq!((check.tcp.as_deref(), check.http), (Some("[::1]:80"), None));
        for (service, asked) in [("", "[::1]:80"), ("a.B", "[::1]:80/a.B")] {
            let check = by_agent(addr, &CheckSettings::new(CheckKind::Grpc(service.to_owned())));
            assert_eq!((check.grpc.as_deref(), check.tcp), (Some(asked), None));
        }
    }

    #[test]
    fn what_heals_by_itself_is_tried_again_soon() {
        let status =
            |status, text: &str| ConsulError::Status { agent: "a".into(), status, text: text.into() };
        let sorted = RegistrarError::from;
        assert!(matches!(sorted(status(403, "Permission denied")), RegistrarError::Refused(_)));
        assert!(matches!(sorted(status(500, "No cluster leader")), RegistrarError::Unavailable(_)));
    }
}
