//! TLS towards registries: one provider of cryptography, certificates from PEM files.

use super::TlsFiles;
use std::path::Path;

/// Makes ring this process's provider of cryptography, unless one is installed already. Needed before any TLS
/// client is built; calling it again is harmless.
pub fn install_provider() {
    // The error only says that a provider is there, which is what was wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A file of the TLS settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}: {cause}")]
    Unreadable { path: String, cause: String },
    #[error("{path} holds no {what}")]
    Useless { path: String, what: &'static str },
    #[error("a client certificate needs both cert and key")]
    Half,
}

impl TlsFiles {
    /// The certificates to trust in addition to the system's own.
    pub(super) fn trusted(&self) -> Result<Vec<reqwest::Certificate>, TlsError> {
        let Some(path) = &self.ca else { return Ok(Vec::new()) };
        match reqwest::Certificate::from_pem_bundle(&read(path)?) {
            Ok(certificates) if !certificates.is_empty() => Ok(certificates),
            _ => Err(TlsError::Useless { path: path.display().to_string(), what: "PEM certificate" }),
        }
    }

    /// Our own certificate, if there is one.
    pub(super) fn identity(&self) -> Result<Option<reqwest::Identity>, TlsError> {
        let (cert, key) = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => (cert, key),
            (None, None) => return Ok(None),
            _ => return Err(TlsError::Half),
        };
        let mut pem = read(cert)?;
        pem.push(b'\n');
        pem.extend(read(key)?);
        reqwest::Identity::from_pem(&pem).map(Some).map_err(|_| TlsError::Useless {
            path: format!("{} with {}", cert.display(), key.display()),
            what: "PEM certificate with its private key",
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path)
        .map_err(|e| TlsError::Unreadable { path: path.display().to_string(), cause: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unusable_file_is_named() {
        let missing = TlsFiles { ca: Some("/nonexistent/ca.pem".into()), ..TlsFiles::default() };
        assert!(missing.trusted().unwrap_err().to_string().starts_with("cannot read /nonexistent/ca.pem: "));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, "no certificate").unwrap();
        let files = TlsFiles { ca: Some(path.clone()), cert: Some(path.clone()), key: Some(path.clone()) };
        let error = files.trusted().unwrap_err().to_string();
        assert_eq!(error, format!("{} holds no PEM certificate", path.display()));
        assert!(files.identity().unwrap_err().to_string().contains("private key"));
        let half = TlsFiles { key: None, ..files };
        assert!(matches!(half.identity(), Err(TlsError::Half)));
    }
}
