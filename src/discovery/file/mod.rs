//! A file that lists endpoints and is watched: the registry of a single machine.

mod format;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;

use super::{Answer, Discover, DiscoverError, FileQuery};
use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

/// Compared this often even when the system reports no change: network file systems report none.
const POLL: Duration = Duration::from_secs(2);
/// A change is read when the file has been the same for this long ...
const SETTLE: Duration = Duration::from_millis(20);
/// ... or has kept changing for this long.
const UNSETTLED: Duration = Duration::from_millis(100);
/// Ten thousand endpoints take about one MiB.
const LARGEST: u64 = 16 << 20;

/// The endpoints that a `.toml` or `.json` file lists.
///
/// ```toml
/// endpoints = [                       # or [services.NAME] with a list of its own for each service
///   "10.0.0.1:80",
///   { addr = "10.0.0.2:80", weight = 3, zone = "a", id = "x", meta = { k = "v" } },
/// ]
/// ```
///
/// JSON has the same keys, or is just the list. `localhost` is the only name; an entry that cannot be used is skipped.
///
/// What counts is the content under the path, however it came there: edited in place, renamed over, by a symlink that
/// points elsewhere now, deleted and made anew. A file that cannot be read or understood is an error, which is told once
/// and then again only when the content changes or when [`Discover::rewind`] asks for it; so the file's mending is
/// noticed at once, not after a back-off. A list that is there and empty is believed.
///
/// Dropping it ends the watch.
#[derive(Debug)]
pub struct File {
    query: FileQuery,
    /// The last reading that was answered, good or bad.
    answered: Option<Reading>,
    watcher: Option<RecommendedWatcher>,
    changed: Arc<Notify>,
}

/// The content, or why there is none.
type Reading = Result<Arc<[u8]>, String>;

impl File {
    pub fn new(query: FileQuery) -> Self {
        Self { query, answered: None, watcher: None, changed: Arc::new(Notify::new()) }
    }

    async fn read(&self) -> Reading {
        let path = self.query.path.clone();
        // A file system that hangs may hold up this source, but nothing else.
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        read.unwrap_or_else(|end| Err(end.to_string()))
    }

    /// Waits for the end of a change: truncation and writing are two moments, as are removal and replacement.
    async fn settled(&self, mut reading: Reading) -> Reading {
        let deadline = Instant::now() + UNSETTLED;
        while Instant::now() < deadline {
            sleep(SETTLE).await;
            let again = self.read().await;
            if again == reading {
                break;
            }
            reading = again;
        }
        reading
    }

    /// Has the system report changes. Where it cannot, polling must do; it is tried again with every poll.
    async fn watch(&mut self) {
        if self.watcher.is_some() {
            return;
        }
        let (path, changed) = (self.query.path.clone(), Arc::clone(&self.changed));
        match tokio::task::spawn_blocking(move || watcher(path, changed)).await {
            Ok(Ok(watcher)) => self.watcher = Some(watcher),
            Ok(Err(error)) => {
                tracing::debug!(path = %self.query.path.display(), %error, "no watch, only polls")
            }
            Err(_) => {}
        }
    }
}

impl Discover for File {
    async fn next(&mut self) -> Result<Answer, DiscoverError> {
        let mut polled = false;
        loop {
            // First the watch, then the look: a change between the two is reported.
            self.watch().await;
            let mut reading = self.read().await;
            if self.answered.is_some() && self.answered.as_ref() != Some(&reading) {
                reading = self.settled(reading).await;
            }
            if self.answered.as_ref() != Some(&reading) {
                if polled {
                    // Nobody reported this change: the folder itself is another one now.
                    self.watcher = None;
                }
                self.answered = Some(reading.clone());
                return self.parse(reading);
            }
            polled = timeout_at(Instant::now() + POLL, self.changed.notified()).await.is_err();
        }
    }

    fn rewind(&mut self) {
        self.answered = None;
    }
}

impl File {
    fn parse(&self, reading: Reading) -> Result<Answer, DiscoverError> {
        let path = &self.query.path;
        let json = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
        let answer = reading.and_then(|content| {
            let text = std::str::from_utf8(&content).map_err(|error| format!("no UTF-8 text: {error}"))?;
            let text = text.strip_prefix('\u{feff}').unwrap_or(text);
            let parse = if json { format::from_json } else { format::from_toml };
            parse(text, &self.query.service).map_err(|error| error.to_string())
        });
        answer.map_err(|error| DiscoverError::Failed(format!("{}: {error}", path.display())))
    }
}

fn read(path: &Path) -> Reading {
    let read = || {
        let mut content = Vec::new();
        std::fs::File::open(path)?.take(LARGEST + 1).read_to_end(&mut content)?;
        Ok(content)
    };
    match read() {
        Ok(content) if content.len() as u64 > LARGEST => Err(format!("larger than {} MiB", LARGEST >> 20)),
        Ok(content) => Ok(content.into()),
        Err(error) => std::io::Result::Err(error).map_err(|error| error.to_string()),
    }
}

/// Watches the folder, for a watch on the file would follow it when it is renamed away.
fn watcher(path: PathBuf, changed: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if event.map_or(true, |event| concerns(&event, &path)) {
            changed.notify_one();
        }
    })?;
    watcher.watch(&folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// Whether an event in the folder may have changed what is under the path.
fn concerns(event: &Event, path: &Path) -> bool {
    match event.kind {
        // Our own reading is reported too.
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
        EventKind::Access(_) => return false,
        _ => {}
    }
    // The path may lead over a symlink beside it, such as Kubernetes' `..data`, which is swapped for a new one.
    event.paths.is_empty() || event.paths.iter().any(|p| p.file_name() == path.file_name() || p.is_symlink())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dropped_question_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.toml");
        std::fs::write(&path, "endpoints = ['10.0.0.1:80']").unwrap();
        let mut file = File::new(FileQuery { path: path.clone(), service: "web".into() });
        assert_eq!(file.next().await.unwrap().set.len(), 1);
        std::fs::write(&path, "endpoints = ['10.0.0.1:80', '10.0.0.2:80']").unwrap();
        // Dropped at every await in turn, over and over, until an answer comes out.
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut patience = Duration::from_micros(200);
        let answer = loop {
            match tokio::time::timeout(patience, file.next()).await {
                Ok(answer) => break answer.unwrap(),
                Err(_) => patience += Duration::from_micros(500),
            }
            assert!(Instant::now() < deadline);
        };
        assert_eq!(answer.set.len(), 2);
    }

    #[tokio::test]
    async fn the_same_error_is_told_once_and_again_when_asked_afresh() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.toml");
        let mut file = File::new(FileQuery { path: path.clone(), service: "web".into() });
        let error = file.next().await.unwrap_err().to_string();
        assert!(error.starts_with(path.to_str().unwrap()) && error.contains("No such file"), "{error}");
        let silent = tokio::time::timeout(Duration::from_millis(300), file.next()).await;
        assert!(silent.is_err(), "{silent:?}");
        file.rewind();
        assert!(file.next().await.is_err());
    }

    #[test]
    fn reading_the_file_is_no_change_of_it() {
        let path = Path::new("/srv/web.toml");
        let event = |kind, name: &str| Event::new(kind).add_path(Path::new("/srv").join(name));
        let opened = EventKind::Access(AccessKind::Open(AccessMode::Any));
        assert!(!concerns(&event(opened, "web.toml"), path));
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        assert!(concerns(&event(written, "web.toml"), path));
        assert!(!concerns(&event(written, "neighbour.log"), path));
        assert!(concerns(&Event::new(EventKind::Other), path), "events were lost: look");
    }
}
