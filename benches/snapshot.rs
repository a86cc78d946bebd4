//! What it costs to build and swap a snapshot of many endpoints, to pick while a writer swaps, and all that a request asks
//! of its cluster.
//!
//! Aims: `adopt` at most 2 ms at 10,000 endpoints; `pick/alone`, with its ticket and without the clock's 25 ns, at most
//! 50 ns there; `attempt` of 200 clusters what that of one costs, but for caches that are too small for all. That none of
//! it allocates is held by `tests/allocations.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a measurement, not the product"
)]

use criterion::{Bencher, Criterion, criterion_group, criterion_main};
use outrigger::balance::{Algorithm, PickCtx, Tried};
use outrigger::cluster::{Booth, Cluster, ClusterSettings, Graces, Keeper, Memory};
use outrigger::discovery::{Answer, WatchSettings, fixed::Fixed, watch};
use outrigger::model::{Endpoint, EndpointSet, Outcome, ServiceName, Weight};
use outrigger::rt::Tasks;
use outrigger::telemetry::Events;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;
use tokio::time::Instant;

const MANY: u32 = 10_000;

/// A keeper that was not started: the benchmark hands it its answers.
fn keeper(algorithm: Algorithm, workers: usize) -> (Arc<Cluster>, Keeper) {
    // Only the source's watch would need the runtime, and nobody listens to it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _within = runtime.enter();
    let name = ServiceName::new("web").unwrap();
    let settings = ClusterSettings { algorithm, checked: true, ..ClusterSettings::new(name) };
    let tasks = Tasks::new(Events::default());
    let source = Fixed::new(EndpointSet::default());
    let (service, rng) = (settings.name.clone(), SmallRng::seed_from_u64(1));
    let feed = watch(&tasks, service, "static:".into(), source, WatchSettings::default(), rng);
    let cluster = Cluster::new(settings, vec![Arc::clone(&feed.status)], workers, Instant::now());
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
fn answers(count: u32) -> [Answer; 2] {
    [1, 2].map(|weight| {
        let endpoint = |n: u32| {
            let weight = Weight::new(if n == count / 2 { weight } else { 1 });
            Endpoint { weight, ..Endpoint::at(([10, 0, (n >> 8) as u8, n as u8], 80).into()) }
        };
        Answer { set: (0..count).map(endpoint).collect(), ..Answer::default() }
    })
}

/// One endpoint of many changes: from the answer to the swapped snapshot.
fn adopt(bench: &mut Criterion) {
    for algorithm in Algorithm::ALL {
        let (cluster, mut keeper) = keeper(algorithm, 1);
        let answers = answers(MANY);
        keeper.adopt(0, &answers[0], Instant::now());
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

/// Pick and ticket, with a writer that swaps all the time, and with none.
fn pick(bench: &mut Criterion) {
    for (name, pause) in [("alone", None), ("swapped_every_10ms", Some(10)), ("swapped_always", Some(0))] {
        let (cluster, mut keeper) = keeper(Algorithm::LeastRequest, 1);
        let answers = answers(MANY);
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
            let booth = Booth::new(Arc::clone(&cluster), 0);
            let (mut rng, tried) = (SmallRng::seed_from_u64(1), Tried::default());
            bench.bench_function(&format!("pick/{name}/{MANY}"), |b| {
                // Reading the clock costs as much as all of this, and is the caller's to save.
                let now = Instant::now();
                b.iter(|| {
                    let mut ctx = PickCtx { hash: None, tried: &tried, rng: &mut rng, now };
                    black_box(booth.pick(&mut ctx).is_ok())
                });
            });
            // A filter may have left no time for it.
            while pause.is_some() && swaps.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}

/// A cluster of `count` targets that has been discovered.
fn cluster(algorithm: Algorithm, count: u32, workers: usize) -> Arc<Cluster> {
    let (cluster, mut keeper) = keeper(algorithm, workers);
    keeper.adopt(0, &answers(count)[0], Instant::now());
    assert_eq!(cluster.usable(), count as usize);
    cluster
}

/// What one request asks of the clusters it is dealt to in turn, besides its bytes: budget, pick, ticket, latency, end.
struct Caller {
    booths: Vec<Rc<Booth>>,
    worker: usize,
    rng: SmallRng,
    turn: usize,
    now: Instant,
}

impl Caller {
    fn new(clusters: &[Arc<Cluster>], worker: usize) -> Self {
        let (rng, now) = (SmallRng::seed_from_u64(worker as u64), Instant::now());
        let booths = clusters.iter().map(|cluster| Booth::new(Arc::clone(cluster), worker)).collect();
        Self { booths, worker, rng, turn: 0, now }
    }

    #[inline(never)]
    fn call(&mut self) {
        let booth = &self.booths[self.turn];
        self.turn = if self.turn + 1 == self.booths.len() { 0 } else { self.turn + 1 };
        self.now += Duration::from_nanos(100);
        booth.budget.request(self.worker, self.now);
        let tried = Tried::default();
        let mut ctx = PickCtx { hash: None, tried: &tried, rng: &mut self.rng, now: self.now };
        let mut ticket = booth.pick(&mut ctx).unwrap();
        ticket.saw_head(self.now);
        black_box(&ticket);
        ticket.finish(Outcome::Success);
        booth.tally(self.worker).request(200, Duration::from_micros(300));
    }
}

/// Times the quietest ten thousand in a row, so that others who use the machine are not measured.
fn quietest(bencher: &mut Bencher<'_>, mut call: impl FnMut()) {
    const ROW: u64 = 10_000;
    bencher.iter_custom(|times| {
        let rows = (0..times.div_ceil(ROW).max(20)).map(|_| {
            let begun = std::time::Instant::now();
            (0..ROW).for_each(|_| call());
            begun.elapsed()
        });
        rows.min().unwrap_or_default().mul_f64(times as f64 / ROW as f64)
    });
}

/// A whole attempt, alone.
fn attempt(bench: &mut Criterion) {
    for algorithm in Algorithm::ALL {
        for count in [3, 100, MANY] {
            let clusters = [cluster(algorithm, count, 1)];
            let mut caller = Caller::new(&clusters, 0);
            bench.bench_function(&format!("attempt/{}/{count}", algorithm.as_str()), |b| {
                quietest(b, || caller.call())
            });
        }
    }
}

/// The same in one of many clusters.
fn clusters(bench: &mut Criterion) {
    for many in [1, 200] {
        let clusters: Vec<_> = (0..many).map(|_| cluster(Algorithm::RoundRobin, 50, 1)).collect();
        let mut caller = Caller::new(&clusters, 0);
        bench.bench_function(&format!("attempt/of_clusters/{many}"), |b| quietest(b, || caller.call()));
    }
}

/// The same by two workers at once, each on a core if there are two that are free.
fn two_workers(bench: &mut Criterion) {
    for algorithm in Algorithm::ALL {
        for count in [3, MANY] {
            let clusters = [cluster(algorithm, count, 2)];
            bench.bench_function(&format!("attempt/two_workers/{}/{count}", algorithm.as_str()), |b| {
                b.iter_custom(|times| {
                    let start = Barrier::new(2);
                    std::thread::scope(|scope| {
                        let threads = [0, 1].map(|worker| {
                            let (clusters, start) = (&clusters, &start);
                            scope.spawn(move || {
                                let mut caller = Caller::new(clusters, worker);
                                start.wait();
                                let begun = std::time::Instant::now();
                                (0..times).for_each(|_| caller.call());
                                begun.elapsed()
                            })
                        });
                        threads.map(|thread| thread.join().unwrap()).into_iter().max().unwrap()
                    })
                });
            });
        }
    }
}

criterion_group!(benches, adopt, pick, attempt, clusters, two_workers);
criterion_main!(benches);
