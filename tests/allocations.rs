//! Counts allocations where there must be none: its own program, because the counter takes the allocator's place.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use allocation_counter::measure;
use outrigger::balance::{Algorithm, PickCtx, Tried};
use outrigger::cluster::{Booth, Cluster, ClusterSettings, Graces, Keeper, Memory, PickError, Totals};
use outrigger::discovery::fixed::Fixed;
use outrigger::discovery::{Answer, WatchSettings, watch};
use outrigger::model::{Endpoint, EndpointSet, Outcome, ServiceName, Weight};
use outrigger::policy::{Limits, RetryReason};
use outrigger::rt::Tasks;
use outrigger::telemetry::Events;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// One worker's booth at a cluster of `count` targets, each of which takes at most `limit` requests at a time.
async fn booth(algorithm: Algorithm, count: u32, limit: u32) -> Rc<Booth> {
    let tasks = Tasks::new(Events::default());
    let name = ServiceName::new("web").unwrap();
    let limits = Limits { in_flight_per_target: limit, ..Limits::default() };
    let settings = ClusterSettings { algorithm, limits, ..ClusterSettings::new(name.clone()) };
    let rng = SmallRng::seed_from_u64(1);
    let source = Fixed::new(EndpointSet::default());
    let feed = watch(&tasks, name, "static:".into(), source, WatchSettings::default(), rng);
    let cluster = Cluster::new(settings, vec![Arc::clone(&feed.status)], 1, Instant::now());
    let events = Events::default();
    let (mut keeper, _) =
        Keeper::new(Arc::clone(&cluster), vec![feed], Graces::default(), Memory::none(), events, 1);
    let endpoint = |n: u32| {
        let weight = Weight::new(1 + (n % 7) as u16);
        Endpoint { weight, ..Endpoint::at(([10, 0, (n >> 8) as u8, n as u8], 80).into()) }
    };
    let answer = Answer { set: (0..count).map(endpoint).collect(), ..Answer::default() };
    keeper.adopt(0, &answer, Instant::now());
    assert_eq!(cluster.usable(), count as usize);
    Booth::new(cluster, 0)
}

/// All that a request asks of its cluster besides its bytes: budget, pick, ticket, latency, a retry elsewhere, counts.
fn request(booth: &Rc<Booth>, rng: &mut SmallRng, now: Instant) {
    let mut tried = Tried::default();
    booth.budget.request(0, now);
    for outcome in [Outcome::ConnectFailed, Outcome::Success] {
        let mut ctx = PickCtx { hash: None, tried: &tried, rng, now };
        let mut ticket = booth.pick(&mut ctx).unwrap();
        tried.push(ticket.target().id());
        ticket.saw_head(now + Duration::from_millis(1));
        ticket.finish(outcome);
        booth.tally(0).retry(RetryReason::ConnectFailed);
        black_box(booth.has_untried(&tried) && booth.budget.retry(0, now));
    }
    booth.tally(0).request(200, Duration::from_millis(1));
}

#[tokio::test]
async fn picks_tickets_and_counts_do_not_allocate() {
    assert_eq!(measure(|| drop(black_box(Box::new(7)))).count_total, 1, "the counter counts");
    for algorithm in Algorithm::ALL {
        let booth = booth(algorithm, 10_000, 1024).await;
        let (mut rng, now) = (SmallRng::seed_from_u64(1), Instant::now());
        // The first read of a snapshot gives the thread its place among the readers.
        request(&booth, &mut rng, now);
        let counted = measure(|| {
            (0..1_000).for_each(|n| request(&booth, &mut rng, now + Duration::from_millis(n)));
        });
        assert_eq!(counted.count_total, 0, "{algorithm:?}");
        let codes = Totals::of(booth.tallies()).codes;
        assert_eq!(codes, [(200, 1_001)], "and it did all that");
    }
}

#[tokio::test]
async fn looking_for_room_where_all_is_full_does_not_allocate() {
    for algorithm in Algorithm::ALL {
        let booth = booth(algorithm, 100, 1).await;
        let (mut rng, now, tried) = (SmallRng::seed_from_u64(1), Instant::now(), Tried::default());
        let mut pick = || booth.pick(&mut PickCtx { hash: None, tried: &tried, rng: &mut rng, now });
        let mut running = Vec::with_capacity(100);
        running.push(pick().unwrap());
        let counted = measure(|| {
            running.extend((1..100).map(|_| pick().unwrap()));
            assert_eq!(pick().unwrap_err(), PickError::Saturated);
        });
        assert_eq!((counted.count_total, running.len()), (0, 100), "{algorithm:?}");
    }
}
