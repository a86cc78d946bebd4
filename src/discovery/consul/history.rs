//! What Consul's index tells about an answer: whether to hold the next query, and whether to believe a loss.

use crate::discovery::Trust;
use crate::model::EndpointSet;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::Instant;

/// The answers so far, as far as they matter for the next one.
#[derive(Debug, Default)]
pub(super) struct History {
    /// What the next query is held at; `None` reads at once.
    index: Option<u64>,
    /// Index and list of the last answer.
    last: Option<(u64, EndpointSet)>,
    /// The last list that was beyond doubt.
    believed: EndpointSet,
    /// An error came after the last answer.
    broken: bool,
    doubt: Option<Doubt>,
    /// All answers since the last list were empty because they were denied.
    denied: bool,
}

/// Why lists are not believed when they are short.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    reason: &'static str,
    since: Instant,
}

/// A successful answer without its list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) index: Option<u64>,
    /// The index that the query was held at.
    pub(super) asked: Option<u64>,
    /// The hold ended before its time.
    pub(super) early: bool,
    pub(super) known_leader: bool,
    pub(super) filtered: bool,
}

impl History {
    /// After a loss of memory, instances that still live have registered again by then: twice the usual beat.
    const SETTLED: Duration = Duration::from_secs(60);

    pub(super) fn index(&self) -> Option<u64> {
        self.index
    }

    pub(super) fn forget_index(&mut self) {
        self.index = None;
    }

    /// Whether an empty answer of this index takes away what was there without any change of the catalog: only a removal
    /// raises the index. A denial lasts until somebody is listed again; what is hidden moves the index too.
    pub(super) fn looks_denied(&self, index: Option<u64>) -> bool {
        let index = index.unwrap_or(1).max(1);
        self.denied
            || !self.broken && self.last.as_ref().is_some_and(|(last, set)| *last == index && !set.is_empty())
    }

    /// The answer was empty because it was denied.
    pub(super) fn deny(&mut self) {
        self.fail();
        self.denied = true;
    }

    /// A question came to nothing. A too high index would hide changes for a whole wait, so none is kept.
    pub(super) fn fail(&mut self) {
        self.index = None;
        self.broken = true;
    }

    /// Takes in an answer and says how far it is to be believed.
    ///
    /// Doubt outlives its cause: after a loss of memory the index rises again with every registration of anything,
    /// and under a narrowed token with every change of what is hidden. So a shorter list stays doubtful until all
    /// that was believed is back, or, unless it is empty, for [`Self::SETTLED`].
    pub(super) fn judge(&mut self, reading: &Reading, set: &EndpointSet, now: Instant) -> Trust {
        // 0 and none would make every query a plain one (API documentation, "Blocking Queries").
        let index = reading.index.unwrap_or(1).max(1);
        let cause = self.cause(reading, index, set);
        let was_empty = self.last.as_ref().is_some_and(|(_, last)| last.is_empty());
        self.index = match reading.asked {
            // Went back, or woke for nothing (as after a snapshot was restored): read once without an index.
            Some(asked) if index < asked || (index == asked && reading.early) => None,
            _ => Some(index),
        };
        self.last = Some((index, set.clone()));
        self.broken = false;
        self.denied = false;
        let doubt = match (cause, self.doubt) {
            (Some(reason), Some(old)) => Some(Doubt { reason, ..old }),
            (Some(reason), None) => Some(Doubt { reason, since: now }),
            // The first to come back starts the time in which the others may.
            (None, Some(old)) if was_empty && !set.is_empty() => Some(Doubt { since: now, ..old }),
            (None, old) => old,
        };
        let complete = covers(set, &self.believed);
        let settled = cause.is_none()
            && doubt.is_some_and(|d| !set.is_empty() && now.duration_since(d.since) >= Self::SETTLED);
        if doubt.is_none() || complete || settled {
            self.believed = set.clone();
            self.doubt = None;
        } else {
            self.doubt = doubt;
        }
        match (cause, self.doubt) {
            (Some(reason), _) | (None, Some(Doubt { reason, .. })) => Trust::Doubtful(reason),
            (None, None) => Trust::Trusted,
        }
    }

    /// What makes this very answer doubtful.
    fn cause(&self, reading: &Reading, index: u64, set: &EndpointSet) -> Option<&'static str> {
        if !reading.known_leader {
            return Some("no leader is known");
        }
        if reading.filtered {
            return Some("ACLs hide some of the instances");
        }
        match &self.last {
            Some((last, _)) if index < *last => Some("the index went back"),
            _ if self.broken => Some("the first answer after an error"),
            Some((last, old)) if index == *last && set != old => Some("the list changed, its index did not"),
            _ => None,
        }
    }
}

/// Whether nothing of `old` is missing: each of its endpoints is still listed, by instance or by address.
fn covers(set: &EndpointSet, old: &EndpointSet) -> bool {
    let instances: HashSet<_> = set.iter().map(|e| &e.instance).collect();
    let addrs: HashSet<_> = set.iter().map(|e| e.addr).collect();
    old.iter().all(|e| instances.contains(&e.instance) || addrs.contains(&e.addr))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Endpoint;

    const SURE: Trust = Trust::Trusted;
    const BROKEN: Trust = Trust::Doubtful("the first answer after an error");
    const BACK: Trust = Trust::Doubtful("the index went back");
    const SAME: Trust = Trust::Doubtful("the list changed, its index did not");

    struct Play {
        history: History,
        now: Instant,
    }

    fn play() -> Play {
        Play { history: History::default(), now: Instant::now() }
    }

    fn set(ports: &[u16]) -> EndpointSet {
        ports.iter().map(|port| Endpoint::at(([127, 0, 0, 1], *port).into())).collect()
    }

    impl Play {
        /// An ordinary answer to whatever would be asked now.
        fn hears(&mut self, index: impl Into<Option<u64>>, ports: &[u16]) -> Trust {
            let asked = self.history.index();
            self.told(Reading { asked, ..plain(index.into()) }, ports)
        }

        fn told(&mut self, reading: Reading, ports: &[u16]) -> Trust {
            self.history.judge(&reading, &set(ports), self.now)
        }

        fn asks(&self) -> Option<u64> {
            self.history.index()
        }
    }

    fn plain(index: Option<u64>) -> Reading {
        Reading { index, asked: None, early: false, known_leader: true, filtered: false }
    }

    #[test]
    fn an_unbroken_history_is_believed_even_when_it_ends_in_nothing() {
        let mut play = play();
        assert_eq!(play.asks(), None);
        assert_eq!(play.hears(10, &[1, 2, 3]), SURE, "the first answer has no history to contradict");
        assert_eq!(play.asks(), Some(10));
        assert_eq!(play.hears(10, &[1, 2, 3]), SURE, "the wait was over");
        assert_eq!(play.hears(12, &[]), SURE);
    }

    #[test]
    fn an_error_takes_the_index_away_and_trust_for_one_answer() {
        let mut play = play();
        play.hears(10, &[1, 2]);
        play.history.fail();
        assert_eq!(play.asks(), None);
        assert_eq!(play.hears(10, &[1, 2]), BROKEN);
        assert_eq!(play.hears(11, &[]), SURE, "the answer before had shown that nothing was lost");
    }

    #[test]
    fn a_registry_without_memory_is_not_believed_however_its_index_rises() {
        let mut play = play();
        play.hears(67, &[1, 2, 3]);
        play.history.fail();
        assert_eq!(play.hears(12, &[]), BACK);
        assert_eq!(play.asks(), Some(12), "the new history is followed");
        assert_eq!(play.hears(17, &[]), BACK);
        assert_eq!(play.hears(900, &[]), BACK, "not even beyond the old index");
        play.now += Duration::from_secs(600);
        assert_eq!(play.hears(901, &[]), BACK, "and not after any time");
        assert_eq!(play.hears(902, &[1]), BACK);
        play.now += Duration::from_secs(10);
        assert_eq!(play.hears(903, &[1, 2, 3, 4]), SURE, "all are back");
        assert_eq!(play.hears(904, &[4]), SURE);
    }

    #[test]
    fn who_has_not_come_back_in_time_is_gone() {
        let mut play = play();
        play.hears(67, &[1, 2, 3]);
        play.history.fail();
        play.hears(12, &[]);
        play.now += Duration::from_secs(300);
        assert_eq!(play.hears(13, &[1]), BACK, "the time begins with the first that is back");
        play.now += Duration::from_secs(61);
        assert_eq!(play.hears(13, &[1]), SURE);
    }

    #[test]
    fn a_list_that_shrinks_without_its_index_is_a_lost_permission() {
        let mut play = play();
        play.hears(10, &[1, 2]);
        assert_eq!(play.hears(10, &[]), SAME);
        assert_eq!(play.hears(15, &[]), SAME, "a hidden change moves the index too");
        assert_eq!(play.hears(15, &[1, 2]), SAME);
        assert_eq!(play.hears(15, &[1, 2]), SURE);
    }

    #[test]
    fn nobody_left_without_a_change_is_a_denial_until_somebody_is_listed() {
        let mut play = play();
        assert!(!play.history.looks_denied(Some(10)), "nobody was there");
        play.hears(10, &[1, 2]);
        assert!(!play.history.looks_denied(Some(11)), "a removal");
        assert!(play.history.looks_denied(Some(10)));
        play.history.deny();
        assert!(play.history.looks_denied(Some(15)), "a hidden change moves the index too");
        assert_eq!(play.hears(15, &[1, 2]), BROKEN);
        assert!(!play.history.looks_denied(Some(16)));
        play.history.fail();
        assert!(!play.history.looks_denied(Some(15)), "after an error the index proves nothing");
    }

    #[test]
    fn an_index_that_went_back_is_not_asked_with() {
        let mut play = play();
        play.hears(100, &[1]);
        assert_eq!(play.hears(50, &[1]), BACK);
        assert_eq!(play.asks(), None);
        assert_eq!(play.hears(50, &[1]), SURE, "nothing was lost");
        assert_eq!(play.asks(), Some(50));
    }

    #[test]
    fn an_early_answer_with_the_same_index_is_followed_by_one_plain_read() {
        let mut play = play();
        play.hears(100, &[1]);
        let early = Reading { asked: Some(100), early: true, ..plain(Some(100)) };
        assert_eq!(play.told(early, &[1]), SURE);
        assert_eq!(play.asks(), None);
        assert_eq!(play.hears(100, &[1]), SURE);
        assert_eq!(play.asks(), Some(100));
        let early = Reading { asked: Some(100), early: true, ..plain(Some(101)) };
        play.told(early, &[1]);
        assert_eq!(play.asks(), Some(101), "news come early");
    }

    #[test]
    fn no_index_counts_as_one() {
        let mut play = play();
        play.hears(0, &[1]);
        assert_eq!(play.asks(), Some(1));
        play.hears(None, &[1]);
        assert_eq!(play.asks(), Some(1));
        play.hears(9, &[1]);
        assert_eq!(play.hears(None, &[]), BACK);
        assert_eq!(play.asks(), None);
    }

    #[test]
    fn without_a_leader_or_a_right_nothing_is_believed() {
        let mut play = play();
        let leaderless = Reading { known_leader: false, ..plain(Some(10)) };
        assert_eq!(play.told(leaderless, &[1, 2]), Trust::Doubtful("no leader is known"));
        assert_eq!(play.hears(11, &[1, 2]), SURE);
        let filtered = Reading { filtered: true, ..plain(Some(12)) };
        assert_eq!(play.told(filtered, &[1]), Trust::Doubtful("ACLs hide some of the instances"));
        assert!(matches!(play.hears(13, &[1]), Trust::Doubtful(_)), "the other one is still missing");
    }
}
