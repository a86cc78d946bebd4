//! Certificates and keys out of PEM files (RFC 7468), and what may be wrong with them.

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::path::Path;

/// TLS settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}: {cause}")]
    Unreadable { path: String, cause: String },
    #[error("{path} holds no {what}")]
    Useless { path: String, what: &'static str },
    #[error("{path} holds a damaged {what}: {cause}")]
    Damaged { path: String, what: &'static str, cause: String },
    #[error("a client certificate needs both cert and key")]
    Half,
    #[error("the client's certificate and key do not fit together: {0}")]
    Mismatch(String),
    #[error("the certificate and the key do not fit together: {0}")]
    Unfit(String),
    #[error("the authorities of clients cannot be used: {0}")]
    Clients(String),
    #[error("nothing to trust: this system has no certificates of its own{0}")]
    NothingToTrust(String),
    #[error("TLS cannot be used: {0}")]
    Refused(#[from] rustls::Error),
}

/// A certificate chain, the own certificate first, and the key that belongs to it.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Identity {
    /// # Errors
    /// If the key is not the certificate's.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, TlsError> {
        Self::fitting(chain, key).map_err(TlsError::Mismatch)
    }

    /// As [`Identity::new`], for what a server shows.
    ///
    /// # Errors
    /// If the key is not the certificate's.
    pub fn of_server(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, TlsError> {
        Self::fitting(chain, key).map_err(TlsError::Unfit)
    }

    fn fitting(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, String> {
        match CertifiedKey::from_der(chain.clone(), key.clone_key(), &ring::default_provider()) {
            Ok(_) => Ok(Self { chain, key }),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The bytes of a file.
///
/// # Errors
/// Which file, and the system's reason.
pub fn pem(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path)
        .map_err(|e| TlsError::Unreadable { path: path.display().to_string(), cause: e.to_string() })
}

/// All certificates of a PEM file; at least one.
///
/// # Errors
/// If the file cannot be read, or is no such file.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    const WHAT: &str = "PEM certificate";
    let text = pem(path)?;
    let read: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    let path = || path.display().to_string();
    match read {
        Ok(certificates) if certificates.is_empty() => Err(TlsError::Useless { path: path(), what: WHAT }),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(TlsError::Damaged { path: path(), what: WHAT, cause: error.to_string() }),
    }
}

/// As [`certificates`], each of them good as the issuer of others.
///
/// # Errors
/// As [`certificates`].
pub fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let authorities = certificates(path)?;
    let mut roots = RootCertStore::empty();
    for authority in &authorities {
        roots.add(authority.clone()).map_err(|error| TlsError::Damaged {
            path: path.display().to_string(),
            what: "PEM certificate",
            cause: error.to_string(),
        })?;
    }
    Ok(authorities)
}

/// The first private key of a PEM file.
///
/// # Errors
/// If the file cannot be read, or holds no key that can be used.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = pem(path)?;
    let path = || path.display().to_string();
    let damaged = |cause: String| TlsError::Damaged { path: path(), what: "private key", cause };
    let key = match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => key,
        Err(pem::Error::NoItemsFound) => {
            let what = "private key in PEM without a passphrase";
            return Err(TlsError::Useless { path: path(), what });
        }
        Err(error) => return Err(damaged(error.to_string())),
    };
    match ring::default_provider().key_provider.load_private_key(key.clone_key()) {
        Ok(_) => Ok(key),
        Err(error) => Err(damaged(error.to_string())),
    }
}
