//! TLS: what is trusted, who we are, and the handshake. The client's side is here, the server's in [`server`].

mod failure;
mod pem;
pub mod server;
mod unverified;

pub use failure::TlsFailure;
pub use pem::{Identity, TlsError, authorities, certificates, pem, private_key};
pub use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
pub use tokio_rustls::client::TlsStream;

use arc_swap::ArcSwap;
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use unverified::Unverified;

/// Makes ring this process's provider of cryptography, unless one is installed already. Needed before a TLS client
/// of another crate is built; calling it again is harmless.
pub fn install_provider() {
    // The error only says that a provider is there, which is what was wanted.
    let _ = ring::default_provider().install_default();
}

/// How servers are verified, and what they are shown.
#[derive(Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// Trusted in addition to the system's own.
    pub trusted: Vec<CertificateDer<'static>>,
    /// Our own certificate, for servers that ask for one.
    pub identity: Option<Identity>,
    /// What a server is called, and what its certificate must be for; `None` is the address that is connected to.
    pub server_name: Option<ServerName<'static>>,
    /// `false` takes every certificate from everyone.
    pub verify: bool,
    /// Application protocols that are offered (RFC 7301), the preferred one first; none is fine with every server.
    pub alpn: Vec<Vec<u8>>,
}

/// Makes TLS of connections. Clones share what was loaded, so that [`Self::reload`] reaches all of them; two are equal if
/// they were made of the same settings.
#[derive(Clone)]
pub struct TlsClient {
    loaded: Arc<ArcSwap<Loaded>>,
    files: ClientFiles,
    /// What this clone offers; `None` is what the settings say.
    alpn: Option<&'static [&'static [u8]]>,
}

/// Where parts of the settings come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFiles {
    pub ca: Option<PathBuf>,
    /// Certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// What handshakes are made of.
struct Loaded {
    settings: TlsSettings,
    config: Arc<ClientConfig>,
}

impl Loaded {
    fn new(settings: TlsSettings) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Refused)?;
        let builder = if settings.verify {
            builder.with_root_certificates(roots(&settings.trusted)?)
        } else {
            builder.dangerous().with_custom_certificate_verifier(unverified(&provider))
        };
        let mut config = match &settings.identity {
            Some(own) => builder.with_client_auth_cert(own.chain.clone(), own.key.clone_key())?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&settings.alpn);
        // A resumed session shows no certificate: what has expired or was replaced since would pass for days.
        config.resumption = Resumption::disabled();
        Ok(Self { settings, config: Arc::new(config) })
    }
}

impl TlsClient {
    /// Loads the system's certificates.
    ///
    /// # Errors
    /// If there is nothing to trust, or the identity cannot be used.
    pub fn new(settings: TlsSettings) -> Result<Self, TlsError> {
        Self::of_files(settings, ClientFiles::default())
    }

    /// As [`Self::new`], of settings that come from these files, and may be read from them again.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_files(settings: TlsSettings, files: ClientFiles) -> Result<Self, TlsError> {
        let loaded = Arc::new(ArcSwap::from_pointee(Loaded::new(settings)?));
        Ok(Self { loaded, files, alpn: None })
    }

    /// What it was made of.
    pub fn files(&self) -> Vec<PathBuf> {
        let ClientFiles { ca, identity } = &self.files;
        let pair = identity.iter().flat_map(|(cert, key)| [cert, key]);
        ca.iter().chain(pair).cloned().collect()
    }

    /// As [`Self::reload`], with what the files hold at this moment.
    ///
    /// # Errors
    /// If a file cannot be used; then nothing has changed.
    pub fn reread(&self) -> Result<(), TlsError> {
        let ClientFiles { ca, identity } = &self.files;
        let trusted = ca.as_deref().map(authorities).transpose()?.unwrap_or_default();
        let identity = match identity {
            Some((cert, key)) => Some(Identity::new(certificates(cert)?, private_key(key)?)?),
            None => None,
        };
        let settings = {
            let TlsSettings { server_name, verify, alpn, .. } = &self.loaded.load().settings;
            let (server_name, alpn) = (server_name.clone(), alpn.clone());
            TlsSettings { trusted, identity, server_name, verify: *verify, alpn }
        };
        self.reload(settings)
    }

    /// From now on handshakes of this client and of all its clones are made of these settings; connections that are
    /// there stay as they are.
    ///
    /// # Errors
    /// As [`Self::new`]; then nothing has changed.
    pub fn reload(&self, settings: TlsSettings) -> Result<(), TlsError> {
        self.loaded.store(Arc::new(Loaded::new(settings)?));
        Ok(())
    }

    /// The same client offering other application protocols (RFC 7301), the preferred one first.
    #[must_use]
    pub fn offering(&self, alpn: &'static [&'static [u8]]) -> Self {
        Self { loaded: Arc::clone(&self.loaded), files: self.files.clone(), alpn: Some(alpn) }
    }

    /// We have a certificate of our own.
    pub fn is_identified(&self) -> bool {
        self.loaded.load().settings.identity.is_some()
    }

    /// What a server at `addr` is called: the name of the settings, else the one that is given, else its address.
    ///
    /// # Errors
    /// If the name that is given cannot be a server's.
    pub fn name_of(&self, addr: IpAddr, given: Option<&str>) -> Result<ServerName<'static>, TlsFailure> {
        match (&self.loaded.load().settings.server_name, given) {
            (Some(name), _) => Ok(name.clone()),
            (None, Some(given)) => server_name(given).ok_or_else(|| TlsFailure::BadName(given.to_owned())),
            (None, None) => Ok(ServerName::from(addr)),
        }
    }

    /// Makes TLS of a connection to the server of this name ([`Self::name_of`]). Takes as long as the server does.
    ///
    /// # Errors
    /// If the server speaks no TLS, or one side does not accept the other.
    pub async fn connect(
        &self,
        name: ServerName<'static>,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, TlsFailure> {
        let (connector, anonymous) = {
            let loaded = self.loaded.load();
            (TlsConnector::from(Arc::clone(&loaded.config)), loaded.settings.identity.is_none())
        };
        let connected = match self.alpn {
            Some(alpn) => {
                let alpn = alpn.iter().map(|protocol| protocol.to_vec()).collect();
                connector.with_alpn(alpn).connect(name.clone(), stream).await
            }
            None => connector.connect(name.clone(), stream).await,
        };
        connected.map_err(|error| TlsFailure::of_handshake(&error, &name, anonymous))
    }
}

/// A host's name, or an IP address; one of version 6 may stand in brackets.
pub fn server_name(text: &str) -> Option<ServerName<'static>> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    ServerName::try_from(bare.to_owned()).ok()
}

impl PartialEq for TlsClient {
    fn eq(&self, other: &Self) -> bool {
        self.alpn == other.alpn
            && (Arc::ptr_eq(&self.loaded, &other.loaded)
                || self.loaded.load().settings == other.loaded.load().settings)
    }
}

impl Eq for TlsClient {}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsClient").field(&self.loaded.load().settings).finish()
    }
}

/// Says goodbye and waits for the server's: with TLS 1.3 a server judges our certificate, or the lack of one, only
/// after our side of the handshake is over (RFC 8446, section 4.4.2.4). Takes as long as the server does, which may be
/// for ever: nothing obliges it to close when we do.
///
/// # Errors
/// What the server had against us. Any other end is none: the handshake itself was fine.
pub async fn part(mut stream: TlsStream<TcpStream>) -> Result<(), TlsFailure> {
    if stream.get_ref().1.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return Ok(());
    }
    // The answer is read whether or not it could be asked for.
    let _ = stream.shutdown().await;
    match stream.read_u8().await.as_ref().map_err(TlsFailure::of_stream) {
        Err(Some(failure)) => Err(failure),
        Ok(_) | Err(None) => Ok(()),
    }
}

/// The system's certificates and `own`.
fn roots(own: &[CertificateDer<'static>]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    // Systems keep odd certificates, too: what cannot be read is not trusted.
    roots.add_parsable_certificates(system.certs);
    roots.add_parsable_certificates(own.iter().cloned());
    if roots.is_empty() {
        let cause = system.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(TlsError::NothingToTrust(cause));
    }
    Ok(roots)
}

fn unverified(provider: &Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Unverified(Arc::clone(provider)))
}
