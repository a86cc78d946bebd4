//! `protocol` and `[service.NAME.proxy_protocol]`: what a service's connections carry, and what comes ahead of it.

use super::section::Section;
use crate::policy::{Protocol, ProxyProtocol, ProxyVersion};

pub(super) fn read(section: &Section<'_>) -> (Protocol, ProxyProtocol) {
    let protocols = Protocol::ALL.map(|protocol| (protocol.as_str(), protocol));
    let protocol = section.choice("protocol", &protocols, &[], Protocol::default());
    let inner = section.section("proxy_protocol");
    let settings = accept_and_send(&inner);
    if settings.send.is_some() && protocol == Protocol::Http {
        let message =
            "goes with protocol = \"tcp\" only: clients share the connections to an HTTP service's instances";
        inner.conflict(&["send"], message);
    }
    inner.finish();
    (protocol, settings)
}

/// Of a port that several services share: there is nobody to send it to.
pub(super) fn of_listener(listener: &Section<'_>) -> ProxyProtocol {
    let inner = listener.section("proxy_protocol");
    let accept = inner.flag("accept", false);
    inner.refuse(&["send"], "goes with protocol = \"tcp\" only: routes lead to HTTP services");
    inner.finish();
    ProxyProtocol { send: None, accept }
}

/// Nobody connects to a service without a port: what it would accept there, the listener that leads to it must.
pub(super) fn has_a_port(service: &Section<'_>, listener: &str) {
    let inner = service.section("proxy_protocol");
    if inner.has("accept") {
        let message = format!("the service has no port of its own: give it in [{listener}.proxy_protocol]");
        inner.problem("accept", message);
    }
}

fn accept_and_send(section: &Section<'_>) -> ProxyProtocol {
    let versions = [ProxyVersion::V1, ProxyVersion::V2].map(|version| (version.as_str(), Some(version)));
    let [v1, v2] = versions;
    ProxyProtocol {
        send: section.choice("send", &[("off", None), v1, v2], &[], None),
        accept: section.flag("accept", false),
    }
}

/// None of these keys may stand in the table of a service that is not HTTP: they would do nothing.
pub(super) fn http_only(section: &Section<'_>, protocol: Protocol, keys: &[&'static str], why: &str) {
    if protocol != Protocol::Http {
        for key in keys.iter().copied().filter(|key| section.has(key)) {
            section.problem(key, format!("goes with protocol = \"http\" only: {why}"));
        }
    }
}
