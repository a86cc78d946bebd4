//! One source's endpoints as they are used: what it says, and what is kept although it no longer says so.

use super::changes::Changes;
use super::vanish::{self, Evidence, Graces, Lost, Missing, Share, Suspicion, Verdict};
use crate::discovery::{Answer, Feed, Link};
use crate::model::{Endpoint, EndpointSet, Standing};
use crate::telemetry::Kind;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::time::Instant;

/// Whose word it is that an endpoint exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Its source's own, in this process' time.
    Live,
    /// A list that was kept on disk, true at that time.
    Snapshot(SystemTime),
}

/// The endpoints of one source by address.
#[derive(Debug)]
pub(super) struct Book {
    pub feed: Feed,
    entries: BTreeMap<SocketAddr, Entry>,
    /// The last answer's set, held endpoints not included.
    last: EndpointSet,
    /// The source has answered.
    heard: bool,
    /// When it was last asked again about suspects.
    rechecked: Option<Instant>,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub endpoint: Endpoint,
    pub suspicion: Option<Suspicion>,
    pub origin: Origin,
    /// Since when its node has been lost.
    lost_since: Option<Instant>,
    /// It is still lost after its grace.
    given_up: bool,
}

/// What of an answer is not just as it was.
struct News<'a> {
    /// Endpoints that it lists.
    listed: Vec<&'a Endpoint>,
    /// Known ones that it does not list ...
    gone: Vec<SocketAddr>,
    /// ... of so many.
    known: usize,
}

impl Entry {
    /// What takes it out, as far as its source has a say in that.
    pub(super) fn objection(&self) -> Option<&Arc<str>> {
        self.endpoint.standing.objection().filter(|_| self.suspicion.is_none())
    }

    /// How good its source's word is; the smaller the better.
    pub(super) fn rank(&self) -> u8 {
        match (self.objection(), self.suspicion, self.origin) {
            (Some(_), ..) => 2,
            (None, Some(_), _) | (None, None, Origin::Snapshot(_)) => 1,
            (None, None, Origin::Live) => 0,
        }
    }

    /// Hearing the same of it again would change nothing.
    fn is_settled(&self) -> bool {
        self.suspicion.is_none()
            && self.origin == Origin::Live
            && self.lost_since.is_none()
            && !self.given_up
            && !is_lost(&self.endpoint)
    }
}

impl Book {
    pub(super) fn new(feed: Feed) -> Self {
        Self { feed, entries: BTreeMap::new(), last: EndpointSet::default(), heard: false, rechecked: None }
    }

    pub(super) fn was_heard(&self) -> bool {
        self.heard
    }

    pub(super) fn get(&self, addr: &SocketAddr) -> Option<&Entry> {
        self.entries.get(addr)
    }

    pub(super) fn has_suspects(&self) -> bool {
        self.entries.values().any(|entry| entry.suspicion.is_some())
    }

    /// All that is believed to exist.
    pub(super) fn set(&self) -> EndpointSet {
        self.entries.values().map(|entry| entry.endpoint.clone()).collect()
    }

    /// Takes in a list that was kept on disk, for the time until the source answers.
    pub(super) fn remember(&mut self, set: &EndpointSet, as_of: SystemTime, changes: &mut Changes) {
        for endpoint in set.iter() {
            changes.touch(endpoint.addr);
            self.entries.entry(endpoint.addr).or_insert_with(|| Entry {
                endpoint: endpoint.clone(),
                suspicion: None,
                origin: Origin::Snapshot(as_of),
                lost_since: None,
                given_up: false,
            });
        }
    }

    /// Takes in an answer; `evidence` says what else is known of an endpoint.
    pub(super) fn hear(
        &mut self,
        answer: &Answer,
        evidence: impl Fn(&SocketAddr) -> Evidence,
        graces: &Graces,
        now: Instant,
        changes: &mut Changes,
    ) {
        let news = self.compare(&answer.set);
        let listed = news.listed.iter().map(|endpoint| endpoint.addr);
        listed.chain(news.gone.iter().copied()).for_each(|addr| changes.touch(addr));
        self.meet(answer, &news, &evidence, graces, now, changes);
        self.miss(answer, &news, &evidence, graces, now, changes);
        self.last = answer.set.clone();
        self.heard = true;
    }

    /// What of an answer is to be looked at. Most of the time nearly all endpoints are as they were.
    fn compare<'a>(&self, set: &'a EndpointSet) -> News<'a> {
        let (mut listed, mut gone) = (Vec::new(), Vec::new());
        let mut known = self.entries.iter().peekable();
        for endpoint in set.iter() {
            while let Some((addr, _)) = known.next_if(|(addr, _)| **addr < endpoint.addr) {
                gone.push(*addr);
            }
            match known.next_if(|(addr, _)| **addr == endpoint.addr) {
                Some((_, entry)) if entry.is_settled() && entry.endpoint == *endpoint => {}
                _ => listed.push(endpoint),
            }
        }
        gone.extend(known.map(|(addr, _)| *addr));
        News { listed, gone, known: self.entries.len() }
    }

    /// The endpoints that the answer lists.
    fn meet(
        &mut self,
        answer: &Answer,
        news: &News<'_>,
        evidence: &impl Fn(&SocketAddr) -> Evidence,
        graces: &Graces,
        now: Instant,
        changes: &mut Changes,
    ) {
        let gone = answer.set.iter().filter(|endpoint| is_lost(endpoint)).count();
        let share = Share { gone, known: answer.set.len() };
        for endpoint in &news.listed {
            let old =
                self.entries.get(&endpoint.addr).filter(|old| old.endpoint.instance == endpoint.instance);
            let suspicion = old.and_then(|old| old.suspicion);
            let since = is_lost(endpoint).then(|| old.and_then(|old| old.lost_since).unwrap_or(now));
            let given_up = since.is_some() && old.is_some_and(|old| old.given_up);
            let kept = since.and_then(|since| {
                // What was never seen to work here cannot be said to work.
                old?;
                let case = Lost { since, given_up, share, evidence: evidence(&endpoint.addr), suspicion };
                vanish::lost(&case, graces, now)
            });
            match (suspicion, kept) {
                (None, Some(new)) => suspect(changes, endpoint.addr, new.why),
                (Some(_), None) if endpoint.standing.is_passing() => {
                    changes.note(Kind::EndpointKept, endpoint.addr, "listed again");
                }
                _ => {}
            }
            match self.entries.get_mut(&endpoint.addr) {
                Some(old) if old.endpoint == **endpoint => {
                    (old.suspicion, old.lost_since, old.origin) = (kept, since, Origin::Live);
                    old.given_up = given_up;
                }
                _ => {
                    let entry = Entry {
                        endpoint: (*endpoint).clone(),
                        suspicion: kept,
                        origin: Origin::Live,
                        lost_since: since,
                        given_up,
                    };
                    self.entries.insert(endpoint.addr, entry);
                }
            }
        }
    }

    /// The endpoints that the answer does not list, of those that were there when it came: newcomers do not make a loss
    /// smaller.
    fn miss(
        &mut self,
        answer: &Answer,
        news: &News<'_>,
        evidence: &impl Fn(&SocketAddr) -> Evidence,
        graces: &Graces,
        now: Instant,
        changes: &mut Changes,
    ) {
        let share = Share { gone: news.gone.len(), known: news.known };
        for addr in news.gone.iter().copied() {
            let Some(entry) = self.entries.get_mut(&addr) else { continue };
            let missing = Missing {
                trust: answer.trust,
                was_listed: listed_by(&self.last, &addr),
                from_disk: matches!(entry.origin, Origin::Snapshot(_)),
                empty: answer.set.is_empty(),
                share,
                evidence: evidence(&addr),
                suspicion: entry.suspicion,
            };
            match vanish::missing(&missing, graces, now) {
                Verdict::Suspect(suspicion) => {
                    if entry.suspicion.replace(suspicion).is_none() {
                        suspect(changes, addr, suspicion.why);
                    }
                }
                Verdict::Drop => self.let_go(addr, "no longer listed", changes),
            }
        }
    }

    /// Asks the source again about suspects, unless it fails (its back-off decides then) or has yet to answer the last such
    /// question: a slow one must not be cut short by the next.
    pub(super) fn recheck(&mut self, now: Instant) {
        if self.has_suspects() && self.has_answered(now) {
            self.rechecked = Some(now);
            self.feed.nudge();
        }
    }

    /// The source works, and its last answer is none that came before the last question about suspects.
    fn has_answered(&self, now: Instant) -> bool {
        let source = self.feed.status.view(now);
        let since = self.rechecked.map(|at| now.saturating_duration_since(at));
        source.link == Link::Live && since.is_none_or(|since| source.age.is_some_and(|age| age <= since))
    }

    /// Obeys what could not be believed, once its grace has run out and the source still answers so; `true` if anything
    /// changed. While it fails or keeps silent nobody knows whether it would.
    pub(super) fn expire(&mut self, graces: &Graces, now: Instant, changes: &mut Changes) -> bool {
        if self.rechecked.is_none() || !self.has_answered(now) {
            return false;
        }
        let late = |entry: &Entry| entry.suspicion.is_some_and(|s| vanish::expired(&s, graces, now));
        let late: Vec<_> = self.entries.iter().filter(|(_, e)| late(e)).map(|(addr, _)| *addr).collect();
        for addr in &late {
            changes.touch(*addr);
            match self.entries.get_mut(addr) {
                Some(entry) if is_lost(&entry.endpoint) && listed_by(&self.last, addr) => {
                    (entry.suspicion, entry.given_up) = (None, true);
                }
                _ => self.let_go(*addr, "not listed again within its grace", changes),
            }
        }
        !late.is_empty()
    }

    fn let_go(&mut self, addr: SocketAddr, why: &'static str, changes: &mut Changes) {
        if self.entries.remove(&addr).is_some() {
            changes.dropped(addr, why);
        }
    }
}

fn is_lost(endpoint: &Endpoint) -> bool {
    matches!(endpoint.standing, Standing::Lost(_))
}

fn listed_by(set: &EndpointSet, addr: &SocketAddr) -> bool {
    set.binary_search_by_key(addr, |endpoint| endpoint.addr).is_ok()
}

fn suspect(changes: &mut Changes, addr: SocketAddr, why: &str) {
    changes.note(Kind::EndpointSuspected, addr, format!("kept for now: {why}"));
}
