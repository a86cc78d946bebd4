//! The addresses of the registries' names: the hosts file, then DNS, without the C library.
//!
//! A program that is linked statically with glibc can look up names only where that very version's shared libraries
//! lie, which an empty container does not have. So what `/etc/nsswitch.conf` may name beyond the two is not asked.

use super::dns::{DnsClient, DnsError, DnsName, DnsSettings, Family, Found, Reply};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hyper_util::client::legacy::connect::dns::Name;
use reqwest::dns::{Addrs, Resolve, Resolving};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// Finds addresses. Clones share what they know of the DNS servers.
#[derive(Clone, Debug)]
pub struct Names(Arc<Sources>);

#[derive(Debug)]
struct Sources {
    hosts: PathBuf,
    dns: DnsClient,
}

/// Why a name has no address here.
#[derive(Debug, thiserror::Error)]
#[error("{host}: {problem}")]
pub struct Unresolved {
    host: String,
    problem: String,
}

impl Default for Names {
    /// As this system has them.
    fn default() -> Self {
        // Half of the time that a registry has for a connection: a dead server leaves enough for the next one.
        Self::new(
            "/etc/hosts".into(),
            DnsSettings { timeout: Duration::from_secs(1), ..DnsSettings::default() },
        )
    }
}

impl Names {
    /// Out of this hosts file, then of these servers.
    pub fn new(hosts: PathBuf, dns: DnsSettings) -> Self {
        Self(Arc::new(Sources { hosts, dns: DnsClient::new(dns) }))
    }

    /// The addresses of a host, which may also be an address itself; at least one.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Unresolved> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = bare.parse() {
            return Ok(vec![ip]);
        }
        // Whoever has no such file has no names in it.
        let hosts = tokio::fs::read(&self.0.hosts).await.unwrap_or_default();
        let listed = listed(&String::from_utf8_lossy(&hosts), host);
        if !listed.is_empty() {
            return Ok(listed);
        }
        // Nobody else is asked about it (RFC 6761, section 6.3).
        if same("localhost", host) {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        self.asked(host).await.map_err(|problem| Unresolved { host: host.to_owned(), problem })
    }

    /// What the DNS servers say, the search domains of `resolv.conf` included.
    async fn asked(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let name = DnsName::new(host).map_err(|error| error.to_string())?;
        let dns = &self.0.dns;
        let mut failed = None;
        for candidate in dns.candidates(&name).await.map_err(words)? {
            let reply = match dns.addresses(&candidate, Family::Any).await {
                // To connect one family will do.
                Err(DnsError::Half { other, error }) => {
                    let family = if other == 4 { Family::V4 } else { Family::V6 };
                    match dns.addresses(&candidate, family).await {
                        Ok(Reply::Absent(_)) => Err(*error),
                        reply => reply,
                    }
                }
                reply => reply,
            };
            match reply {
                Ok(Reply::Found(Found { records, .. })) => return Ok(records),
                Ok(Reply::Absent(_)) => {}
                // One search domain may be out of order; the name itself is the last candidate.
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        Err(match failed {
            Some(error) => words(error),
            None => format!("neither {} nor DNS has an address of it", self.0.hosts.display()),
        })
    }
}

/// Without the advice that is meant for lists of instances.
fn words(error: DnsError) -> String {
    match error {
        DnsError::System { path, problem } => format!("{path}: {problem}"),
        other => other.to_string(),
    }
}

/// What a hosts file says (hosts(5)).
fn listed(hosts: &str, host: &str) -> Vec<IpAddr> {
    let of = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let ip = words.next()?.parse().ok()?;
        words.any(|name| same(name, host)).then_some(ip)
    };
    hosts.lines().filter_map(of).collect()
}

/// Case means nothing, nor does the dot at the end of a whole name.
fn same(one: &str, other: &str) -> bool {
    let bare = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    bare(one) == bare(other)
}

/// For Consul's client. The port is the caller's.
impl Resolve for Names {
    fn resolve(&self, name: reqwest::dns::Name) -> Resolving {
        let names = self.clone();
        Box::pin(async move { Ok(with_no_port(names.addresses(name.as_str()).await?)) })
    }
}

/// For etcd's.
impl tower_service::Service<Name> for Names {
    type Response = Addrs;
    type Error = Unresolved;
    type Future = BoxFuture<'static, Result<Addrs, Unresolved>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unresolved>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let names = self.clone();
        async move { Ok(with_no_port(names.addresses(name.as_str()).await?)) }.boxed()
    }
}

fn with_no_port(ips: Vec<IpAddr>) -> Addrs {
    Box::new(ips.into_iter().map(|ip| SocketAddr::new(ip, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::dns::Servers;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// Names of this hosts file; the DNS server is one that nobody is.
    fn names(folder: &tempfile::TempDir, hosts: &str) -> Names {
        let path = folder.path().join("hosts");
        std::fs::write(&path, hosts).unwrap();
        let nobody = Servers::Given(vec!["127.0.0.1:9".parse().unwrap()]);
        let timeout = Duration::from_millis(100);
        Names::new(path, DnsSettings { servers: nobody, timeout, attempts: 1, ..DnsSettings::default() })
    }

    #[tokio::test]
    async fn the_hosts_file_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let names = names(
            &folder,
            "# 10.0.0.9 consul\n10.0.0.1\tconsul.internal  Consul # consul-2\n\nfe80::1%lo0 consul\n::2 consul\n10.0.0.3",
        );
        for (host, expected) in [
            ("consul", &["10.0.0.1", "::2"][..]),
            ("CONSUL.internal.", &["10.0.0.1"]),
            ("10.0.0.7", &["10.0.0.7"]),
            ("[::7]", &["::7"]),
            ("localhost", &["127.0.0.1", "::1"]),
        ] {
            assert_eq!(names.addresses(host).await.unwrap(), ips(expected), "{host}");
        }
        let unknown = names.addresses("consul-2").await.unwrap_err().to_string();
        assert!(unknown.starts_with("consul-2: 127.0.0.1:9"), "{unknown}");
    }

    #[tokio::test]
    async fn a_system_without_any_file_knows_localhost_and_tells_what_it_lacks() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name| folder.path().join(name);
        let dns = DnsSettings { servers: Servers::System(path("resolv.conf")), ..DnsSettings::default() };
        let names = Names::new(path("hosts"), dns);
        assert_eq!(names.addresses("localhost.").await.unwrap(), ips(&["127.0.0.1", "::1"]));
        let error = names.addresses("consul").await.unwrap_err().to_string();
        assert!(error.contains("resolv.conf: No such file") && !error.contains("?server"), "{error}");
    }
}
