//! `[service.NAME.listen_tls]`: TLS towards the application.

use super::section::Section;
use crate::net::tls::server::{ClientAuthorities, ServerTlsSettings, TlsServer};
use crate::net::tls::{Identity, TlsError, authorities, certificates, private_key};
use std::path::Path;

/// `None` if the table is not there, or cannot be used.
pub(super) fn read(service: &Section<'_>) -> Option<TlsServer> {
    const PAIR: [&str; 2] = ["cert", "key"];
    let given = service.find("listen_tls").is_some();
    let section = service.section("listen_tls");
    let chain = pem(&section, "cert", certificates);
    let key = pem(&section, "key", private_key);
    let trusted = pem(&section, "client_ca", authorities);
    let has = |key| section.find(key).is_some();
    let auth = if has("client_auth") || has("client_ca") {
        section.choice("client_auth", &[("required", false), ("optional", true)], &[], false)
    } else {
        false
    };
    match PAIR.map(has) {
        [true, true] => {}
        // The rest may stand in each service.
        _ if !given || service.is_defaults => {}
        [true, false] => {
            section.missing("key is missing: give the PEM file with the certificate's private key")
        }
        [false, true] => section.missing("cert is missing: give the PEM file with the certificate"),
        [false, false] => section.missing("cert and key are missing: give the two PEM files"),
    }
    if has("client_auth") && !has("client_ca") && !service.is_defaults {
        section.conflict(&["client_auth"], "client_auth without client_ca: say whose clients are let in");
    }
    let spoilt = has("client_ca") && trusted.is_none();
    let problem = |error: TlsError| section.conflict(&PAIR, error.to_string());
    let identity = chain.zip(key).map(|(chain, key)| Identity::of_server(chain, key).map_err(problem).ok());
    let server = identity.flatten().filter(|_| !spoilt).and_then(|identity| {
        let clients = trusted.map(|trusted| ClientAuthorities { trusted, optional: auth });
        TlsServer::new(ServerTlsSettings { identity, clients }).map_err(problem).ok()
    });
    section.finish();
    server
}

/// What a PEM file holds, named from the configuration file's folder.
fn pem<T>(section: &Section<'_>, key: &'static str, load: fn(&Path) -> Result<T, TlsError>) -> Option<T> {
    section.text(key, "the name of a file", |name| {
        load(&section.doc.absolute(name)).map_err(|error| error.to_string())
    })
}
