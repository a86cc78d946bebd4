//! What it costs to build and swap a snapshot of many endpoints, and to pick while a writer swaps.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a measurement, not the product"
)]

use criterion::{Criterion, criterion_group, criterion_main};
use outrigger::balance::{Algorithm, PickCtx, Tried};
use outrigger::cluster::{Cluster, ClusterSettings, Graces, Keeper, Memory, Mode};
use outrigger::discovery::{Answer, WatchSettings, fixed::Fixed, watch};
use outrigger::model::{Endpoint, EndpointSet, ServiceName, Weight};
use outrigger::policy::{BudgetSettings, Limits, RetrySettings, Timeouts};
use outrigger::rt::Tasks;
use outrigger::telemetry::Events;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

const MANY: u32 = 10_000;

/// A keeper that was not started: the benchmark hands it its answers.
fn keeper(algorithm: Algorithm) -> (Arc<Cluster>, Keeper) {
    // Only the source's watch would need the runtime, and nobody listens to it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _within = runtime.enter();
    let settings = ClusterSettings {
        name: ServiceName::new("web").unwrap(),
        algorithm,
        retry: RetrySettings::default(),
        budget: BudgetSettings::default(),
        timeouts: Timeouts::default(),
        connections: outrigger::upstream::ConnectionSettings::default(),
        limits: Limits::default(),
        checked: true,
        mode: Mode::default(),
    };
    let tasks = Tasks::new(Events::default());
    let source = Fixed::new(EndpointSet::default());
    let (service, rng) = (settings.name.clone(), SmallRng::seed_from_u64(1));
    let feed = watch(&tasks, service, "static:".into(), source, WatchSettings::default(), rng);
    let cluster = Cluster::new(settings, vec![Arc::clone(&feed.status)], 1, Instant::now());
    let (keeper, _) = Keeper::new(
        Arc::clone(&cluster),
        vec![feed],
        Graces::default(),
        Memory::none(),
        Events::default(),
        1,
    );
    (cluster, keeper)
}

/// Two answers that differ in the weight of one endpoint.
fn answers() -> [Answer; 2] {
    [1, 2].map(|weight| {
        let endpoint = |n: u32| {
            let weight = Weight::new(if n == MANY / 2 { weight } else { 1 });
            Endpoint { weight, ..Endpoint::at(([10, 0, (n >> 8) as u8, n as u8], 80).into()) }
        };
        Answer { set: (0..MANY).map(endpoint).collect(), ..Answer::default() }
    })
}

/// One endpoint of many changes: from the answer to the swapped snapshot.
fn adopt(bench: &mut Criterion) {
    for algorithm in Algorithm::ALL {
        let (cluster, mut keeper) = keeper(algorithm);
        let answers = answers();
        let mut turn = 0;
        bench.bench_function(&format!("adopt/{}/{MANY}", algorithm.as_str()), |b| {
            b.iter(|| {
                turn += 1;
                keeper.adopt(0, black_box(&answers[turn % 2]), Instant::now());
            });
        });
        assert_eq!(cluster.usable(), MANY as usize);
    }
}

/// A whole attempt, pick and ticket, with a writer that swaps all the time, and with none.
fn pick(bench: &mut Criterion) {
    for (name, pause) in [("alone", None), ("swapped_every_10ms", Some(10)), ("swapped_always", Some(0))] {
        let (cluster, mut keeper) = keeper(Algorithm::LeastRequest);
        let answers = answers();
        keeper.adopt(0, &answers[0], Instant::now());
        let (done, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let (done, swaps) = (&done, &swaps);
            if let Some(pause) = pause {
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        let turn = swaps.fetch_add(1, Ordering::Relaxed);
                        keeper.adopt(0, &answers[turn as usize % 2], Instant::now());
                        std::thread::sleep(Duration::from_millis(pause));
                    }
                });
            }
            let (mut rng, tried) = (SmallRng::seed_from_u64(1), Tried::default());
            bench.bench_function(&format!("pick/{name}/{MANY}"), |b| {
                b.iter(|| {
                    let now = Instant::now();
                    let mut ctx = PickCtx { hash: None, tried: &tried, rng: &mut rng, now };
                    black_box(cluster.pick(0, &mut ctx).is_ok())
                });
            });
            done.store(true, Ordering::Relaxed);
        });
        assert!(pause.is_none() || swaps.load(Ordering::Relaxed) > 0);
    }
}

criterion_group!(benches, adopt, pick);
criterion_main!(benches);
