//! The targets of a cluster by address: who they are, on whose word, and who is leaving.

use super::book::{Book, Entry, Origin};
use super::changes::{Changes, difference};
use super::snapshot::{Member, Presence};
use super::vanish::Evidence;
use crate::model::{Flag, InstanceId, Target};
use crate::telemetry::Kind;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A response that came this lately says that an instance works.
const LATELY: Duration = Duration::from_secs(30);

/// Joins the endpoints that sources list to the histories of targets.
#[derive(Debug)]
pub(super) struct Roster {
    /// New targets are unproven until their first check.
    checked: bool,
    known: BTreeMap<SocketAddr, Known>,
    draining: Vec<Member>,
}

#[derive(Debug)]
struct Known {
    member: Member,
    /// What its source has against it.
    out: Option<Arc<str>>,
    /// What each of several sources calls it.
    names: Vec<Option<InstanceId>>,
    /// It was told that the registry and we disagree about it.
    disputed: bool,
}

impl Roster {
    pub(super) fn new(checked: bool) -> Self {
        Self { checked, known: BTreeMap::new(), draining: Vec::new() }
    }

    /// Everybody, those who leave last.
    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        self.known.values().map(|known| &known.member).chain(&self.draining)
    }

    /// Those who are to be checked.
    pub(super) fn targets(&self) -> Arc<[Arc<Target>]> {
        self.known.values().map(|known| Arc::clone(&known.member.target)).collect()
    }

    pub(super) fn is_draining(&self) -> bool {
        !self.draining.is_empty()
    }

    /// What is known of an endpoint besides what its source says.
    pub(super) fn evidence(&self, addr: &SocketAddr, now: Instant) -> Evidence {
        let Some(known) = self.known.get(addr) else { return Evidence::Unknown };
        let history = &known.member.target.history;
        let proven = self.checked && !history.health.has(Flag::Unproven);
        if history.health.has(Flag::Check) || history.is_unreached() {
            Evidence::Fails
        } else if proven || history.answered_since(now, LATELY) {
            Evidence::Works
        } else {
            Evidence::Unknown
        }
    }

    /// Makes the targets at the addresses that were touched what the sources' books say: one for each address, on the
    /// best word there is for it.
    pub(super) fn reconcile(&mut self, books: &[Book], now: Instant, changes: &mut Changes) {
        let touched: Vec<_> =
            changes.take_touched().into_iter().map(|addr| (addr, chosen(books, &addr))).collect();
        for (source, book) in books.iter().enumerate() {
            for (addr, _) in touched.iter().filter(|(_, chosen)| *chosen == Some(source)) {
                if let Some(entry) = book.get(addr) {
                    self.meet(books, source, *addr, entry, now, changes);
                }
            }
        }
        for (addr, _) in touched.iter().filter(|(_, chosen)| chosen.is_none()) {
            if let Some(known) = self.known.remove(addr) {
                let why = changes.why(*addr);
                self.retire(known, *addr, why, now, changes);
            }
        }
    }

    fn meet(
        &mut self,
        books: &[Book],
        source: usize,
        addr: SocketAddr,
        entry: &Entry,
        now: Instant,
        changes: &mut Changes,
    ) {
        let held_since = entry.suspicion.map(|suspicion| suspicion.since);
        let vouched = books.get(source).is_some_and(|book| book.feed.status.vouches());
        let presence = entry.suspicion.map_or(Presence::Listed, |s| Presence::Suspect(s.why));
        if let Some(known) = self.known.get_mut(&addr)
            && is_same(known, books, &addr, entry)
        {
            let out = entry.objection();
            if known.member.target.endpoint != entry.endpoint || known.out.as_ref() != out {
                let old = &known.member.target;
                let what = difference(&old.endpoint, &entry.endpoint, [known.out.as_ref(), out]);
                if !what.is_empty() {
                    changes.note(Kind::EndpointChanged, addr, what);
                }
                known.member.target = Arc::new(old.redescribed(entry.endpoint.clone()));
                known.member.target.history.health.set(Flag::Registry, out.is_some());
                known.out = out.cloned();
            }
            let member = &mut known.member;
            (member.presence, member.source, member.origin) = (presence, source, entry.origin);
            (member.held_since, member.vouched) = (held_since, vouched);
            known.names = names(books, &addr);
            return;
        }
        // Same address, other instance: a stranger, who starts clean.
        if let Some(old) = self.known.remove(&addr) {
            self.retire(old, addr, "another instance has taken its address", now, changes);
        }
        let target = Target::new(entry.endpoint.clone(), now);
        target.history.health.set(Flag::Unproven, self.checked);
        target.history.health.set(Flag::Registry, entry.objection().is_some());
        let detail = format!("instance {}, weight {}", entry.endpoint.instance, entry.endpoint.weight.get());
        changes.note(Kind::EndpointAdded, addr, detail);
        let member = Member {
            source,
            origin: entry.origin,
            held_since,
            vouched,
            ..Member::new(Arc::new(target), presence)
        };
        let (out, names) = (entry.objection().cloned(), names(books, &addr));
        self.known.insert(addr, Known { member, out, names, disputed: false });
    }

    fn retire(&mut self, known: Known, addr: SocketAddr, why: &str, now: Instant, changes: &mut Changes) {
        known.member.target.history.retire(now);
        changes.note(Kind::EndpointRemoved, addr, why);
        self.draining.push(Member { presence: Presence::Draining, ..known.member });
    }

    /// Forgets whoever has drained, or has had `limit` for it; `true` if there was anybody.
    pub(super) fn forget_drained(&mut self, limit: Duration, now: Instant) -> bool {
        let before = self.draining.len();
        self.draining.retain(|member| {
            let history = &member.target.history;
            let waited = history.retired_at().map_or(limit, |at| now.saturating_duration_since(at));
            history.load.in_flight() > 0 && waited < limit
        });
        before != self.draining.len()
    }

    /// Tells once of each endpoint that its registry calls passing and that we cannot reach.
    pub(super) fn dispute(&mut self, changes: &mut Changes) {
        for (addr, known) in &mut self.known {
            let disputed = known.member.is_disputed();
            if disputed && !known.disputed {
                let history = &known.member.target.history;
                let note = history.health.note(Flag::Check).filter(|_| history.health.has(Flag::Check));
                let why = note.as_deref().unwrap_or("connections to it fail").to_owned();
                changes.note(
                    Kind::EndpointDisputed,
                    *addr,
                    format!("its registry calls it passing, but: {why}"),
                );
            }
            known.disputed = disputed;
        }
    }
}

/// The source whose word on an address is the best; the first of equals.
fn chosen(books: &[Book], addr: &SocketAddr) -> Option<usize> {
    let ranked = books.iter().enumerate().filter_map(|(source, book)| Some((book.get(addr)?.rank(), source)));
    ranked.min().map(|(_, source)| source)
}

/// What each of several sources calls an address; of one it is no question.
fn names(books: &[Book], addr: &SocketAddr) -> Vec<Option<InstanceId>> {
    if let [_] = books {
        return Vec::new();
    }
    books.iter().map(|book| book.get(addr).map(|entry| entry.endpoint.instance.clone())).collect()
}

/// Whether the instance at an address is the one that was known. Sources have names of their own for it: it is the same
/// if any of them has called it so all along.
fn is_same(known: &Known, books: &[Book], addr: &SocketAddr, entry: &Entry) -> bool {
    if known.member.target.endpoint.instance == entry.endpoint.instance {
        return true;
    }
    let now = books.iter().map(|book| book.get(addr).map(|entry| &entry.endpoint.instance));
    known.names.iter().zip(now).any(|(then, now)| then.is_some() && then.as_ref() == now)
}

impl Member {
    /// Its registry calls it passing, and our checks or requests do not reach it.
    pub fn is_disputed(&self) -> bool {
        let history = &self.target.history;
        let passing = self.vouched
            && self.presence == Presence::Listed
            && self.origin == Origin::Live
            && self.target.endpoint.standing.is_passing();
        passing && (history.health.has(Flag::Check) || history.is_unreached())
    }
}
