//! The token that goes with every request, and whether its file has changed since.

use super::ConsulError;
use crate::registry::Credential;
use http::HeaderValue;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// What a client shows of itself.
#[derive(Clone, Debug)]
pub(super) struct Token(pub(super) Option<Credential>);

/// Tells one state of a token file from another; the same for a file that is not there and for no file at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stamp(Option<FileStamp>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    changed: (i64, i64),
}

impl Token {
    /// Between two looks at the file.
    const LOOK: Duration = Duration::from_secs(1);

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
            Some(Credential::File(path)) => stamp(path).await,
            _ => Stamp::default(),
        }
    }

    /// Ends when the file is no longer as it was; never where there is none.
    pub(super) async fn changed(&self, since: &Stamp) {
        let Some(Credential::File(path)) = &self.0 else { return std::future::pending().await };
        loop {
            tokio::time::sleep(Self::LOOK).await;
            if stamp(path).await != *since {
                return;
            }
        }
    }
}

async fn stamp(path: &Path) -> Stamp {
    let meta = tokio::fs::metadata(path).await.ok();
    Stamp(meta.map(|meta| FileStamp {
        inode: meta.ino(),
        size: meta.size(),
        changed: (meta.ctime(), meta.ctime_nsec()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Secret;

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

    #[tokio::test]
    async fn a_file_that_comes_changes_or_is_replaced_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, new) = (folder.path().join("token"), folder.path().join("new"));
        let token = Token(Some(Credential::File(path.clone())));
        let soon = Duration::from_secs(5);
        let none = token.stamp().await;
        std::fs::write(&path, "one").unwrap();
        tokio::time::timeout(soon, token.changed(&none)).await.expect("it came");
        let one = token.stamp().await;
        let still = tokio::time::timeout(Token::LOOK * 2, token.changed(&one)).await;
        assert!(still.is_err(), "nothing has changed");
        std::fs::write(&new, "two").unwrap();
        std::fs::rename(&new, &path).unwrap();
        tokio::time::timeout(soon, token.changed(&one)).await.expect("it was replaced");
        let two = token.stamp().await;
        std::fs::write(&path, "six").unwrap();
        tokio::time::timeout(soon, token.changed(&two)).await.expect("it was written over");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_file_never_changes() {
        for token in [Token(None), Token(Some(Credential::Text(Secret::new("one"))))] {
            let now = token.stamp().await;
            assert!(tokio::time::timeout(Duration::from_secs(3600), token.changed(&now)).await.is_err());
        }
    }
}
