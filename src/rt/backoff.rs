//! Delays between tries that grow, spread by chance.

use rand::{Rng, RngExt};
use std::time::Duration;

/// Exponential back-off with full jitter: each delay is uniform in `0 ..= min(cap, base * 2^n)`
/// (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, failures: 0 }
    }

    /// The delay before the next try, after one more failure.
    pub fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let ceiling = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(rng.random::<f64>())
    }

    /// The longest delay that `next` would give now.
    pub fn ceiling(&self) -> Duration {
        self.base.saturating_mul(1 << self.failures.min(20)).min(self.cap)
    }

    /// A success: begin again at the base.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn delays_grow_to_the_cap_and_start_over() {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
        let mut rng = rand::rngs::SmallRng::seed_from_u64(7);
        for n in 0..40_u32 {
            let ceiling = Duration::from_millis(250 << n.min(7)).min(Duration::from_secs(30));
            assert_eq!(backoff.ceiling(), ceiling);
            assert!(backoff.next(&mut rng) <= ceiling);
        }
        backoff.reset();
        assert_eq!(backoff.ceiling(), Duration::from_millis(250));
    }
}
