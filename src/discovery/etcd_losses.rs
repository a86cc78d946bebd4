//! Whether keys went because somebody wanted it, or because many leases ran out together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Losses within this time are judged together.
const TOGETHER: Duration = Duration::from_secs(2);
/// Leases of one moment go one revision after the other: so long it takes until the next of them is seen ...
const NEXT: Duration = Duration::from_millis(30);
/// ... and so long when the next comes only at a later look of etcd's at its leases, which it takes every 500 ms.
const NEXT_LOOK: Duration = Duration::from_millis(600);
/// So many leases, each in a revision of its own, are no chance. Fewer are; and so is any number of keys in one revision,
/// which is one deletion or one transaction of somebody who meant it.
const MANY: usize = 3;

/// Keys with leases that went a short while ago. Keys without one can only have been deleted, and are not noted.
#[derive(Clone, Debug, Default)]
pub(super) struct Losses(BTreeMap<Vec<u8>, Loss>);

#[derive(Clone, Copy, Debug)]
struct Loss {
    lease: i64,
    revision: i64,
    at: Instant,
}

impl Losses {
    pub(super) fn note(&mut self, key: Vec<u8>, lease: i64, revision: i64, at: Instant) {
        if lease != 0 {
            self.0.insert(key, Loss { lease, revision, at });
        }
    }

    /// The key is there again, by whatever lease.
    pub(super) fn returned(&mut self, key: &[u8]) {
        self.0.remove(key);
    }

    pub(super) fn forget_old(&mut self, now: Instant) {
        self.0.retain(|_, loss| now.saturating_duration_since(loss.at) < TOGETHER);
    }

    /// Many leases went together and took most keys with them; `left` are there yet.
    pub(super) fn are_unmeant(&self, left: usize) -> bool {
        let leases = distinct(self.0.values().map(|loss| loss.lease));
        let revisions = distinct(self.0.values().map(|loss| loss.revision));
        leases.min(revisions) >= MANY && self.0.len() > left
    }

    /// How long to wait for what else went together with these before they are told: hardly for a single lease, so that
    /// an orderly end is felt at once; for etcd's next look at its leases where most may be about to go.
    pub(super) fn patience(&self, left: usize) -> Duration {
        let leases = distinct(self.0.values().map(|loss| loss.lease));
        match leases {
            0 => Duration::ZERO,
            2.. if left > 0 && 2 * self.0.len() >= left && leases + left >= MANY => NEXT_LOOK,
            _ => NEXT,
        }
    }
}

fn distinct(numbers: impl Iterator<Item = i64>) -> usize {
    numbers.collect::<BTreeSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys of `(lease, revision)`, all lost now.
    fn lost(keys: &[(i64, i64)]) -> Losses {
        let (mut losses, now) = (Losses::default(), Instant::now());
        for (number, (lease, revision)) in keys.iter().enumerate() {
            losses.note(number.to_string().into(), *lease, *revision, now);
        }
        losses
    }

    #[test]
    fn many_leases_one_after_the_other_that_take_most_keys_are_unmeant() {
        let three: &[_] = &[(1, 11), (2, 12), (3, 13)];
        for (what, keys, left, unmeant) in [
            ("nothing went", &[][..], 0, false),
            ("three of three leases ran out", three, 0, true),
            ("three of five", three, 2, true),
            ("three of six are not more than half", three, 3, false),
            ("two of two are too few to tell", &three[..2], 0, false),
            ("one revoked lease with many keys", &[(1, 11), (1, 11), (1, 11), (1, 11)], 0, false),
            ("one deletion of keys with many leases", &[(1, 11), (2, 11), (3, 11)], 0, false),
            ("two deletions", &[(1, 11), (2, 11), (3, 12), (4, 12)], 0, false),
            ("keys without leases, one by one", &[(0, 11), (0, 12), (0, 13)], 0, false),
            ("two leases, and a key without one", &[(1, 11), (2, 12), (0, 13)], 0, false),
            ("many keys each", &[(1, 11), (1, 11), (2, 12), (2, 12), (3, 13), (3, 13)], 5, true),
        ] {
            assert_eq!(lost(keys).are_unmeant(left), unmeant, "{what}");
        }
    }

    #[test]
    fn what_came_back_or_went_long_ago_does_not_count() {
        let mut losses = lost(&[(1, 11), (2, 12), (3, 13)]);
        losses.returned(b"1");
        assert!(!losses.are_unmeant(1));
        losses.note(b"1".to_vec(), 4, 14, Instant::now());
        assert!(losses.are_unmeant(0));
        losses.forget_old(Instant::now() + TOGETHER);
        assert!(!losses.are_unmeant(0));
    }

    #[test]
    fn a_single_lease_is_told_at_once_and_most_may_wait_for_the_rest() {
        assert_eq!(lost(&[]).patience(5), Duration::ZERO);
        assert_eq!(lost(&[(0, 11)]).patience(5), Duration::ZERO);
        assert_eq!(lost(&[(1, 11)]).patience(5), NEXT);
        assert_eq!(lost(&[(1, 11), (2, 12)]).patience(5), NEXT, "a few of many");
        assert_eq!(lost(&[(1, 11), (2, 12)]).patience(4), NEXT_LOOK);
        assert_eq!(lost(&[(1, 11), (2, 12), (3, 13)]).patience(0), NEXT, "nothing else can go");
    }
}
