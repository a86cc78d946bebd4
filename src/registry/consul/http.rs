//! The HTTP client, built anew when the files of its certificates change.

use super::ConsulError;
use crate::net::stamp::Stamp;
use crate::registry::{Names, TlsFiles, install_provider};
use arc_swap::ArcSwap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

/// Clones share connections and certificates.
#[derive(Clone, Debug)]
pub(super) struct Http(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Some agent is reached by https.
    encrypted: bool,
    files: TlsFiles,
    current: ArcSwap<Built>,
}

/// A client, and how the files stood that it was made of.
#[derive(Debug)]
pub(super) struct Built {
    pub client: reqwest::Client,
    /// We have a certificate of our own.
    pub identified: bool,
    stamps: Vec<Stamp>,
}

impl Http {
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

    /// # Errors
    /// If a file cannot be used.
    pub fn new(files: TlsFiles, encrypted: bool) -> Result<Self, ConsulError> {
        install_provider();
        let stamps = Stamp::of_all_now(&files.paths());
        let (client, identified) = build(&files, encrypted)?;
        let current = ArcSwap::from_pointee(Built { client, identified, stamps });
        Ok(Self(Arc::new(Shared { encrypted, files, current })))
    }

    /// The client to ask with. What runs on an earlier one's connections goes on; files that have become unusable change
    /// nothing, and are told once.
    pub async fn current(&self) -> Arc<Built> {
        let Shared { encrypted, files, current } = &*self.0;
        let known = current.load_full();
        if !encrypted || known.stamps.is_empty() {
            return known;
        }
        let stamps = Stamp::of_all(&files.paths()).await;
        if stamps == known.stamps {
            return known;
        }
        let built = match build(files, true) {
            Ok((client, identified)) => {
                tracing::info!("the certificates for Consul have changed and are in use");
                Built { client, identified, stamps }
            }
            Err(error) => {
                tracing::warn!(%error, "the certificates for Consul have changed and cannot be used: those before stay");
                Built { client: known.client.clone(), identified: known.identified, stamps }
            }
        };
        let built = Arc::new(built);
        current.store(Arc::clone(&built));
        built
    }
}

fn build(files: &TlsFiles, encrypted: bool) -> Result<(reqwest::Client, bool), ConsulError> {
    let mut identified = false;
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("outrigger/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Http::CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .gzip(true)
        .dns_resolver(Names::default())
        .no_proxy();
    if encrypted {
        builder = builder.tls_certs_merge(files.trusted()?);
        if let Some(identity) = files.identity()? {
            builder = builder.identity(identity);
            identified = true;
        }
    } else {
        // Without this the system's certificates are loaded, and a container without any could not even use http.
        builder = builder.tls_certs_only([]);
    }
    let client = builder.build().map_err(|error| ConsulError::Settings(root(&error)))?;
    Ok((client, identified))
}

/// The innermost cause.
pub(super) fn root(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
