//! The token that goes with every request, and whether its file has changed since.

use super::ConsulError;
use crate::net::stamp::Stamp;
use crate::registry::Credential;
use http::HeaderValue;

/// What a client shows of itself.
#[derive(Clone, Debug)]
pub(super) struct Token(pub(super) Option<Credential>);

impl Token {
    /// As a header. A file is read for every request: that is cheap, and sees every change.
    pub(super) async fn header(&self) -> Result<Option<HeaderValue>, ConsulError> {
        let header = |text: &str| {
            let mut header = HeaderValue::from_str(text).ok()?;
            header.set_sensitive(true);
            Some(header)
        };
        match &self.0 {
            None => Ok(None),
            Some(Credential::Text(secret)) => header(secret.reveal().trim())
                .map(Some)
                .ok_or_else(|| ConsulError::Settings("the token holds characters that no token has".into())),
            Some(Credential::File(path)) => {
                let fail = |problem: String| ConsulError::Token { path: path.display().to_string(), problem };
                let text = tokio::fs::read_to_string(path)
                    .await
                    .map_err(|e| fail(format!("cannot be read: {e}")))?;
                match text.trim() {
                    "" => Err(fail("is empty".into())),
                    token => header(token).map(Some).ok_or_else(|| fail("holds more than one token".into())),
                }
            }
        }
    }

    /// How the file stands now.
    pub(super) async fn stamp(&self) -> Stamp {
        match &self.0 {
            Some(Credential::File(path)) => Stamp::of(path).await,
            _ => Stamp::default(),
        }
    }

    /// Ends when the file is no longer as it was; never where there is none.
    pub(super) async fn changed(&self, since: &Stamp) {
        let Some(Credential::File(path)) = &self.0 else { return std::future::pending().await };
        since.changed(path).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Secret;
    use std::time::Duration;

    #[tokio::test]
    async fn a_file_is_read_again_and_an_unusable_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let token = Token(Some(Credential::File(path.clone())));
        let missing = token.header().await.unwrap_err();
        assert!(missing.to_string().contains(path.to_str().unwrap()), "{missing}");
        assert!(!missing.is_of_the_agent());
        for text in ["one\n", " two "] {
            std::fs::write(&path, text).unwrap();
            let header = token.header().await.unwrap().unwrap();
            assert_eq!(header.to_str().unwrap(), text.trim());
            assert_eq!(format!("{header:?}"), "Sensitive");
        }
        for useless in ["", "\n", "two\nlines"] {
            std::fs::write(&path, useless).unwrap();
            let error = token.header().await.unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()) && !error.contains("two"), "{error}");
        }
        let token = Token(Some(Credential::Text(Secret::new("bad\u{1}token"))));
        assert!(!token.header().await.unwrap_err().to_string().contains("bad"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_file_never_changes() {
        for token in [Token(None), Token(Some(Credential::Text(Secret::new("one"))))] {
            let now = token.stamp().await;
            assert!(tokio::time::timeout(Duration::from_secs(3600), token.changed(&now)).await.is_err());
        }
    }
}
