//! TLS towards registries: certificates from PEM files, as their clients want them.

use super::TlsFiles;
use crate::net::tls::{TlsError, certificates, pem};
use std::path::PathBuf;

impl TlsFiles {
    /// The files that are given.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        [&self.ca, &self.cert, &self.key].into_iter().flatten().cloned().collect()
    }

    /// The certificates to trust in addition to the system's own.
    pub(super) fn trusted(&self) -> Result<Vec<reqwest::Certificate>, TlsError> {
        let Some(path) = &self.ca else { return Ok(Vec::new()) };
        let useless = |_| TlsError::Useless { path: path.display().to_string(), what: "PEM certificate" };
        certificates(path)?.iter().map(|der| reqwest::Certificate::from_der(der).map_err(useless)).collect()
    }

    /// Our own certificate, if there is one.
    pub(super) fn identity(&self) -> Result<Option<reqwest::Identity>, TlsError> {
        let (cert, key) = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => (cert, key),
            (None, None) => return Ok(None),
            _ => return Err(TlsError::Half),
        };
        let mut text = pem(cert)?;
        text.push(b'\n');
        text.extend(pem(key)?);
        reqwest::Identity::from_pem(&text).map(Some).map_err(|_| TlsError::Useless {
            path: format!("{} with {}", cert.display(), key.display()),
            what: "PEM certificate with its private key",
        })
    }
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
