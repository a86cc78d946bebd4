//! `[service.NAME.health.tls]`, or `tls = true`: active checks over TLS.

use super::section::Section;
use crate::health::{CheckKind, HttpCheck};
use crate::net::tls::{
    Identity, ServerName, TlsClient, TlsError, TlsSettings, authorities, certificates, private_key,
};
use std::path::Path;

/// What an HTTP check speaks, as RFC 7301 calls it.
const HTTP: &[&[u8]] = &[b"http/1.1"];
/// What a gRPC check speaks.
const HTTP2: &[&[u8]] = &[b"h2"];

/// `None` if the check speaks none, or its settings cannot be used. `kind` is `None` if nothing asks for checks: then
/// the table is checked, but has no effect.
pub(super) fn read(health: &Section<'_>, kind: Option<&CheckKind>) -> Option<TlsClient> {
    let section = health.table_or_flag("tls")?;
    section.hush(kind.is_none());
    let trusted = pem(&section, "ca_cert", authorities);
    let identity = identity(&section);
    let server_name = section.text("server_name", "a host's name", |text| {
        server_name(text).ok_or_else(|| format!("{text:?} is no host's name or IP address"))
    });
    let verify = section.flag("verify", true);
    let given = |key| section.find(key).is_some();
    let spoilt = (given("ca_cert") && trusted.is_none()) || (given("client_cert") && identity.is_none());
    let named = given("server_name");
    section.finish();
    // What the tables come to is known only together with the service's own.
    let kind = kind.filter(|_| !spoilt && !health.is_defaults)?;
    let (alpn, of_host) = match kind {
        CheckKind::Http(check) if !named => (HTTP, of_host(health, check)),
        CheckKind::Http(_) => (HTTP, None),
        CheckKind::Grpc(_) => (HTTP2, None),
        CheckKind::Tcp => (&[][..], None),
    };
    let settings = TlsSettings {
        trusted: trusted.unwrap_or_default(),
        identity,
        server_name: server_name.or(of_host),
        verify,
        alpn: alpn.iter().map(|protocol| protocol.to_vec()).collect(),
    };
    TlsClient::new(settings).map_err(|error| health.problem("tls", error.to_string())).ok()
}

/// Both or neither.
fn identity(section: &Section<'_>) -> Option<Identity> {
    const KEYS: [&str; 2] = ["client_cert", "client_key"];
    match KEYS.map(|key| section.find(key).is_some()) {
        [true, false] => section.conflict(&KEYS, "client_cert without client_key: give both or neither"),
        [false, true] => section.conflict(&KEYS, "client_key without client_cert: give both or neither"),
        _ => {}
    }
    let chain = pem(section, "client_cert", certificates);
    let key = pem(section, "client_key", private_key);
    Identity::new(chain?, key?).map_err(|error| section.conflict(&KEYS, error.to_string())).ok()
}

/// What a PEM file holds, named from the configuration file's folder.
fn pem<T>(section: &Section<'_>, key: &'static str, load: fn(&Path) -> Result<T, TlsError>) -> Option<T> {
    section.text(key, "the name of a file", |name| {
        load(&section.doc.absolute(name)).map_err(|error| error.to_string())
    })
}

/// The name in the check's `host`.
fn of_host(health: &Section<'_>, check: &HttpCheck) -> Option<ServerName<'static>> {
    let host = check.host.as_deref()?;
    let name = host.parse::<http::uri::Authority>().ok().and_then(|authority| server_name(authority.host()));
    if name.is_none() {
        let message = format!("{host:?} is no name that a certificate can be for: give tls.server_name too");
        health.problem("host", message);
    }
    name
}

fn server_name(text: &str) -> Option<ServerName<'static>> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    ServerName::try_from(bare.to_owned()).ok()
}
