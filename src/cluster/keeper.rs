//! The single writer of a cluster: answers and health flips in, snapshots out.

use super::book::Book;
use super::changes::Changes;
use super::eligible::{Eligible, eligible, eligible_part};
use super::memory::Memory;
use super::relist::Relist;
use super::roster::Roster;
use super::snapshot::{Member, Part, Snapshot};
use super::{Cluster, Graces};
use crate::discovery::{Answer, Feed};
use crate::model::Target;
use crate::rt::{Stop, Tasks};
use crate::telemetry::{Events, Kind};
use futures_util::future::select_all;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// After a change, the next one waits this long, so that a storm of them becomes a few.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// While endpoints are suspect their source is asked again this often.
const RECHECK: Duration = Duration::from_millis(1500);

/// What a keeper is wired to.
#[derive(Debug)]
pub struct Upkeep {
    /// Endpoints that are to be judged, as they come and go.
    pub targets: watch::Receiver<Arc<[Arc<Target>]>>,
    /// To be called after any health bit changed.
    pub health_changed: Arc<Notify>,
}

/// Turns facts into snapshots. Owned by its task; dropping it freezes the cluster.
#[derive(Debug)]
pub struct Keeper {
    cluster: Arc<Cluster>,
    /// In the order of the sources.
    books: Vec<Book>,
    roster: Roster,
    memory: Memory,
    relist: Relist,
    graces: Graces,
    events: Events,
    targets: watch::Sender<Arc<[Arc<Target>]>>,
    health_changed: Arc<Notify>,
    generation: u64,
    /// Some list was seen, or something usable was remembered.
    discovered: bool,
    /// The source that serves in failover.
    source: Option<usize>,
    panic: bool,
    /// Where each new picker begins.
    seed: u64,
}

impl Keeper {
    /// A keeper of what `feeds` say, in the order of the sources. What `memory` holds serves until they do.
    pub fn new(
        cluster: Arc<Cluster>,
        feeds: Vec<Feed>,
        graces: Graces,
        memory: Memory,
        events: Events,
        seed: u64,
    ) -> (Self, Upkeep) {
        let (targets, checked) = watch::channel(Arc::default());
        let health_changed = Arc::new(Notify::new());
        let upkeep = Upkeep { targets: checked, health_changed: Arc::clone(&health_changed) };
        let keeper = Self {
            roster: Roster::new(cluster.settings.checked),
            cluster,
            books: feeds.into_iter().map(Book::new).collect(),
            memory,
            relist: Relist::default(),
            graces,
            events,
            targets,
            health_changed,
            generation: 0,
            discovered: false,
            source: None,
            panic: false,
            seed,
        };
        (keeper, upkeep)
    }

    /// Keeps the cluster until the group stops.
    pub fn spawn(self, tasks: &Tasks) {
        tasks.spawn("keeper", |stop| self.run(stop));
    }

    async fn run(mut self, stop: Stop) {
        // Once set it stays until it has rung: a storm of flips must not put it off for ever.
        let mut due = None;
        loop {
            due = self.is_untidy().then(|| due.unwrap_or_else(|| Instant::now() + RECHECK));
            tokio::select! {
                () = stop.cancelled() => break,
                source = changed(&mut self.books) => {
                    let answer = self.books.get_mut(source).and_then(|b| b.feed.answers.borrow_and_update().clone());
                    if let Some(answer) = answer {
                        self.adopt(source, &answer, Instant::now());
                    }
                }
                // Before the first list there is nothing to publish.
                () = self.health_changed.notified() => if self.generation > 0 { self.publish(false) },
                () = self.relist.due(&self.cluster.doubted) => {
                    self.relist.ask(&self.books, Instant::now());
                    self.dispute();
                }
                () = self.memory.recall() => self.remember(Instant::now()),
                () = self.memory.save_due() => self.memory.save(&self.books),
                () = alarm(due) => {
                    due = None;
                    self.tidy(Instant::now());
                }
            }
            tokio::time::sleep(DEBOUNCE).await;
        }
        self.memory.save(&self.books);
    }

    /// Whether something is to be done without being told.
    fn is_untidy(&self) -> bool {
        self.roster.is_draining() || self.books.iter().any(Book::has_suspects)
    }

    /// Joins an answer of a source to what is known and swaps in what follows from it. A spawned keeper does it for each
    /// answer of its feeds.
    pub fn adopt(&mut self, source: usize, answer: &Answer, now: Instant) {
        let Some(book) = self.books.get_mut(source) else { return };
        let mut changes = Changes::default();
        if let Some(kept) = self.memory.before(source, answer) {
            book.remember(&kept.set, kept.as_of, &mut changes);
            self.roster.reconcile(&self.books, now, &mut changes);
        }
        if let Some(book) = self.books.get_mut(source) {
            book.hear(answer, |addr| self.roster.evidence(addr, now), &self.graces, now, &mut changes);
        }
        self.memory.changed(now);
        self.settle(changes, now);
    }

    /// Serves what was remembered of sources that have not answered yet.
    fn remember(&mut self, now: Instant) {
        let mut changes = Changes::default();
        let mut any = false;
        for (source, book) in self.books.iter_mut().enumerate() {
            if let Some(kept) = self.memory.take(source).filter(|kept| !kept.set.is_empty()) {
                let age = std::time::SystemTime::now().duration_since(kept.as_of).unwrap_or_default();
                let (count, url) = (kept.set.len(), &kept.url);
                let age = humantime::format_duration(Duration::from_secs(age.as_secs()));
                let detail = format!("{count} of {url}, which has not answered yet, as of {age} ago");
                self.events.emit(Kind::SnapshotUsed, self.cluster.name().as_str(), None, detail);
                book.remember(&kept.set, kept.as_of, &mut changes);
                any = true;
            }
        }
        if any {
            self.settle(changes, now);
        }
    }

    /// Ends graces that have run out, forgets drained targets, and asks about suspects again.
    fn tidy(&mut self, now: Instant) {
        let mut changes = Changes::default();
        let mut expired = false;
        for book in &mut self.books {
            expired |= book.expire(&self.graces, now, &mut changes);
        }
        let limit = self.cluster.settings.connections.drain + Duration::from_secs(5);
        let drained = self.roster.forget_drained(limit, now);
        if expired {
            self.memory.changed(now);
            self.settle(changes, now);
        } else if drained {
            self.publish(false);
        }
        self.books.iter_mut().for_each(|book| book.recheck(now));
    }

    /// Makes the targets what the books say, tells what changed, and publishes it.
    fn settle(&mut self, mut changes: Changes, now: Instant) {
        self.roster.reconcile(&self.books, now, &mut changes);
        changes.tell(&self.events, self.cluster.name().as_str());
        self.publish(true);
    }

    fn dispute(&mut self) {
        let mut changes = Changes::default();
        self.roster.dispute(&mut changes);
        changes.tell(&self.events, self.cluster.name().as_str());
    }

    /// Swaps in a new snapshot. The only place that does.
    fn publish(&mut self, listed_changed: bool) {
        self.generation += 1;
        // Weyl sequence: successive pickers begin far apart.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut members: Vec<Member> = self.roster.members().cloned().collect();
        let settings = &self.cluster.settings;
        let chosen = eligible(&members, settings.mode, self.books.len(), settings.panic);
        if let Some(source) = chosen.source {
            members.iter_mut().for_each(|member| {
                member.standby = member.source != source && member.target.history.trial.is_free()
            });
        }
        self.select(chosen.source);
        self.panic(&chosen);
        self.discovered |= !chosen.targets.is_empty() || self.books.iter().all(Book::was_heard);
        let eligible: Arc<[_]> = chosen.targets.into();
        let algorithm = self.cluster.settings.algorithm;
        let part = |subset| {
            let ours = eligible_part(&members, chosen.source, subset, self.cluster.settings.panic);
            Part::new(ours.into(), algorithm, self.seed)
        };
        let snapshot = Snapshot {
            parts: self.cluster.settings.subsets.iter().map(part).collect(),
            generation: self.generation,
            discovered: self.discovered,
            picker: algorithm.build(Arc::clone(&eligible), self.seed),
            panic: chosen.panic,
            eligible,
            members: members.into(),
        };
        tracing::debug!(
            cluster = %self.cluster.name(),
            generation = snapshot.generation,
            members = snapshot.members.len(),
            usable = snapshot.usable(),
            "snapshot"
        );
        self.cluster.snapshot.store(Arc::new(snapshot));
        self.cluster.discovered.send_replace(self.discovered);
        self.cluster.room.anew();
        if listed_changed {
            self.targets.send_replace(self.roster.targets());
        }
        self.dispute();
    }

    /// Tells when our own verdicts are no longer heeded, and when they are again.
    fn panic(&mut self, chosen: &Eligible) {
        if std::mem::replace(&mut self.panic, chosen.panic) == chosen.panic {
            return;
        }
        let (kind, detail) = if chosen.panic {
            let detail = format!(
                "fewer than {:.0} % are usable: requests go to all {} that the registry calls passing",
                100.0 * self.cluster.settings.panic,
                chosen.targets.len()
            );
            (Kind::PanicBegan, detail)
        } else {
            (Kind::PanicEnded, format!("{} are usable", chosen.targets.len()))
        };
        self.events.emit(kind, self.cluster.name().as_str(), None, detail);
    }

    /// Tells when another source of several serves.
    fn select(&mut self, source: Option<usize>) {
        let Some(source) = source.filter(|source| self.source != Some(*source)) else { return };
        let before = self.source.replace(source);
        let url = |source: usize| self.cluster.sources.get(source).map_or("", |status| status.url());
        if self.books.len() > 1 && (before.is_some() || source > 0) {
            let left = before.unwrap_or(0);
            let why = if left < source {
                format!("{} has nothing usable", url(left))
            } else {
                "it is usable again".to_owned()
            };
            let detail = format!("{} serves: {why}", url(source));
            self.events.emit(Kind::SourceSelected, self.cluster.name().as_str(), None, detail);
        }
    }
}

/// Waits until a source has a new answer, and says which. Cancel-safe. A watch that has ended says nothing more; what is
/// known of it stays.
async fn changed(books: &mut [Book]) -> usize {
    let each = books.iter_mut().enumerate().map(|(source, book)| {
        Box::pin(async move {
            match book.feed.answers.changed().await {
                Ok(()) => source,
                Err(_) => std::future::pending().await,
            }
        })
    });
    select_all(each).await.0
}

async fn alarm(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
