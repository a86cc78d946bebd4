//! `[service.NAME.listen_tls]`: TLS towards the application.

use super::section::Section;
use crate::net::tls::server::{ClientAuthorities, ServerFiles, ServerTlsSettings, TlsServer};
use crate::net::tls::{Identity, TlsError, authorities, certificates, private_key};
use std::path::{Path, PathBuf};

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
    let server = chain.zip(key).filter(|_| !spoilt).and_then(|((cert, chain), (key, private))| {
        let identity = Identity::of_server(chain, private).map_err(problem).ok()?;
        let (client_ca, trusted) = trusted.unzip();
        let clients = trusted.map(|trusted| ClientAuthorities { trusted, optional: auth });
        let files = ServerFiles { cert, key, client_ca };
        TlsServer::new(ServerTlsSettings { identity, clients }, files).map_err(problem).ok()
    });
    section.finish();
    server
}

/// A PEM file, named from the configuration file's folder, and what it holds.
pub(super) fn pem<T>(
    section: &Section<'_>,
    key: &'static str,
    load: fn(&Path) -> Result<T, TlsError>,
) -> Option<(PathBuf, T)> {
    section.text(key, "the name of a file", |name| {
        let path = section.doc.absolute(name);
        let held = load(&path).map_err(|error| error.to_string())?;
        Ok((path, held))
    })
}
