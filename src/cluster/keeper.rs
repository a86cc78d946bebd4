//! The single writer of a cluster: answers and health flips in, snapshots out.

use super::relist::Relist;
use super::snapshot::{Member, Presence, Snapshot};
use super::vanish::{self, Missing, Suspicion, Verdict};
use super::{Cluster, eligible::eligible};
use crate::discovery::{Answer, Feed, Trust};
use crate::model::{Endpoint, EndpointSet, Flag, Target};
use crate::rt::{Stop, Tasks};
use crate::telemetry::{Events, Kind};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub use super::vanish::Graces;

/// After a change, the next one waits this long, so that a storm of them becomes a few.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// While endpoints are suspect the source is asked again this often.
const RECHECK: Duration = Duration::from_millis(1500);
/// An update that touches more endpoints than this is told in one event.
const EACH: usize = 50;

/// What a keeper is wired to.
#[derive(Debug)]
pub struct Upkeep {
    /// Endpoints that are to be checked, as they come and go.
    pub targets: watch::Receiver<Arc<[Arc<Target>]>>,
    /// To be called after any health bit changed.
    pub health_changed: Arc<Notify>,
}

/// Turns facts into snapshots. Owned by its task; dropping it freezes the cluster.
#[derive(Debug)]
pub struct Keeper {
    cluster: Arc<Cluster>,
    feed: Feed,
    relist: Relist,
    graces: Graces,
    events: Events,
    known: BTreeMap<SocketAddr, Known>,
    draining: Vec<Arc<Target>>,
    /// The last answer's set, held endpoints not included.
    last: EndpointSet,
    targets: watch::Sender<Arc<[Arc<Target>]>>,
    health_changed: Arc<Notify>,
    generation: u64,
    /// Where each new picker begins.
    seed: u64,
}

#[derive(Debug)]
struct Known {
    target: Arc<Target>,
    suspicion: Option<Suspicion>,
}

/// What one answer did, for the log.
#[derive(Debug, Default)]
struct Changes {
    events: Vec<(Kind, SocketAddr, String)>,
    added: usize,
    removed: usize,
    changed: usize,
    suspected: usize,
    kept: usize,
}

impl Keeper {
    pub fn new(
        cluster: Arc<Cluster>,
        feed: Feed,
        graces: Graces,
        events: Events,
        seed: u64,
    ) -> (Self, Upkeep) {
        let (targets, checked) = watch::channel(Arc::default());
        let health_changed = Arc::new(Notify::new());
        let upkeep = Upkeep { targets: checked, health_changed: Arc::clone(&health_changed) };
        let keeper = Self {
            cluster,
            feed,
            relist: Relist::default(),
            graces,
            events,
            known: BTreeMap::new(),
            draining: Vec::new(),
            last: EndpointSet::default(),
            targets,
            health_changed,
            generation: 0,
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
            let alarm = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                heard = self.feed.answers.changed() => {
                    if heard.is_err() {
                        // The watch has ended; what is known stays.
                        return stop.cancelled().await;
                    }
                    let answer = self.feed.answers.borrow_and_update().clone();
                    if let Some(answer) = answer {
                        self.adopt(&answer, Instant::now());
                    }
                }
                // Before the first answer there is nothing to publish.
                () = self.health_changed.notified() => if self.generation > 0 { self.publish(false) },
                () = self.relist.due(&self.cluster.doubted) => self.relist.ask(&self.feed, Instant::now()),
                () = alarm => {
                    due = None;
                    self.tidy(Instant::now());
                }
            }
            tokio::time::sleep(DEBOUNCE).await;
        }
    }

    /// Whether something is to be done without being told.
    fn is_untidy(&self) -> bool {
        !self.draining.is_empty() || self.known.values().any(|known| known.suspicion.is_some())
    }

    /// Joins an answer to what is known and swaps in what follows from it. A spawned keeper does it for each answer of
    /// its feed.
    pub fn adopt(&mut self, answer: &Answer, now: Instant) {
        let mut changes = Changes::default();
        let before = self.known.len();
        for endpoint in answer.set.iter() {
            self.meet(endpoint, now, &mut changes);
        }
        self.miss(answer, before, now, &mut changes);
        self.last = answer.set.clone();
        changes.tell(&self.events, self.cluster.name().as_str());
        self.publish(true);
    }

    /// An endpoint that the answer lists.
    fn meet(&mut self, endpoint: &Endpoint, now: Instant, changes: &mut Changes) {
        let addr = endpoint.addr;
        let same =
            self.known.get_mut(&addr).filter(|known| known.target.endpoint.instance == endpoint.instance);
        if let Some(known) = same {
            if known.suspicion.take().is_some() {
                changes.kept += 1;
                changes.note(Kind::EndpointKept, addr, "listed again");
            }
            if known.target.endpoint == *endpoint {
                return;
            }
            changes.changed += 1;
            changes.note(Kind::EndpointChanged, addr, difference(&known.target.endpoint, endpoint));
            known.target = Arc::new(known.target.redescribed(endpoint.clone()));
        } else {
            // Same address, other instance: a stranger, who starts clean.
            if let Some(old) = self.known.remove(&addr) {
                self.retire(old.target, now);
                changes.removed += 1;
                changes.note(Kind::EndpointRemoved, addr, "another instance has taken its address");
            }
            let target = Target::new(endpoint.clone(), now);
            target.history.health.set(Flag::Unproven, self.cluster.settings.checked);
            changes.added += 1;
            changes.note(
                Kind::EndpointAdded,
                addr,
                format!("instance {}, weight {}", endpoint.instance, endpoint.weight.get()),
            );
            self.known.insert(addr, Known { target: Arc::new(target), suspicion: None });
        }
        if let Some(known) = self.known.get(&addr) {
            known.target.history.health.set(Flag::Registry, !endpoint.standing.is_passing());
        }
    }

    /// The endpoints that the answer does not list, of the `before` that were known when it came: newcomers do not
    /// make a loss smaller.
    fn miss(&mut self, answer: &Answer, before: usize, now: Instant, changes: &mut Changes) {
        let listed =
            |set: &EndpointSet, addr: &SocketAddr| set.binary_search_by_key(addr, |e| e.addr).is_ok();
        let gone: Vec<_> = self.known.keys().filter(|addr| !listed(&answer.set, addr)).copied().collect();
        let mass = answer.set.is_empty() || gone.len() * 2 > before;
        for addr in gone {
            let Some(known) = self.known.get_mut(&addr) else { continue };
            let missing = Missing {
                trust: answer.trust,
                was_listed: listed(&self.last, &addr),
                mass,
                failing: known.target.history.health.has(Flag::Check),
                suspicion: known.suspicion,
            };
            match vanish::missing(&missing, &self.graces, now) {
                Verdict::Suspect(suspicion) => {
                    if known.suspicion.replace(suspicion).is_none() {
                        changes.suspected += 1;
                        let why = match answer.trust {
                            Trust::Unmeant(why) | Trust::Doubtful(why) => why,
                            Trust::Trusted => "missing",
                        };
                        changes.note(Kind::EndpointSuspected, addr, format!("kept for now: {why}"));
                    }
                }
                Verdict::Drop => self.drop_known(addr, "no longer listed", now, changes),
            }
        }
    }

    fn drop_known(&mut self, addr: SocketAddr, why: &str, now: Instant, changes: &mut Changes) {
        if let Some(known) = self.known.remove(&addr) {
            self.retire(known.target, now);
            changes.removed += 1;
            changes.note(Kind::EndpointRemoved, addr, why);
        }
    }

    fn retire(&mut self, target: Arc<Target>, now: Instant) {
        target.history.retire(now);
        self.draining.push(target);
    }

    /// Ends graces that have run out, forgets drained targets, and asks about suspects again.
    fn tidy(&mut self, now: Instant) {
        let before = self.draining.len();
        let limit = self.cluster.settings.connections.drain + Duration::from_secs(5);
        self.draining.retain(|target| {
            let waited = target.history.retired_at().map_or(limit, |at| now.saturating_duration_since(at));
            target.history.load.in_flight() > 0 && waited < limit
        });
        let late: Vec<_> = self
            .known
            .iter()
            .filter(|(_, known)| known.suspicion.is_some_and(|s| vanish::expired(&s, &self.graces, now)))
            .map(|(addr, _)| *addr)
            .collect();
        let mut changes = Changes::default();
        for addr in &late {
            self.drop_known(*addr, "not listed again within its grace", now, &mut changes);
        }
        changes.tell(&self.events, self.cluster.name().as_str());
        if before != self.draining.len() || !late.is_empty() {
            self.publish(!late.is_empty());
        }
        if self.known.values().any(|known| known.suspicion.is_some()) {
            self.feed.nudge();
        }
    }

    /// Swaps in a new snapshot. The only place that does.
    fn publish(&mut self, listed_changed: bool) {
        self.generation += 1;
        // Weyl sequence: successive pickers begin far apart.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let listed = self.known.values().map(|known| Member {
            target: Arc::clone(&known.target),
            presence: if known.suspicion.is_some() { Presence::Suspect } else { Presence::Listed },
        });
        let draining =
            self.draining.iter().map(|t| Member { target: Arc::clone(t), presence: Presence::Draining });
        let members: Arc<[Member]> = listed.chain(draining).collect();
        let usable = eligible(&members);
        let snapshot = Snapshot {
            generation: self.generation,
            discovered: true,
            eligible: usable.as_slice().into(),
            picker: self.cluster.settings.algorithm.build(usable, self.seed),
            members,
        };
        tracing::debug!(
            cluster = %self.cluster.name(),
            generation = snapshot.generation,
            members = snapshot.members.len(),
            usable = snapshot.usable(),
            "snapshot"
        );
        self.cluster.snapshot.store(Arc::new(snapshot));
        self.cluster.discovered.send_replace(true);
        self.cluster.room.anew();
        if listed_changed && self.cluster.settings.checked {
            self.targets.send_replace(self.known.values().map(|known| Arc::clone(&known.target)).collect());
        }
    }
}

impl Changes {
    fn note(&mut self, kind: Kind, addr: SocketAddr, detail: impl Into<String>) {
        if self.events.len() <= EACH {
            self.events.push((kind, addr, detail.into()));
        }
    }

    fn tell(self, events: &Events, service: &str) {
        let Self { added, removed, changed, suspected, kept, .. } = self;
        if self.events.len() > EACH {
            let detail = format!(
                "{added} added, {removed} removed, {changed} changed, {suspected} suspect, {kept} kept"
            );
            events.emit(Kind::SetChanged, service, None, detail);
            return;
        }
        for (kind, addr, detail) in self.events {
            events.emit(kind, service, Some(addr), detail);
        }
    }
}

/// What changed in an endpoint's description, in words.
fn difference(old: &Endpoint, new: &Endpoint) -> String {
    let mut words = Vec::new();
    if old.weight != new.weight {
        words.push(format!("weight {} to {}", old.weight.get(), new.weight.get()));
    }
    match (&old.standing, &new.standing) {
        (old, new) if old == new => {}
        (_, new) => words.push(match new.objection() {
            Some(why) => format!("out: {why}"),
            None => "passing again".to_owned(),
        }),
    }
    if old.zone != new.zone {
        words.push("zone".to_owned());
    }
    if old.meta != new.meta {
        words.push("metadata".to_owned());
    }
    words.join(", ")
}

#[cfg(test)]
mod tests;
