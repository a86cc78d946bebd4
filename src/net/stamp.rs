//! Whether a file is still the one that was read.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two looks at a file.
pub const LOOK: Duration = Duration::from_secs(1);

/// Tells one state of a file from another; the same for a file that is not there and for no file at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stamp(Option<Found>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    changed: (i64, i64),
}

impl Found {
    fn new(meta: &Metadata) -> Self {
        Self { inode: meta.ino(), size: meta.size(), changed: (meta.ctime(), meta.ctime_nsec()) }
    }
}

impl Stamp {
    /// How the file stands now; a link is followed.
    pub async fn of(path: &Path) -> Self {
        Self(tokio::fs::metadata(path).await.ok().map(|meta| Found::new(&meta)))
    }

    /// How several files stand now.
    pub async fn of_all(paths: &[PathBuf]) -> Vec<Self> {
        let mut stamps = Vec::with_capacity(paths.len());
        for path in paths {
            stamps.push(Self::of(path).await);
        }
        stamps
    }

    /// As [`Self::of_all`], where waiting for the disk harms nobody.
    pub fn of_all_now(paths: &[PathBuf]) -> Vec<Self> {
        let found = |path| std::fs::metadata(path).ok().map(|meta| Found::new(&meta));
        paths.iter().map(|path| Self(found(path))).collect()
    }

    /// Ends when the file is no longer as it was. Cancel-safe.
    pub async fn changed(&self, path: &Path) {
        loop {
            tokio::time::sleep(LOOK).await;
            if Self::of(path).await != *self {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_comes_changes_or_is_replaced_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, new) = (folder.path().join("token"), folder.path().join("new"));
        let soon = Duration::from_secs(5);
        let none = Stamp::of(&path).await;
        assert_eq!(none, Stamp::default());
        std::fs::write(&path, "one").unwrap();
        tokio::time::timeout(soon, none.changed(&path)).await.expect("it came");
        let one = Stamp::of(&path).await;
        let still = tokio::time::timeout(LOOK * 2, one.changed(&path)).await;
        assert!(still.is_err(), "nothing has changed");
        std::fs::write(&new, "two").unwrap();
        std::fs::rename(&new, &path).unwrap();
        tokio::time::timeout(soon, one.changed(&path)).await.expect("it was replaced");
        let two = Stamp::of(&path).await;
        std::fs::write(&path, "six").unwrap();
        tokio::time::timeout(soon, two.changed(&path)).await.expect("it was written over");
        let all = Stamp::of_all(&[path.clone(), new]).await;
        assert_eq!(all, [Stamp::of(&path).await, Stamp::default()]);
    }
}
