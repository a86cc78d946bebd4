//! The system's own settings: `resolv.conf`.

use super::{DnsError, DnsName};
use hickory_resolver::system_conf::parse_resolv_conf;
use std::net::SocketAddr;
use std::path::Path;

/// What of a `resolv.conf` counts; its options `timeout` and `attempts` do not, Outrigger has its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct System {
    pub(super) servers: Vec<SocketAddr>,
    pub(super) search: Vec<DnsName>,
    /// A name with fewer dots is tried under `search` first.
    pub(super) ndots: usize,
}

impl System {
    const PORT: u16 = 53;

    pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Self, DnsError> {
        let (config, options) = parse_resolv_conf(text).map_err(|error| DnsError::System {
            path: path.display().to_string(),
            problem: error.to_string(),
        })?;
        let servers = config.name_servers().iter().map(|server| (server.ip, Self::PORT).into()).collect();
        let search = match config.search() {
            [] => config.domain().map(DnsName::of).into_iter().collect(),
            search => search.iter().map(DnsName::of).collect(),
        };
        Ok(Self { servers, search, ndots: options.ndots })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<System, String> {
        System::parse(Path::new("/etc/resolv.conf"), text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_kubernetes_writes_is_understood() {
        let system = parse(
            "search default.svc.cluster.local svc.cluster.local cluster.local\n\
             nameserver 10.96.0.10\nnameserver fd00::a\noptions ndots:5\n",
        )
        .unwrap();
        assert_eq!(system.servers, ["10.96.0.10:53".parse().unwrap(), "[fd00::a]:53".parse().unwrap()]);
        let search: Vec<_> = system.search.iter().map(ToString::to_string).collect();
        assert_eq!(search, ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]);
        assert_eq!(system.ndots, 5);
    }

    #[test]
    fn a_file_without_servers_is_told_with_the_mend() {
        let error = parse("search internal\n").unwrap_err();
        assert!(error.starts_with("/etc/resolv.conf: ") && error.contains("[dns] servers"), "{error}");
    }
}
