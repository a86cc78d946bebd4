//! When a target is asked next: intervals, jitter, growing pauses for the failed. Pure; the dice are handed in.

use super::{CheckSettings, Pace};
use rand::{Rng, RngExt};
use std::time::Duration;

/// The intervals of one target.
#[derive(Clone, Debug)]
pub struct Schedule {
    interval: Duration,
    failed_base: Duration,
    failed_cap: Duration,
    jitter: f64,
    /// Probes that failed in a row while the target counted as unhealthy.
    failures: u32,
}

impl Schedule {
    /// Longer intervals mean this one: it keeps sums of instants far from overflow.
    const LONGEST: Duration = Duration::from_secs(365 * 86_400);

    pub fn new(settings: &CheckSettings) -> Self {
        let cap = settings.unhealthy_interval_max.min(Self::LONGEST);
        Self {
            interval: settings.interval.min(Self::LONGEST),
            failed_base: settings.unhealthy_interval.min(cap),
            failed_cap: cap,
            jitter: if settings.jitter.is_nan() { 0.0 } else { settings.jitter.clamp(0.0, 1.0) },
            failures: 0,
        }
    }

    /// From one start to the next, for a target that is thought well.
    pub fn healthy(&mut self, rng: &mut impl Rng) -> Duration {
        self.failures = 0;
        self.vary(self.interval, rng)
    }

    /// The same for a failed target: longer after each failure, short again after a pass, so that `rise` is reached soon.
    pub fn unhealthy(&mut self, passed: bool, rng: &mut impl Rng) -> Duration {
        if passed {
            self.failures = 0;
            return self.vary(self.failed_base, rng);
        }
        let pause = self.failed_base.saturating_mul(1 << self.failures.min(20)).min(self.failed_cap);
        self.failures = self.failures.saturating_add(1);
        self.vary(pause, rng)
    }

    fn vary(&self, interval: Duration, rng: &mut impl Rng) -> Duration {
        interval.mul_f64(1.0 + self.jitter * (2.0 * rng.random::<f64>() - 1.0))
    }
}

/// How long the first probe of one of `new` targets waits: by chance within what the pace allows, at most 1 s.
pub fn first_delay(new: usize, rng: &mut impl Rng) -> Duration {
    let new = u32::try_from(new).unwrap_or(u32::MAX).min(Pace::PER_SECOND);
    let span = Duration::from_secs(1) * new / Pace::PER_SECOND;
    span.mul_f64(rng.random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::CheckKind;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    fn schedule(jitter: f64) -> (Schedule, SmallRng) {
        let settings = CheckSettings { jitter, ..CheckSettings::new(CheckKind::Tcp) };
        (Schedule::new(&settings), SmallRng::seed_from_u64(3))
    }

    #[test]
    fn a_failed_target_is_left_alone_longer_and_longer() {
        let (mut schedule, mut rng) = schedule(0.0);
        let pauses: Vec<_> = (0..5).map(|_| schedule.unhealthy(false, &mut rng).as_secs()).collect();
        assert_eq!(pauses, [5, 10, 20, 30, 30]);
        assert_eq!(schedule.unhealthy(true, &mut rng).as_secs(), 5, "hope shortens the pause");
        assert_eq!(schedule.healthy(&mut rng).as_secs(), 10);
        assert_eq!(schedule.unhealthy(false, &mut rng).as_secs(), 5, "a new illness begins anew");
    }

    #[test]
    fn jitter_stays_within_its_share_and_uses_all_of_it() {
        let (mut schedule, mut rng) = schedule(0.2);
        let draws: Vec<_> = (0..1000).map(|_| schedule.healthy(&mut rng).as_secs_f64()).collect();
        assert!(draws.iter().all(|d| (8.0..=12.0).contains(d)));
        assert!(draws.iter().any(|d| *d < 8.2) && draws.iter().any(|d| *d > 11.8));
        let mean = draws.iter().sum::<f64>() / 1000.0;
        assert!((mean - 10.0).abs() < 0.2, "{mean}");
    }

    #[test]
    fn absurd_settings_do_not_overflow() {
        let settings = CheckSettings {
            interval: Duration::MAX,
            unhealthy_interval: Duration::MAX,
            unhealthy_interval_max: Duration::MAX,
            jitter: f64::INFINITY,
            ..CheckSettings::new(CheckKind::Tcp)
        };
        let (mut schedule, mut rng) = (Schedule::new(&settings), SmallRng::seed_from_u64(3));
        for _ in 0..100 {
            assert!(schedule.healthy(&mut rng) <= 2 * Schedule::LONGEST);
            assert!(schedule.unhealthy(false, &mut rng) <= 2 * Schedule::LONGEST);
        }
    }

    #[test]
    fn first_probes_spread_over_at_most_a_second() {
        let mut rng = SmallRng::seed_from_u64(3);
        for (new, most) in [(0, 0.0), (1, 0.02), (25, 0.5), (50, 1.0), (10_000, 1.0)] {
            let draws: Vec<_> = (0..1000).map(|_| first_delay(new, &mut rng).as_secs_f64()).collect();
            let longest = draws.into_iter().fold(0.0, f64::max);
            assert!(longest <= most && longest >= most * 0.9, "{new} new targets: {longest}");
        }
    }
}
