//! How many probes this process starts in a second, all services together.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// A queue in which one probe starts after another, never closer than a fixed gap. With more targets than turns, their
/// intervals stretch.
///
/// New targets wait in a lane of their own, which has nine turns in ten while both are busy: a thousand known targets
/// do not delay the first verdict on a new one, nor do a thousand new ones bring the checks of the known to a halt.
#[derive(Debug)]
pub struct Pace {
    gap: Duration,
    /// Semaphores, because their queues are fair and a waiter may be dropped. `NEW_TURNS` of the one lane and one of the
    /// other stand in line at the gate.
    new: Semaphore,
    known: Semaphore,
    gate: Semaphore,
    /// The next start; read and written by whoever holds `gate`, for one line.
    next: Mutex<Instant>,
}

/// Where a probe queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The first probe of a new target.
    New,
    /// Every later one.
    Known,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new(Self::PER_SECOND)
    }
}

impl Pace {
    /// Probes per second that a whole process may start.
    pub const PER_SECOND: u32 = 50;

    /// Turns of new targets for one of a known target, while both wait.
    const NEW_TURNS: usize = 9;

    /// A start that comes at most this late (timers wake by whole milliseconds) does not delay those after it.
    const SLACK: Duration = Duration::from_millis(5);

    /// At least 1 per second.
    pub fn new(per_second: u32) -> Self {
        Self {
            gap: Duration::from_secs(1) / per_second.max(1),
            new: Semaphore::new(Self::NEW_TURNS),
            known: Semaphore::new(1),
            gate: Semaphore::new(1),
            next: Mutex::new(Instant::now()),
        }
    }

    /// Waits for one's turn to start a probe. A waiter that is dropped leaves no hole.
    pub async fn turn(&self, lane: Lane) {
        let lane = match lane {
            Lane::New => &self.new,
            Lane::Known => &self.known,
        };
        // Neither is ever closed, so both are held until the end of this function.
        let _head = lane.acquire().await;
        let _gate = self.gate.acquire().await;
        tokio::time::sleep_until(self.peek()).await;
        self.take(Instant::now());
    }

    fn peek(&self) -> Instant {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, now: Instant) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let start = if now > *next + Self::SLACK { now } else { *next };
        *next = start + self.gap;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::task::JoinSet;

    /// Each waiter's lane and the second it started at.
    async fn starts(lanes: Vec<Lane>) -> Vec<(Lane, f64)> {
        let pace = Arc::new(Pace::default());
        let begin = Instant::now();
        let mut waiters = JoinSet::new();
        for lane in lanes {
            let pace = Arc::clone(&pace);
            waiters.spawn(async move {
                pace.turn(lane).await;
                (lane, begin.elapsed().as_secs_f64())
            });
            // Into the queue, before the next one.
            tokio::task::yield_now().await;
        }
        let mut starts = waiters.join_all().await;
        starts.sort_by(|a, b| a.1.total_cmp(&b.1));
        starts
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_starts_one_by_one() {
        let starts = starts(vec![Lane::Known; 200]).await;
        for pair in starts.windows(2) {
            let gap = pair[1].1 - pair[0].1;
            assert!((0.014..0.026).contains(&gap), "{gap} s between two starts");
        }
        let last = starts.last().unwrap().1;
        assert!((3.9..4.1).contains(&last), "200 at 50 per second take 4 s, not {last}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_second_is_not_saved_up_for_a_burst() {
        let pace = Pace::default();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let begin = Instant::now();
        pace.turn(Lane::Known).await;
        assert!(begin.elapsed() < Duration::from_millis(2), "the first starts at once");
        pace.turn(Lane::Known).await;
        assert!(begin.elapsed() >= Duration::from_millis(20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_target_overtakes_the_known_ones() {
        let mut lanes = vec![Lane::Known; 500];
        lanes.push(Lane::New);
        let starts = starts(lanes).await;
        let new = starts.iter().find(|s| s.0 == Lane::New).unwrap().1;
        assert!(new < 0.05, "started after {new} s behind 500 known targets");
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_of_new_targets_does_not_starve_the_known_ones() {
        let mut lanes = vec![Lane::New; 500];
        lanes.extend([Lane::Known; 10]);
        let starts = starts(lanes).await;
        let known = starts.iter().rfind(|s| s.0 == Lane::Known).unwrap().1;
        assert!(known < 2.2, "the tenth known target started after {known} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_gives_up_leaves_no_hole() {
        let pace = Pace::new(1);
        pace.turn(Lane::Known).await;
        let begin = Instant::now();
        let gone = tokio::time::timeout(Duration::from_millis(500), pace.turn(Lane::Known)).await;
        assert!(gone.is_err(), "the next turn is a second away");
        pace.turn(Lane::Known).await;
        assert!(begin.elapsed() < Duration::from_millis(1_100), "{:?}", begin.elapsed());
    }
}
