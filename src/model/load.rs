//! What runs at a target now, and how fast it answers.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// In-flight requests and a moving average of the time to the response head.
#[derive(Debug, Default)]
pub struct Load {
    in_flight: AtomicU32,
    /// Nanoseconds; 0 until the first sample.
    latency: AtomicU64,
}

impl Load {
    /// Weight of a new latency sample is 1/8, as in TCP's smoothed round-trip time (RFC 6298, section 2).
    const SMOOTHING: u64 = 8;

    /// Counts one more request in, unless `limit` already run.
    ///
    /// Who is refused here and has said before that it waits is seen waiting by whoever leaves after it.
    pub fn enter(&self, limit: u32) -> bool {
        if self.in_flight.fetch_add(1, Ordering::AcqRel) < limit {
            return true;
        }
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        false
    }

    pub fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Takes in the time from the attempt's start to its response head.
    ///
    /// Two workers may overwrite each other's sample: the loss of one in a moving average is harmless.
    pub fn sample(&self, latency: Duration) {
        let sample = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1);
        let old = self.latency.load(Ordering::Relaxed);
        let new = match old {
            0 => sample,
            _ => old - old / Self::SMOOTHING + sample / Self::SMOOTHING,
        };
        self.latency.store(new, Ordering::Relaxed);
    }

    pub fn latency(&self) -> Option<Duration> {
        match self.latency.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_enter_than_the_limit() {
        let load = Load::default();
        assert!(load.enter(2) && load.enter(2) && !load.enter(2));
        assert_eq!(load.in_flight(), 2);
        load.leave();
        assert!(load.enter(2));
    }

    #[test]
    fn the_average_moves_towards_new_samples() {
        let load = Load::default();
        assert_eq!(load.latency(), None);
        load.sample(Duration::from_millis(10));
        assert_eq!(load.latency(), Some(Duration::from_millis(10)));
        for _ in 0..100 {
            load.sample(Duration::from_millis(2));
        }
        let now = load.latency().unwrap();
        assert!(now < Duration::from_micros(2_100), "{now:?}");
    }
}
