//! The server's side of TLS: who we are to clients, whom of them we let in, and the handshake.

use super::{Identity, TlsError, authorities, certificates, private_key};
use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// HTTP/2 as RFC 7301 calls it.
pub const H2: &[u8] = b"h2";
/// HTTP/1.1 as RFC 7301 calls it.
pub const HTTP_1_1: &[u8] = b"http/1.1";

/// What a listener shows, and what it asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct ServerTlsSettings {
    /// Our own certificate.
    pub identity: Identity,
    /// Issuers of the clients' certificates.
    pub clients: Option<ClientAuthorities>,
}

/// Whose clients are let in.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientAuthorities {
    /// At least one.
    pub trusted: Vec<CertificateDer<'static>>,
    /// Clients without a certificate are let in, too; those with a wrong one are not.
    pub optional: bool,
}

/// Where the settings come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub client_ca: Option<PathBuf>,
}

/// Makes TLS of connections that were accepted. Clones share what was loaded, and what is loaded later.
#[derive(Clone)]
pub struct TlsServer {
    loaded: Arc<ArcSwap<Loaded>>,
    files: ServerFiles,
}

struct Loaded {
    settings: ServerTlsSettings,
    config: Arc<ServerConfig>,
    /// The same for what is no HTTP.
    bare: Arc<ServerConfig>,
}

impl TlsServer {
    /// Offers HTTP/2 and HTTP/1.1 to clients that ask (RFC 7301); others decide by what they say.
    ///
    /// # Errors
    /// If certificate or key cannot be used.
    pub fn new(settings: ServerTlsSettings, files: ServerFiles) -> Result<Self, TlsError> {
        Ok(Self { loaded: Arc::new(ArcSwap::from_pointee(load(settings)?)), files })
    }

    /// What it was made of.
    pub fn files(&self) -> Vec<PathBuf> {
        let ServerFiles { cert, key, client_ca } = &self.files;
        [Some(cert), Some(key), client_ca.as_ref()].into_iter().flatten().cloned().collect()
    }

    /// Handshakes from now on use what the files hold at this moment; connections that are open go on.
    ///
    /// # Errors
    /// If a file cannot be used; then nothing has changed.
    pub fn reread(&self) -> Result<(), TlsError> {
        let ServerFiles { cert, key, client_ca } = &self.files;
        let identity = Identity::of_server(certificates(cert)?, private_key(key)?)?;
        let trusted = client_ca.as_deref().map(authorities).transpose()?;
        let optional = self.loaded.load().settings.clients.as_ref().is_some_and(|clients| clients.optional);
        let clients = trusted.map(|trusted| ClientAuthorities { trusted, optional });
        self.loaded.store(Arc::new(load(ServerTlsSettings { identity, clients })?));
        Ok(())
    }

    /// The server's part of the handshake. Takes as long as the client does.
    ///
    /// # Errors
    /// If the client speaks no TLS, or one side does not accept the other.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = Arc::clone(&self.loaded.load().config);
        TlsAcceptor::from(config).accept(stream).await
    }

    /// As [`Self::accept`], for bytes that are no HTTP: whatever protocol the client offers, none is agreed on.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub async fn accept_bytes(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = Arc::clone(&self.loaded.load().bare);
        TlsAcceptor::from(config).accept(stream).await
    }
}

fn load(settings: ServerTlsSettings) -> Result<Loaded, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Refused)?;
    let builder = match &settings.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            for authority in &clients.trusted {
                roots.add(authority.clone())?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if clients.optional { verifier.allow_unauthenticated() } else { verifier };
            let verifier = verifier.build().map_err(|error| TlsError::Clients(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let own = &settings.identity;
    let mut config = builder.with_single_cert(own.chain.clone(), own.key.clone_key())?;
    if settings.clients.is_some() {
        // A resumed session shows no certificate: what has expired or is not trusted any more would pass.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    let bare = Arc::new(config.clone());
    config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
    Ok(Loaded { settings, config: Arc::new(config), bare })
}

impl PartialEq for TlsServer {
    fn eq(&self, other: &Self) -> bool {
        self.files == other.files && self.loaded.load().settings == other.loaded.load().settings
    }
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsServer").field(&self.loaded.load().settings).finish()
    }
}
