//! When requests themselves are evidence enough to take a target out, for how long, and how many at most.

use rand::{Rng, RngExt};
use std::time::Duration;

/// Passive detection of failing targets.
///
/// What counts as a failure are connections that fail or break, answers that are none, that come too late, and those
/// that say "not me, not now": 502, 503, 504 and gRPC's UNAVAILABLE. Another 5xx says that the instance works and its
/// program does not like the request.
#[derive(Clone, Debug, PartialEq)]
pub struct OutlierSettings {
    pub enabled: bool,
    /// Failures in a row, at least 1.
    pub consecutive: u32,
    /// A lower share of successes over [`Window::SECONDS`] is too low, 0 to 1; 0 turns this off.
    pub success_rate: f64,
    /// Requests within the window below which no share is judged.
    pub minimum_requests: u32,
    /// The first time out; the n-th lasts n times as long ...
    pub ejection: Duration,
    /// ... up to this.
    pub ejection_cap: Duration,
    /// At most this share of the targets is out at once, 0 to 1; but one always may be.
    pub max_ejected: f64,
    /// After so long without another ejection, earlier ones are forgotten.
    pub forgiven_after: Duration,
}

impl Default for OutlierSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            consecutive: 5,
            success_rate: 0.8,
            minimum_requests: 20,
            ejection: Duration::from_secs(10),
            ejection_cap: Duration::from_secs(300),
            max_ejected: 0.3,
            forgiven_after: Duration::from_secs(300),
        }
    }
}

/// What spoke against a target; a label of `ejections_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    Consecutive,
    SuccessRate,
    /// It was back on trial, and the first request failed.
    Trial,
}

impl Evidence {
    pub const ALL: [Self; 3] = [Self::Consecutive, Self::SuccessRate, Self::Trial];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive => "consecutive",
            Self::SuccessRate => "success_rate",
            Self::Trial => "trial",
        }
    }
}

impl OutlierSettings {
    /// Share by which the time out varies, so that targets that were ejected together do not come back together.
    const JITTER: f64 = 0.2;

    /// How long the `n`-th ejection in a row lasts, counted from 1.
    pub fn term(&self, n: u32, rng: &mut impl Rng) -> Duration {
        let term = self.ejection.saturating_mul(n.max(1)).min(self.ejection_cap);
        term.mul_f64(1.0 + Self::JITTER * (2.0 * rng.random::<f64>() - 1.0))
    }

    /// Whether one more may go where `ejected` of `all` are out already and `usable` would be left without it. The
    /// last one never goes: a bad answer is worth more than none.
    pub fn may_eject(&self, all: usize, ejected: usize, usable: usize) -> bool {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of a count"
        )]
        let most = (all as f64 * self.max_ejected) as usize;
        ejected < most.max(1) && usable > 0
    }
}

/// Successes and failures of one target over the last ten seconds.
#[derive(Clone, Debug, Default)]
pub struct Window {
    slots: [(u64, u64); Self::SECONDS],
    next: usize,
    /// Totals as of the last turn.
    seen: Option<(u64, u64)>,
}

impl Window {
    pub const SECONDS: usize = 10;

    /// To be called once a second with all successes and failures so far.
    pub fn turn(&mut self, successes: u64, failures: u64) {
        let before = self.seen.replace((successes, failures)).unwrap_or((successes, failures));
        if let Some(slot) = self.slots.get_mut(self.next) {
            *slot = (successes.saturating_sub(before.0), failures.saturating_sub(before.1));
        }
        self.next = (self.next + 1) % Self::SECONDS;
    }

    /// Forgets what it has seen, but for the totals: what a target did before it was out says nothing of it now.
    pub fn clear(&mut self) {
        self.slots = Default::default();
    }

    /// Share of successes and number of requests, where that is too low and they are enough to say so.
    pub fn too_low(&self, settings: &OutlierSettings) -> Option<(f64, u64)> {
        let (successes, failures) =
            self.slots.iter().fold((0, 0), |sum, slot| (sum.0 + slot.0, sum.1 + slot.1));
        let requests = successes + failures;
        #[expect(clippy::cast_precision_loss, reason = "requests of ten seconds")]
        let share = successes as f64 / requests.max(1) as f64;
        let judged = requests > 0 && requests >= u64::from(settings.minimum_requests);
        (judged && share < settings.success_rate).then_some((share, requests))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    #[test]
    fn each_ejection_lasts_longer_up_to_the_cap() {
        let settings = OutlierSettings::default();
        let mut rng = SmallRng::seed_from_u64(1);
        for (n, middle) in [(1, 10.0), (2, 20.0), (7, 70.0), (30, 300.0), (31, 300.0), (u32::MAX, 300.0)] {
            let terms: Vec<_> =
                (0..1000).map(|_| settings.term(n, &mut rng).as_secs_f64() / middle).collect();
            assert!(terms.iter().all(|term| (0.799..1.201).contains(term)), "{n}");
            assert!(terms.iter().any(|term| *term < 0.85) && terms.iter().any(|term| *term > 1.15), "{n}");
        }
    }

    #[test]
    fn the_cap_makes_sense_for_few_and_many() {
        let settings = OutlierSettings::default();
        let most = |all| (0..=all).take_while(|out| settings.may_eject(all, *out, all - out - 1)).count();
        let expected = [(1, 0), (2, 1), (3, 1), (4, 1), (6, 1), (7, 2), (10, 3), (300, 90)];
        for (all, out) in expected {
            assert_eq!(
                if all == 1 { usize::from(settings.may_eject(1, 0, 0)) } else { most(all) },
                out,
                "of {all}"
            );
        }
        let none = OutlierSettings { max_ejected: 0.0, ..settings.clone() };
        assert!(none.may_eject(300, 0, 299) && !none.may_eject(300, 1, 298));
        let every = OutlierSettings { max_ejected: 1.0, ..settings };
        assert!(every.may_eject(300, 298, 1) && !every.may_eject(300, 299, 0), "the last one stays");
    }

    #[test]
    fn a_share_is_judged_over_ten_seconds_and_enough_requests() {
        let settings = OutlierSettings::default();
        let mut window = Window::default();
        window.turn(1_000, 1_000);
        assert_eq!(window.too_low(&settings), None, "what was before the first look is not counted");
        window.turn(1_015, 1_004);
        assert_eq!(window.too_low(&settings), None, "19 requests");
        window.turn(1_015, 1_005);
        assert_eq!(window.too_low(&settings), Some((0.75, 20)));
        window.turn(1_020, 1_005);
        assert_eq!(window.too_low(&settings), None, "20 of 25");
        window.turn(1_020, 1_006);
        assert!(window.too_low(&settings).is_some());
        let mut older = window.clone();
        (0..Window::SECONDS).for_each(|_| older.turn(1_020, 1_006));
        assert_eq!(older.too_low(&settings), None, "all of it is over");
        window.clear();
        assert_eq!(window.too_low(&settings), None);
        window.turn(1_020, 1_026);
        assert_eq!(window.too_low(&settings), Some((0.0, 20)));
        let off = OutlierSettings { success_rate: 0.0, ..settings };
        assert_eq!(window.too_low(&off), None);
    }
}
