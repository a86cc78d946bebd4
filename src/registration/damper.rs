//! An app that comes and goes comes back later each time. Pure; the clock is handed in.

use std::time::Duration;
use tokio::time::Instant;

/// How often the app failed lately, and since when it is well.
#[derive(Clone, Debug, Default)]
pub(super) struct Damper {
    failures: u32,
    well_since: Option<Instant>,
}

impl Damper {
    /// After the second failure in a row of short lives; doubled with each further one ...
    const BASE: Duration = Duration::from_secs(5);
    /// ... up to this.
    const CAP: Duration = Duration::from_secs(60);
    /// A life this long makes up for all failures before it.
    const STABLE: Duration = Duration::from_secs(300);

    pub(super) fn failed(&mut self, now: Instant) {
        if let Some(since) = self.well_since.take()
            && now.saturating_duration_since(since) >= Self::STABLE
        {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
    }

    /// Since its last long life.
    pub(super) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    pub(super) fn recovered(&mut self, now: Instant) {
        self.well_since = Some(now);
    }

    /// How long the app must be well before it is announced again.
    pub(super) fn hold(&self) -> Duration {
        match self.failures {
            0 | 1 => Duration::ZERO,
            more => Self::BASE.saturating_mul(1 << (more - 2).min(10)).min(Self::CAP),
        }
    }

    /// When an app that is well now may be announced.
    pub(super) fn returns(&self) -> Option<Instant> {
        self.well_since.map(|since| since + self.hold())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_hold_grows_with_each_short_life_and_a_long_one_ends_it() {
        let mut damper = Damper::default();
        let mut now = Instant::now();
        damper.recovered(now);
        assert_eq!(damper.returns(), Some(now), "at the start nothing is held against it");
        let mut holds = Vec::new();
        for _ in 0..7 {
            now += Duration::from_secs(10);
            damper.failed(now);
            assert_eq!(damper.returns(), None);
            damper.recovered(now);
            holds.push(damper.hold().as_secs());
        }
        assert_eq!(holds, [0, 5, 10, 20, 40, 60, 60]);
        now += Damper::STABLE;
        damper.failed(now);
        damper.recovered(now);
        assert_eq!(damper.returns(), Some(now));
    }
}
