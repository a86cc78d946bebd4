//! Metric cells: plain atomics that are bumped where something happens and read by the admin address.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn inc(&self) {
        self.add(1);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that only grows, and that one thread alone adds to; all may read it. That spares the thread the bus lock
/// of a [`Counter`]. Should two add at once, some of it is lost.
#[derive(Debug, Default)]
pub struct LocalCounter(AtomicU64);

impl LocalCounter {
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    pub fn inc(&self) {
        self.add(1);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Durations by bucket, and their sum, as one thread observes them.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [LocalCounter; Self::BOUNDS.len() + 1],
    sum_micros: LocalCounter,
}

impl Histogram {
    /// Upper bounds in seconds: Prometheus' client libraries' defaults, with two finer ones for calls on one host.
    pub const BOUNDS: [f64; 13] =
        [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
    const BOUNDS_MICROS: [u64; 13] = [
        500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
        10_000_000,
    ];

    pub fn observe(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = Self::BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        if let Some(cell) = self.buckets.get(bucket) {
            cell.inc();
        }
        self.sum_micros.add(micros);
    }

    /// Adds this histogram's numbers to `into`: counts by bucket (the last is +Inf), and the sum in seconds.
    pub fn read(&self, into: &mut ([u64; Self::BOUNDS.len() + 1], f64)) {
        for (sum, cell) in into.0.iter_mut().zip(&self.buckets) {
            *sum += cell.get();
        }
        #[expect(clippy::cast_precision_loss, reason = "a sum of microseconds keeps 15 digits")]
        {
            into.1 += self.sum_micros.get() as f64 / 1e6;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_bucket_that_bounds_it() {
        let histogram = Histogram::default();
        for micros in [500, 501, 10_000_000, 10_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut read = Default::default();
        histogram.read(&mut read);
        assert_eq!(read.0, [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert!((read.1 - 20.001_002).abs() < 1e-9);
        for (seconds, micros) in Histogram::BOUNDS.iter().zip(Histogram::BOUNDS_MICROS) {
            assert!((seconds * 1e6 - micros as f64).abs() < 1e-6);
        }
    }
}
