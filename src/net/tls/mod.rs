//! TLS: what is trusted, who we are, and the handshake. The client's side is here, the server's in [`server`].

mod failure;
mod pem;
pub mod server;
mod unverified;

pub use failure::TlsFailure;
pub use pem::{Identity, TlsError, authorities, certificates, pem, private_key};
pub use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
pub use tokio_rustls::client::TlsStream;

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore};
use std::fmt;
use std::net::IpAddr;
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

/// Makes TLS of connections. Clones share what was loaded; two are equal if they were made of the same settings.
#[derive(Clone)]
pub struct TlsClient {
    settings: Arc<TlsSettings>,
    connector: TlsConnector,
}

impl TlsClient {
    /// Loads the system's certificates.
    ///
    /// # Errors
    /// If there is nothing to trust, or the identity cannot be used.
    pub fn new(settings: TlsSettings) -> Result<Self, TlsError> {
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
        Ok(Self { settings: Arc::new(settings), connector: TlsConnector::from(Arc::new(config)) })
    }

    /// We have a certificate of our own.
    pub fn is_identified(&self) -> bool {
        self.settings.identity.is_some()
    }

    /// Makes TLS of a connection to `addr`. Takes as long as the server does.
    ///
    /// # Errors
    /// If the server speaks no TLS, or one side does not accept the other.
    pub async fn connect(&self, addr: IpAddr, stream: TcpStream) -> Result<TlsStream<TcpStream>, TlsFailure> {
        let name = self.settings.server_name.clone().unwrap_or_else(|| ServerName::from(addr));
        let connecting = self.connector.connect(name.clone(), stream);
        connecting.await.map_err(|error| TlsFailure::of_handshake(&error, &name, !self.is_identified()))
    }
}

impl PartialEq for TlsClient {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsClient").field(&self.settings).finish()
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
