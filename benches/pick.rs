//! What one pick costs, by algorithm and number of targets, and what building a picker costs.
//!
//! Aim: at most 20 ns at 10,000 targets. What a pick with its ticket costs is measured in `snapshot`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a measurement, not the product")]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use outrigger::balance::{Algorithm, PickCtx, Tried};
use outrigger::model::{Endpoint, Target, Weight};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::hint::black_box;
use std::sync::Arc;
use tokio::time::Instant;

type Weights = fn(u32) -> u16;

/// Equal; and one of a hundred that outweighs its neighbours by four orders of magnitude.
const MIXES: [(&str, Weights); 2] =
    [("equal", |_| 1), ("skewed", |n| if n % 100 == 0 { 65_535 - n as u16 } else { 1 + (n % 7) as u16 })];

fn targets(count: u32, weight: Weights) -> Vec<Arc<Target>> {
    let now = Instant::now();
    let target = |n: u32| {
        let endpoint = Endpoint::at(([10, 0, (n >> 8) as u8, n as u8], 80).into());
        Arc::new(Target::new(Endpoint { weight: Weight::new(weight(n)), ..endpoint }, now))
    };
    (0..count).map(target).collect()
}

fn pick(bench: &mut Criterion) {
    for algorithm in Algorithm::ALL {
        let mut group = bench.benchmark_group(format!("pick/{}", algorithm.as_str()));
        for (mix, weight) in MIXES {
            for count in [3, 100, 10_000] {
                let picker = algorithm.build(targets(count, weight), 1);
                let (mut rng, now, tried) = (SmallRng::seed_from_u64(1), Instant::now(), Tried::default());
                group.bench_function(format!("{mix}/{count}"), |b| {
                    b.iter(|| {
                        let mut ctx = PickCtx { hash: None, tried: &tried, rng: &mut rng, now };
                        black_box(picker.pick(black_box(&mut ctx)).is_some())
                    });
                });
            }
        }
    }
}

/// A retry: the targets of two earlier attempts are to be left alone.
fn retry(bench: &mut Criterion) {
    let mut group = bench.benchmark_group("pick_after_two_tries");
    for algorithm in Algorithm::ALL {
        let all = targets(100, MIXES[0].1);
        let mut tried = Tried::default();
        all.iter().take(2).for_each(|t| tried.push(t.id()));
        let picker = algorithm.build(all, 1);
        let (mut rng, now) = (SmallRng::seed_from_u64(1), Instant::now());
        group.bench_function(algorithm.as_str(), |b| {
            b.iter(|| {
                let mut ctx = PickCtx { hash: None, tried: &tried, rng: &mut rng, now };
                black_box(picker.pick(black_box(&mut ctx)).is_some())
            });
        });
    }
}

fn build(bench: &mut Criterion) {
    for (mix, weight) in MIXES {
        let mut group = bench.benchmark_group(format!("build/10000/{mix}"));
        let all = targets(10_000, weight);
        for algorithm in Algorithm::ALL {
            group.bench_function(algorithm.as_str(), |b| {
                b.iter_batched(
                    || all.clone(),
                    |all| algorithm.build(all, black_box(1)),
                    BatchSize::LargeInput,
                );
            });
        }
    }
}

criterion_group!(benches, pick, retry, build);
criterion_main!(benches);
