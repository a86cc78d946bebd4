//! What an etcd prefix held at one revision, and how it changes.

use super::etcd_losses::Losses;
use super::etcd_value::{Parsed, parse};
use crate::model::{EndpointSet, Weight};
use crate::registry::etcd::{Event, EventType, KeyValue};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// All keys under a prefix, read, as of one revision.
#[derive(Debug, Default)]
pub(super) struct Keys {
    map: BTreeMap<Vec<u8>, Entry>,
    /// Everything up to here is folded in.
    revision: i64,
    /// The last sign of progress; trusted once a later one came, since older members send them too early.
    promised: i64,
    /// Which cluster said so.
    cluster: u64,
    losses: Losses,
}

#[derive(Debug)]
struct Entry {
    mark: Mark,
    parsed: Parsed,
}

/// What tells a key of one history from the same key in another: a lease's id is drawn by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    created: i64,
    modified: i64,
    lease: i64,
}

impl Mark {
    pub(super) fn of(kv: &KeyValue) -> Self {
        Self { created: kv.create_revision, modified: kv.mod_revision, lease: kv.lease }
    }
}

impl Entry {
    /// Its weight was 0 at the end, as sidecars write it before they revoke their lease: somebody meant it to go.
    fn has_said_farewell(&self) -> bool {
        self.parsed.endpoints.iter().all(|endpoint| endpoint.weight == Weight::ZERO)
    }
}

impl Keys {
    pub(super) fn new(cluster: u64, revision: i64) -> Self {
        Self { map: BTreeMap::new(), revision, promised: revision, cluster, losses: Losses::default() }
    }

    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    pub(super) fn cluster(&self) -> u64 {
        self.cluster
    }

    pub(super) fn put(&mut self, kv: KeyValue) {
        self.losses.returned(&kv.key);
        let entry = Entry { mark: Mark::of(&kv), parsed: parse(&kv.key, &kv.value) };
        self.map.insert(kv.key, entry);
    }

    /// Folds whole revisions in.
    pub(super) fn fold(&mut self, events: Vec<Event>, now: Instant) {
        for event in events {
            let deleted = event.r#type() == EventType::Delete;
            let Some(kv) = event.kv else { continue };
            self.revision = self.revision.max(kv.mod_revision);
            if deleted {
                if let Some(entry) = self.map.remove(&kv.key)
                    && !entry.has_said_farewell()
                {
                    self.losses.note(kv.key, entry.mark.lease, kv.mod_revision, now);
                }
            } else {
                self.put(kv);
            }
        }
    }

    /// The member says that it is at `revision`: what it said the time before can be built upon now.
    pub(super) fn progress(&mut self, revision: i64) {
        self.revision = self.revision.max(self.promised);
        self.promised = self.promised.max(revision);
    }

    /// Puts these in the place of `older`, which they continue: what it lost lately, and what is missing here, is lost.
    pub(super) fn succeed(&mut self, older: &Self, now: Instant) {
        let mut losses = older.losses.clone();
        for (key, entry) in &older.map {
            if !self.has(key) && !entry.has_said_farewell() {
                losses.note(key.clone(), entry.mark.lease, self.revision, now);
            }
        }
        self.map.keys().for_each(|key| losses.returned(key));
        self.losses = losses;
    }

    /// Whether most keys went lately as nobody can have meant it: many leases ran out together.
    pub(super) fn lost_many_leases(&mut self, now: Instant) -> bool {
        self.losses.forget_old(now);
        self.losses.are_unmeant(self.map.len())
    }

    /// How long to wait for more losses before the last one is told.
    pub(super) fn patience(&mut self, now: Instant) -> Duration {
        self.losses.forget_old(now);
        self.losses.patience(self.map.len())
    }

    pub(super) fn has(&self, key: &[u8]) -> bool {
        self.map.contains_key(key)
    }

    /// The keys that `newer` has no more.
    pub(super) fn missing_in(&self, newer: &Self) -> impl Iterator<Item = &Vec<u8>> {
        self.map.keys().filter(|key| !newer.has(key))
    }

    /// The key that changed last: what a member must know to be of the same history.
    pub(super) fn newest(&self) -> Option<(&[u8], Mark)> {
        let newest = self.map.iter().max_by_key(|(_, entry)| entry.mark.modified);
        newest.map(|(key, entry)| (key.as_slice(), entry.mark))
    }

    pub(super) fn endpoints(&self) -> EndpointSet {
        self.map.values().flat_map(|entry| &entry.parsed.endpoints).cloned().collect()
    }

    pub(super) fn skipped(&self) -> Vec<super::Skipped> {
        self.map.values().flat_map(|entry| &entry.parsed.skipped).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str, value: &str, revision: i64) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: value.into(),
            create_revision: revision,
            mod_revision: revision,
            lease: 0,
        }
    }

    fn event(kind: EventType, kv: KeyValue) -> Event {
        Event { r#type: kind.into(), kv: Some(kv) }
    }

    #[test]
    fn events_fold_to_the_newest_state_and_may_be_seen_twice() {
        let mut keys = Keys::new(1, 10);
        let events = vec![
            event(EventType::Put, kv("a", "127.0.0.1:1", 11)),
            event(EventType::Put, kv("b", "127.0.0.1:2", 12)),
            event(EventType::Delete, kv("a", "", 13)),
            event(EventType::Put, kv("b", "127.0.0.1:3", 13)),
        ];
        for _ in 0..2 {
            keys.fold(events.clone(), Instant::now());
            assert_eq!(keys.revision(), 13);
            let ports: Vec<_> = keys.endpoints().iter().map(|e| e.addr.port()).collect();
            assert_eq!(ports, [3]);
        }
        assert_eq!(keys.newest().map(|(key, mark)| (key, mark.modified)), Some((&b"b"[..], 13)));
    }

    #[test]
    fn progress_is_built_upon_only_when_a_later_sign_came() {
        let mut keys = Keys::new(1, 10);
        keys.progress(20);
        assert_eq!(keys.revision(), 10);
        keys.progress(20);
        assert_eq!(keys.revision(), 20);
        keys.progress(30);
        keys.fold(vec![event(EventType::Put, kv("a", "127.0.0.1:1", 25))], Instant::now());
        assert_eq!(keys.revision(), 25, "an event that was overtaken by a sign of progress is not lost");
    }

    fn leased(count: i64) -> Keys {
        let mut keys = Keys::new(1, 10);
        for lease in 1..=count {
            keys.put(KeyValue { lease, ..kv(&lease.to_string(), &format!("127.0.0.1:{lease}"), lease) });
        }
        keys
    }

    #[test]
    fn leases_that_ran_out_together_are_told_from_a_deletion_and_from_a_move() {
        let now = Instant::now();
        let gone = |key: i64, revision| event(EventType::Delete, kv(&key.to_string(), "", revision));
        let mut keys = leased(5);
        keys.fold(vec![gone(1, 11), gone(2, 12)], now);
        assert!(!keys.lost_many_leases(now));
        keys.fold(vec![gone(3, 13)], now);
        assert!(keys.lost_many_leases(now), "three of five");

        let mut keys = leased(5);
        keys.fold((1..=5).map(|key| gone(key, 11)).collect(), now);
        assert!(!keys.lost_many_leases(now), "one deletion of them all");

        let mut keys = leased(5);
        let value = r#"{"Op":0,"Addr":"127.0.0.1:9","Metadata":{"weight":0}}"#;
        let farewell = |key: i64| KeyValue { lease: key, ..kv(&key.to_string(), value, 10 + key) };
        keys.fold((1..=4).map(|key| event(EventType::Put, farewell(key))).collect(), now);
        keys.fold((1..=4).map(|key| gone(key, 20 + key)).collect(), now);
        assert!(!keys.lost_many_leases(now), "they have said farewell");

        let mut keys = leased(5);
        let moved = |key: i64| KeyValue { lease: 100 + key, ..kv(&key.to_string(), "127.0.0.1:9", 10 + key) };
        keys.fold((1..=5).map(|key| event(EventType::Put, moved(key))).collect(), now);
        assert!(!keys.lost_many_leases(now), "all have new leases");
    }

    #[test]
    fn a_list_in_between_neither_forgets_losses_nor_tells_how_its_own_came() {
        let now = Instant::now();
        let gone = |key: i64, revision| event(EventType::Delete, kv(&key.to_string(), "", revision));
        let mut old = leased(5);
        old.fold(vec![gone(1, 11), gone(2, 12)], now);
        let mut new = Keys::new(1, 14);
        new.succeed(&old, now);
        assert!(new.lost_many_leases(now), "three more are missing");
        let mut new = Keys::new(1, 14);
        new.succeed(&leased(5), now);
        assert!(!new.lost_many_leases(now), "it may have been one deletion");
        let mut new = leased(5);
        new.succeed(&old, now);
        assert!(!new.lost_many_leases(now), "all are there");
    }
}
