//! TLS towards instances: `[service.NAME.tls]` for requests, `[service.NAME.health.tls]` for active checks; or `tls = true`.

use super::listen_tls::pem;
use super::section::Section;
use crate::health::{CheckKind, HttpCheck};
use crate::net::tls::{
    ClientFiles, Identity, ServerName, TlsClient, TlsSettings, authorities, certificates, private_key,
    server_name,
};
use crate::policy::Protocol;
use crate::upstream::HttpVersion;
use std::path::PathBuf;

/// What a gRPC check speaks, as RFC 7301 calls it.
const HTTP2: &[&[u8]] = &[b"h2"];

/// TLS for a service's requests. `None` if there is none, or its settings cannot be used.
pub(super) fn of_service(service: &Section<'_>, http: HttpVersion, protocol: Protocol) -> Option<TlsClient> {
    let section = service.table_or_flag("tls")?;
    let (settings, files) = settings(section)?;
    let alpn = if protocol == Protocol::Http { owned(http.alpn()) } else { Vec::new() };
    client(service, TlsSettings { alpn, ..settings }, files)
}

/// TLS for a service's checks. `None` if the check speaks none, or its settings cannot be used. `kind` is `None` if
/// nothing asks for checks: then the table is checked, but has no effect. An HTTP or gRPC check that says nothing of TLS
/// speaks what the `service` speaks.
pub(super) fn of_checks(
    health: &Section<'_>,
    kind: Option<&CheckKind>,
    service: Option<&TlsClient>,
) -> Option<TlsClient> {
    let of_service = match kind {
        Some(CheckKind::Http(check)) => service.map(|service| service.offering(check.version.alpn())),
        Some(CheckKind::Grpc(_)) => service.map(|service| service.offering(HTTP2)),
        _ => None,
    };
    if let (None, Some(of_service)) = (health.find("tls"), of_service) {
        health.note("tls", true.to_string(), health.origin_of("tls"));
        return Some(of_service);
    }
    let section = health.table_or_flag("tls")?;
    section.hush(kind.is_none());
    let settings = settings(section);
    let kind = kind.filter(|_| !health.is_defaults)?;
    let (settings, files) = settings?;
    let (alpn, of_host) = match kind {
        CheckKind::Http(check) if settings.server_name.is_none() => {
            (check.version.alpn(), of_host(health, check))
        }
        CheckKind::Http(check) => (check.version.alpn(), None),
        CheckKind::Grpc(_) => (HTTP2, None),
        CheckKind::Tcp => (&[][..], None),
    };
    let server_name = settings.server_name.or(of_host);
    client(health, TlsSettings { alpn: owned(alpn), server_name, ..settings }, files)
}

/// What the table says by itself, and the files it names; `None` if one of them cannot be used.
fn settings(section: Section<'_>) -> Option<(TlsSettings, ClientFiles)> {
    let trusted = pem(&section, "ca_cert", authorities);
    let identity = identity(&section);
    let server_name = section.text("server_name", "a host's name", |text| {
        server_name(text).ok_or_else(|| format!("{text:?} is no host's name or IP address"))
    });
    let verify = section.flag("verify", true);
    let given = |key| section.find(key).is_some();
    let spoilt = (given("ca_cert") && trusted.is_none()) || (given("client_cert") && identity.is_none());
    section.finish();
    let (ca, trusted) = trusted.unzip();
    let (pair, identity) = identity.unzip();
    let trusted = trusted.unwrap_or_default();
    let settings = TlsSettings { trusted, identity, server_name, verify, alpn: Vec::new() };
    (!spoilt).then_some((settings, ClientFiles { ca, identity: pair }))
}

fn client(outer: &Section<'_>, settings: TlsSettings, files: ClientFiles) -> Option<TlsClient> {
    // What the tables come to is known only together with the service's own.
    if outer.is_defaults {
        return None;
    }
    TlsClient::of_files(settings, files).map_err(|error| outer.problem("tls", error.to_string())).ok()
}

fn owned(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}

/// Both or neither.
fn identity(section: &Section<'_>) -> Option<((PathBuf, PathBuf), Identity)> {
    const KEYS: [&str; 2] = ["client_cert", "client_key"];
    match KEYS.map(|key| section.find(key).is_some()) {
        [true, false] => section.conflict(&KEYS, "client_cert without client_key: give both or neither"),
        [false, true] => section.conflict(&KEYS, "client_key without client_cert: give both or neither"),
        _ => {}
    }
    let cert = pem(section, "client_cert", certificates);
    let key = pem(section, "client_key", private_key);
    let ((cert, chain), (key, private)) = cert.zip(key)?;
    let identity =
        Identity::new(chain, private).map_err(|error| section.conflict(&KEYS, error.to_string())).ok()?;
    Some(((cert, key), identity))
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
