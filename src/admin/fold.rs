//! Endpoints as metrics show them: so many by name, the rest together.

use crate::cluster::Member;
use crate::model::{Outcome, Target, TargetId};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

/// Endpoints of one service with series of their own.
pub(super) const SHOWN: usize = 200;
/// The name of all others together.
pub(super) const OTHER: &str = "other";

type Counts = [u64; Outcome::ALL.len()];

/// The series of one endpoint, or of all the others.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub endpoint: String,
    pub in_flight: u64,
    /// Of the others: the mean.
    pub latency: Option<Duration>,
    pub outcomes: Counts,
}

/// What one service's folded endpoints have counted so far.
///
/// A counter must not fall when one of them leaves, so their increments are added up from scrape to scrape.
#[derive(Debug, Default)]
pub(super) struct Fold {
    /// As of the last scrape.
    counted: HashMap<TargetId, Counts>,
    other: Counts,
}

impl Fold {
    /// The longest known have rows of their own, so that a newcomer never changes who they are. Of several instances
    /// at one address the newest is shown: two series cannot have one name.
    pub fn rows(&mut self, members: &[Member]) -> Vec<Row> {
        let mut targets: Vec<&Target> = members.iter().map(|member| &*member.target).collect();
        targets.sort_unstable_by_key(|target| (target.endpoint.addr, Reverse(target.id())));
        targets.dedup_by_key(|target| target.endpoint.addr);
        targets.sort_unstable_by_key(|target| target.id());
        let (shown, folded) = targets.split_at(targets.len().min(SHOWN));
        let mut rows: Vec<_> = shown.iter().map(|target| Row::of(target)).collect();
        self.add(folded);
        if !folded.is_empty() || self.other.iter().any(|count| *count > 0) {
            rows.push(self.other(folded));
        }
        rows
    }

    fn add(&mut self, folded: &[&Target]) {
        let before = std::mem::take(&mut self.counted);
        for target in folded {
            let counts = counts(target);
            let old = before.get(&target.id()).copied().unwrap_or_default();
            for ((sum, new), old) in self.other.iter_mut().zip(counts).zip(old) {
                *sum += new.saturating_sub(old);
            }
            self.counted.insert(target.id(), counts);
        }
    }

    fn other(&self, folded: &[&Target]) -> Row {
        let latencies: Vec<_> = folded.iter().filter_map(|target| target.history.load.latency()).collect();
        let mean =
            latencies.iter().sum::<Duration>().checked_div(u32::try_from(latencies.len()).unwrap_or(0));
        Row {
            endpoint: OTHER.to_owned(),
            in_flight: folded.iter().map(|target| u64::from(target.history.load.in_flight())).sum(),
            latency: mean,
            outcomes: self.other,
        }
    }
}

impl Row {
    fn of(target: &Target) -> Self {
        Self {
            endpoint: target.endpoint.addr.to_string(),
            in_flight: target.history.load.in_flight().into(),
            latency: target.history.load.latency(),
            outcomes: counts(target),
        }
    }
}

fn counts(target: &Target) -> Counts {
    Outcome::ALL.map(|outcome| target.history.tally.get(outcome))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Presence;
    use crate::model::Endpoint;
    use std::sync::Arc;
    use tokio::time::Instant;

    fn member(port: u16) -> Member {
        let target = Target::new(Endpoint::at(([127, 0, 0, 1], port).into()), Instant::now());
        Member::new(Arc::new(target), Presence::Listed)
    }

    fn succeed(member: &Member) {
        member.target.history.tally.count(Outcome::Success);
    }

    fn successes(rows: &[Row], endpoint: &str) -> Option<u64> {
        rows.iter().find(|row| row.endpoint == endpoint).map(|row| row.outcomes[Outcome::Success as usize])
    }

    #[test]
    fn up_to_two_hundred_have_their_own_rows_and_there_are_no_others() {
        let members: Vec<_> = (1..=200).map(member).collect();
        let rows = Fold::default().rows(&members);
        assert_eq!(rows.len(), 200);
        assert_eq!(successes(&rows, OTHER), None);
    }

    #[test]
    fn the_rest_is_one_row_that_never_counts_backwards() {
        let mut fold = Fold::default();
        let mut members: Vec<_> = (1..=203).map(member).collect();
        members.iter().for_each(succeed);
        members[201].target.history.load.enter(9);
        members[201].target.history.load.sample(Duration::from_millis(2));
        members[202].target.history.load.sample(Duration::from_millis(4));
        let rows = fold.rows(&members);
        assert_eq!(rows.len(), 201);
        assert_eq!(successes(&rows, OTHER), Some(3));
        let other = &rows[200];
        assert_eq!((other.in_flight, other.latency), (1, Some(Duration::from_millis(3))));
        // One of the folded leaves, another one works on.
        members.remove(202);
        succeed(&members[201]);
        assert_eq!(successes(&fold.rows(&members), OTHER), Some(4));
        // Some of the shown leave: the longest known of the others move up, and their past stays where it was told.
        members.drain(..2);
        let rows = fold.rows(&members);
        assert_eq!(rows.len(), 201);
        assert_eq!(successes(&rows, "127.0.0.1:202"), Some(2));
        assert_eq!(successes(&rows, OTHER), Some(4));
        assert_eq!(rows[200].in_flight, 0);
    }

    #[test]
    fn a_newcomer_pushes_nobody_out() {
        let mut members: Vec<_> = (1_001..=1_200).map(member).collect();
        members.insert(0, member(1));
        let rows = Fold::default().rows(&members);
        assert_eq!(successes(&rows, "127.0.0.1:1"), None);
        assert!(members[1..].iter().all(|m| successes(&rows, &m.target.endpoint.addr.to_string()).is_some()));
    }

    #[test]
    fn one_address_is_one_row_that_of_the_newest_instance() {
        let (old, new) = (member(1), member(1));
        succeed(&old);
        let rows = Fold::default().rows(&[new, Member { presence: Presence::Draining, ..old }]);
        assert_eq!(rows.len(), 1);
        assert_eq!(successes(&rows, "127.0.0.1:1"), Some(0));
    }
}
