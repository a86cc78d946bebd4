//! What happens in the demo, and when.

use std::time::Duration;
use tokio::time::Instant;

/// Something that is done to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Kill(usize),
    Revive(usize),
    Slow(usize, Duration),
    /// Answers 503 to everything but its health check.
    Break(usize),
    /// Well again: neither slow nor broken.
    Mend(usize),
    /// A sixth instance is registered.
    Add,
    /// It is taken out of the registry, and ends a little later.
    Remove,
}

/// Seconds after the start of a round, and the act; instances count from 0.
const ROUND: [(u64, Act); 8] = [
    (4, Act::Kill(1)),
    (12, Act::Revive(1)),
    (17, Act::Slow(3, Duration::from_millis(300))),
    (24, Act::Mend(3)),
    (28, Act::Add),
    (36, Act::Remove),
    (40, Act::Break(2)),
    (46, Act::Mend(2)),
];
const LENGTH: Duration = Duration::from_secs(52);

/// Plays the round over and over.
#[derive(Debug)]
pub(super) struct Script {
    start: Instant,
    next: usize,
}

impl Script {
    pub fn new(start: Instant) -> Self {
        Self { start, next: 0 }
    }

    /// The next act whose time has come.
    pub fn due(&mut self, now: Instant) -> Option<Act> {
        let Some((second, act)) = ROUND.get(self.next) else {
            if now >= self.start + LENGTH {
                self.start += LENGTH;
                self.next = 0;
            }
            return None;
        };
        if now < self.start + Duration::from_secs(*second) {
            return None;
        }
        self.next += 1;
        Some(*act)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acts_come_in_order_and_rounds_follow_each_other() {
        let start = Instant::now();
        let mut script = Script::new(start);
        let mut seen = Vec::new();
        for second in 0..104 {
            while let Some(act) = script.due(start + Duration::from_secs(second)) {
                seen.push(act);
            }
        }
        let round: Vec<_> = ROUND.iter().map(|(_, act)| *act).collect();
        assert_eq!(seen, [round.clone(), round].concat());
    }
}
