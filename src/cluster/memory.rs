//! What is remembered of a cluster's sources over a restart: read once at the start, written as it changes.

use super::book::Book;
use crate::discovery::cache::{Cache, Kept};
use crate::discovery::{Answer, Link, Status, Trust};
use crate::model::ServiceName;
use crate::rt::Tasks;
use crate::telemetry::Kind;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::Instant;

/// Sources get this much time to answer before what is remembered of them serves.
const FIRST_WORD: Duration = Duration::from_secs(1);
/// The least time between two writes.
const PAUSE: Duration = Duration::from_secs(5);
/// An unchanged list is written again this often: it is still true.
const REFRESH: Duration = Duration::from_secs(300);

/// The lists of an earlier run, until their sources speak, and the pen for those of this one.
#[derive(Debug)]
pub struct Memory {
    /// By source; gone once it has been used or is of no use any more.
    kept: Vec<Option<Kept>>,
    recall_at: Instant,
    pen: Option<Pen>,
}

#[derive(Debug)]
struct Pen {
    hand: watch::Sender<Arc<[Kept]>>,
    /// When the lists of the earlier run were true, by source.
    before: Vec<Option<SystemTime>>,
    written: Option<Instant>,
    due: Instant,
}

impl Memory {
    /// Remembers nothing.
    pub fn none() -> Self {
        Self { kept: Vec::new(), recall_at: Instant::now(), pen: None }
    }

    /// Reads what the cache holds of these sources; tells what of it is refused. Writes there from now on.
    pub fn open(tasks: &Tasks, cache: Cache, service: &ServiceName, sources: &[Arc<Status>]) -> Self {
        let (mut lists, refused) = cache.load(SystemTime::now());
        for refusal in refused {
            tasks.events().emit(Kind::SnapshotRefused, service.as_str(), None, refusal.to_string());
        }
        let kept: Vec<_> = sources
            .iter()
            .map(|source| {
                let place = lists.iter().position(|list| list.url == source.url())?;
                Some(lists.swap_remove(place))
            })
            .collect();
        for list in lists {
            let detail = format!("a list of {}, which is no source of this service any more", list.url);
            tasks.events().emit(Kind::SnapshotRefused, service.as_str(), None, detail);
        }
        let now = Instant::now();
        let before = kept.iter().map(|list| list.as_ref().map(|list| list.as_of)).collect();
        let pen = Pen { hand: cache.keep(tasks), before, written: None, due: now + REFRESH };
        Self { kept, recall_at: now + FIRST_WORD, pen: Some(pen) }
    }

    /// Waits until what is remembered is to be used; for ever if that is nothing. Cancel-safe.
    pub(super) async fn recall(&self) {
        if self.kept.iter().all(Option::is_none) {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep_until(self.recall_at).await;
    }

    pub(super) fn take(&mut self, source: usize) -> Option<Kept> {
        self.kept.get_mut(source)?.take()
    }

    /// What must be known before the first answer of a source is heard: an empty or doubtful one may be its loss of
    /// memory. One that is beyond doubt makes what is remembered useless.
    pub(super) fn before(&mut self, source: usize, answer: &Answer) -> Option<Kept> {
        let kept = self.take(source)?;
        (answer.set.is_empty() || answer.trust != Trust::Trusted).then_some(kept)
    }

    /// The lists have changed: they are written soon.
    pub(super) fn changed(&mut self, now: Instant) {
        if let Some(pen) = &mut self.pen {
            let earliest = pen.written.map_or(now, |written| written + PAUSE).max(now);
            pen.due = pen.due.min(earliest);
        }
    }

    /// Waits until the lists are to be written. Cancel-safe.
    pub(super) async fn save_due(&self) {
        match &self.pen {
            Some(pen) => tokio::time::sleep_until(pen.due).await,
            None => std::future::pending().await,
        }
    }

    /// Writes down what the books say and when it was true.
    pub(super) fn save(&mut self, books: &[Book]) {
        let Some(pen) = &mut self.pen else { return };
        let now = Instant::now();
        let lists = books.iter().enumerate().filter_map(|(source, book)| {
            if let Some(kept) = self.kept.get(source).and_then(Option::as_ref) {
                return Some(kept.clone());
            }
            let view = book.feed.status.view(now);
            let as_of = match (book.was_heard(), view.age) {
                (true, Some(age)) => {
                    let age = if view.link == Link::Live { Duration::ZERO } else { age };
                    SystemTime::now().checked_sub(age)?
                }
                _ => (*pen.before.get(source)?)?,
            };
            Some(Kept { url: view.url, as_of, set: book.set() })
        });
        let lists: Arc<[Kept]> = lists.collect();
        if !lists.is_empty() {
            pen.hand.send_replace(lists);
        }
        (pen.written, pen.due) = (Some(now), now + REFRESH);
    }
}
