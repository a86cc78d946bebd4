//! Questions to DNS servers: one server at a time, the next when it fails.
//!
//! The crate below sends, repeats lost packets, and asks again by TCP when an answer was cut. Which server is asked, and
//! what a failure means, is decided here: the crate's own resolver takes a failure under one search domain for a reason to
//! try the next, and so may end with a "no such name" although nobody could tell. Nothing is remembered between questions.

use super::error::{Asked, DnsError};
use super::reading::{self, Kind, Reading, V4, V6};
use super::system::System;
use super::{Absent, DnsName, DnsSettings, Family, Found, Reply, Servers, Srv};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use hickory_resolver::net::{DnsError as Semantic, NetError};
use hickory_resolver::proto::op::{DnsRequestOptions, DnsResponse, Query};
use hickory_resolver::proto::rr::RecordType;
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Aliases that are followed from one question to the next.
const ALIASES: usize = 8;

/// Asks the servers of its settings.
#[derive(Debug)]
pub struct DnsClient {
    settings: DnsSettings,
    /// Replaced when a `resolv.conf` changes; locked for a copy only.
    peers: Mutex<Option<Arc<Peers>>>,
}

/// The servers as they are asked now.
struct Peers {
    /// The `resolv.conf` that they stand in.
    text: Vec<u8>,
    each: Vec<(SocketAddr, NameServerPool<TokioRuntimeProvider>)>,
    /// Number of the one that answered last: a dead one costs its timeout once.
    current: AtomicUsize,
    search: Vec<DnsName>,
    ndots: usize,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers: Vec<_> = self.each.iter().map(|(server, _)| server).collect();
        f.debug_struct("Peers").field("servers", &servers).finish_non_exhaustive()
    }
}

impl DnsClient {
    pub fn new(settings: DnsSettings) -> Self {
        Self { settings, peers: Mutex::default() }
    }

    /// The whole names that `name` may stand for, in the order in which they are to be tried.
    ///
    /// # Errors
    /// If the system's settings cannot be read.
    pub async fn candidates(&self, name: &DnsName) -> Result<Vec<DnsName>, DnsError> {
        let peers = self.peers().await?;
        Ok(candidates(name, &peers.search, peers.ndots))
    }

    /// The addresses of a whole name. Both families are asked for at once; if one of them fails, all of it does.
    ///
    /// # Errors
    /// If no server gave an answer that says something about the name.
    pub async fn addresses(&self, name: &DnsName, family: Family) -> Result<Reply<IpAddr>, DnsError> {
        let v4 = async { Ok(self.ask(name).await?.map(|V4(ip)| ip)) };
        let v6 = async { Ok(self.ask(name).await?.map(|V6(ip)| ip)) };
        match family {
            Family::V4 => v4.await,
            Family::V6 => v6.await,
            Family::Any => {
                let half = |error, other| Err(DnsError::Half { error: Box::new(error), other });
                match tokio::join!(v4, v6) {
                    (Ok(v4), Ok(v6)) => Ok(Reply::and(v4, v6)),
                    (Ok(_), Err(error)) => half(error, 4),
                    (Err(error), Ok(_)) => half(error, 6),
                    (Err(error), Err(_)) => Err(error),
                }
            }
        }
    }

    /// The service records of a whole name.
    ///
    /// # Errors
    /// As [`Self::addresses`].
    pub async fn services(&self, name: &DnsName) -> Result<Reply<Srv>, DnsError> {
        self.ask(name).await
    }

    /// Asks until the aliases end.
    async fn ask<T: Kind>(&self, name: &DnsName) -> Result<Reply<T>, DnsError> {
        let peers = self.peers().await?;
        let mut at = name.clone();
        let mut lifetime = Duration::MAX;
        for _ in 0..ALIASES {
            let reading = match self.exchange(&peers, &at, T::TYPE).await? {
                Ok(message) => reading::read(&message, &at),
                Err(absent) => Reading::Done(Reply::Absent(absent)),
            };
            match reading {
                Reading::Done(reply) => return Ok(reply.within(lifetime)),
                Reading::Alias(next, ttl) => (at, lifetime) = (next, lifetime.min(ttl)),
            }
        }
        Err(DnsError::Aliases { name: name.clone(), limit: ALIASES })
    }

    /// One question, to one server after the other; the inner error is a "no".
    async fn exchange(
        &self,
        peers: &Peers,
        name: &DnsName,
        kind: RecordType,
    ) -> Result<Result<DnsResponse, Absent>, DnsError> {
        let first = peers.current.load(Ordering::Relaxed);
        let timeout = self.settings.timeout;
        let mut failure = None;
        for _ in 0..self.settings.attempts {
            let order = peers.each.iter().enumerate().cycle().skip(first).take(peers.each.len());
            for (number, (server, pool)) in order {
                let mut options = DnsRequestOptions::default();
                options.use_edns = true;
                let question = pool.lookup(Query::query(name.name().clone(), kind), options).first_answer();
                let answer = tokio::time::timeout(timeout, question).await.unwrap_or(Err(NetError::Timeout));
                let asked = Asked { server: *server, name: name.clone(), kind };
                let error = match answer {
                    // The crate passes codes that it does not know as if they were answers.
                    Ok(message) if !reading::is_answer(message.metadata.response_code) => {
                        let code = Semantic::ResponseCode(message.metadata.response_code);
                        DnsError::of(NetError::Dns(code), asked, timeout)
                    }
                    Ok(message) => {
                        peers.current.store(number, Ordering::Relaxed);
                        return Ok(Ok(message));
                    }
                    Err(NetError::Dns(Semantic::NoRecordsFound(none))) => match reading::absent(&none) {
                        Some(absent) => {
                            peers.current.store(number, Ordering::Relaxed);
                            return Ok(Err(absent));
                        }
                        None => DnsError::Referral { asked: Box::new(asked) },
                    },
                    Err(error) => DnsError::of(error, asked, timeout),
                };
                tracing::debug!(%error, "DNS question failed");
                failure.get_or_insert(error);
            }
        }
        Err(failure.unwrap_or_else(|| DnsError::Settings("there is no DNS server to ask".to_owned())))
    }

    /// The servers, made anew when a `resolv.conf` reads otherwise than before.
    async fn peers(&self) -> Result<Arc<Peers>, DnsError> {
        let text = match &self.settings.servers {
            Servers::Given(_) => Vec::new(),
            Servers::System(path) => tokio::fs::read(path).await.map_err(|error| DnsError::System {
                path: path.display().to_string(),
                problem: error.to_string(),
            })?,
        };
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        match &*peers {
            Some(known) if known.text == text => Ok(Arc::clone(known)),
            _ => Ok(Arc::clone(peers.insert(Arc::new(self.build(text)?)))),
        }
    }

    fn build(&self, text: Vec<u8>) -> Result<Peers, DnsError> {
        let System { servers, search, ndots } = match &self.settings.servers {
            Servers::Given(servers) => System { servers: servers.clone(), search: Vec::new(), ndots: 1 },
            Servers::System(path) => System::parse(path, &text)?,
        };
        let mut options = ResolverOpts::default();
        options.timeout = self.settings.timeout;
        let tls = TlsConfig::new().map_err(|error| DnsError::Settings(error.to_string()))?;
        let context = Arc::new(PoolContext::new(options, tls));
        let pool = |server: SocketAddr| {
            let udp = (!self.settings.tcp).then(ConnectionConfig::udp);
            let connections = udp.into_iter().chain([ConnectionConfig::tcp()]).map(|mut connection| {
                connection.port = server.port();
                connection
            });
            let config = NameServerConfig::new(server.ip(), true, connections.collect());
            let runtime = TokioRuntimeProvider::default();
            (server, NameServerPool::from_config([config], Arc::clone(&context), runtime))
        };
        Ok(Peers {
            text,
            each: servers.into_iter().map(pool).collect(),
            current: AtomicUsize::new(0),
            search: self.settings.search.clone().unwrap_or(search),
            ndots,
        })
    }
}

/// As `resolv.conf` has it: a name with a dot at its end is whole; one with at least `ndots` dots is tried as it is
/// first, any other one under each domain first.
fn candidates(name: &DnsName, search: &[DnsName], ndots: usize) -> Vec<DnsName> {
    let whole = |mut name: hickory_resolver::proto::rr::Name| {
        name.set_fqdn(true);
        DnsName::of(&name)
    };
    let itself = whole(name.name().clone());
    if name.name().is_fqdn() {
        return vec![itself];
    }
    // A name that would be too long is none.
    let below =
        search.iter().filter_map(|domain| name.name().clone().append_domain(domain.name()).ok().map(whole));
    let dots = usize::from(name.name().num_labels()).saturating_sub(1);
    if dots >= ndots {
        std::iter::once(itself).chain(below).collect()
    } else {
        below.chain([itself]).collect()
    }
}

impl<T> Reply<T> {
    fn map<U>(self, change: impl FnMut(T) -> U) -> Reply<U> {
        match self {
            Self::Absent(absent) => Reply::Absent(absent),
            Self::Found(Found { records, ttl, authoritative }) => {
                Reply::Found(Found { records: records.into_iter().map(change).collect(), ttl, authoritative })
            }
        }
    }

    /// What two families say together.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Found(mut one), Self::Found(other)) => {
                one.records.extend(other.records);
                Self::Found(Found {
                    ttl: one.ttl.min(other.ttl),
                    authoritative: one.authoritative && other.authoritative,
                    ..one
                })
            }
            // What one family has not yet, it may have as soon as its "no" has run out.
            (Self::Found(found), Self::Absent(absent)) | (Self::Absent(absent), Self::Found(found)) => {
                Self::Found(Found { ttl: found.ttl.min(absent.ttl), ..found })
            }
            (Self::Absent(one), Self::Absent(other)) => {
                Self::Absent(Absent { no_name: one.no_name || other.no_name, ttl: one.ttl.min(other.ttl) })
            }
        }
    }

    fn within(mut self, lifetime: Duration) -> Self {
        match &mut self {
            Self::Found(Found { ttl, .. }) | Self::Absent(Absent { ttl, .. }) => *ttl = lifetime.min(*ttl),
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_searched_as_resolv_conf_says() {
        let name = |text| DnsName::new(text).unwrap();
        let search = [name("default.svc.cluster.local"), name("cluster.local.")];
        for (text, ndots, expected) in [
            ("orders.internal.", 5, &["orders.internal"][..]),
            ("orders", 5, &["orders.default.svc.cluster.local", "orders.cluster.local", "orders"]),
            ("a.b.c.d", 5, &["a.b.c.d.default.svc.cluster.local", "a.b.c.d.cluster.local", "a.b.c.d"]),
            ("a.b", 1, &["a.b", "a.b.default.svc.cluster.local", "a.b.cluster.local"]),
        ] {
            let got = candidates(&name(text), &search, ndots);
            assert_eq!(got.iter().map(ToString::to_string).collect::<Vec<_>>(), expected, "{text}");
            assert!(got.iter().all(|name| name.name().is_fqdn()), "{text}");
        }
        assert_eq!(candidates(&name("orders"), &[], 1).len(), 1);
    }

    #[test]
    fn one_family_may_be_silent() {
        let found = |record: u8, seconds, authoritative| {
            Reply::Found(Found { records: vec![record], ttl: Duration::from_secs(seconds), authoritative })
        };
        let absent = |no_name, seconds| Reply::Absent(Absent { no_name, ttl: Duration::from_secs(seconds) });
        let both = Found { records: vec![4, 6], ttl: Duration::from_secs(10), authoritative: false };
        assert_eq!(found(4, 20, true).and(found(6, 10, false)), Reply::Found(both));
        assert_eq!(found(4, 20, true).and(absent(false, 5)), found(4, 5, true));
        assert_eq!(absent(false, 30).and(found(6, 10, true)), found(6, 10, true));
        assert_eq!(absent(true, 30).and(absent(true, 10)), absent(true, 10));
    }

    #[tokio::test]
    async fn a_resolv_conf_is_read_again_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let client =
            DnsClient::new(DnsSettings { servers: Servers::System(path.clone()), ..DnsSettings::default() });
        let name = DnsName::new("orders").unwrap();
        let missing = client.candidates(&name).await.unwrap_err().to_string();
        assert!(missing.contains("resolv.conf: No such file") && missing.contains("?server="), "{missing}");
        for domain in ["one", "two"] {
            std::fs::write(&path, format!("nameserver 127.0.0.1\nsearch {domain}\n")).unwrap();
            let names = client.candidates(&name).await.unwrap();
            assert_eq!(names[0].to_string(), format!("orders.{domain}"));
        }
    }
}
