//! The service `web` over given addresses, for tests that do not care where its instances come from.

use super::{Sidecar, free_port};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

/// A configuration with the service `web` over a fixed list; `rules` are more lines of it, and further tables.
pub fn web(addrs: &[SocketAddr], rules: &str) -> String {
    service("web", addrs, rules)
}

/// The same under another name.
///
/// Failed requests take nobody out: what a test asks of an instance that fails, that instance gets.
pub fn service(name: &str, addrs: &[SocketAddr], rules: &str) -> String {
    defaults(name, addrs, rules) + &format!("[service.{name}.outlier]\nenabled = false\n")
}

/// The same as it is where nothing is configured.
pub fn defaults(name: &str, addrs: &[SocketAddr], rules: &str) -> String {
    let list: Vec<_> = addrs.iter().map(ToString::to_string).collect();
    format!("[service.{name}]\nfrom = \"static://{}\"\n{rules}\n", list.join(","))
}

/// An address at which nobody listens.
pub fn refusing() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

/// Lists addresses and their weights in the endpoint file `name` of a folder, in one step.
pub fn list(folder: &Path, name: &str, endpoints: &[(SocketAddr, u16)]) {
    let entries: Vec<_> = endpoints
        .iter()
        .map(|(addr, weight)| format!("{{ addr = \"{addr}\", weight = {weight} }}"))
        .collect();
    let (file, new) = (folder.join(name), folder.join(format!("{name}.new")));
    std::fs::write(&new, format!("endpoints = [{}]\n", entries.join(", "))).expect("a file");
    std::fs::rename(new, file).expect("a file");
}

impl Sidecar {
    /// Retries that `web` has made for this reason.
    pub async fn retried(&self, reason: &str) -> u64 {
        self.count(&format!("outrigger_retries_total{{service=\"web\",reason=\"{reason}\"}}")).await
    }

    /// Retries that `web` has not made for this reason.
    pub async fn denied(&self, reason: &str) -> u64 {
        self.count(&format!("outrigger_retries_denied_total{{service=\"web\",reason=\"{reason}\"}}")).await
    }

    /// Attempts at `web`'s instances with this outcome.
    pub async fn attempted(&self, outcome: &str) -> u64 {
        self.count(&format!("outrigger_upstream_attempts_total{{service=\"web\",outcome=\"{outcome}\"}}"))
            .await
    }

    /// A metric that counts.
    pub async fn count(&self, series: &str) -> u64 {
        self.metric(series).await as u64
    }
}
