//! One timer for the waits of all requests of a worker: nearly all of them end long before their limit.

use super::LocalTasks;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::time::Instant;

/// Who has waited for one to two of these gets a timer of its own; nobody pays for one before.
const TICK: Duration = Duration::from_millis(20);

/// The waits that have no timer of their own yet.
#[derive(Debug)]
pub struct Alarm {
    waits: RefCell<Waits>,
    /// Counts the ticks while anybody waits.
    tick: Cell<u64>,
    ticking: Cell<bool>,
    tasks: LocalTasks,
}

#[derive(Debug, Default)]
struct Waits {
    slots: Vec<Option<Wait>>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Wait {
    waker: Waker,
    since: u64,
}

/// A place among the waits; free again on drop.
struct Place<'a> {
    alarm: &'a Alarm,
    slot: usize,
}

impl Alarm {
    pub fn new(tasks: LocalTasks) -> Rc<Self> {
        Rc::new(Self { waits: RefCell::default(), tick: Cell::new(0), ticking: Cell::new(false), tasks })
    }

    /// Waits for `future`, as exactly as a timer of its own would, but until `deadline` at most: `None` then.
    pub async fn timeout_at<F: Future>(
        self: &Rc<Self>,
        now: Instant,
        deadline: Instant,
        mut future: Pin<&mut F>,
    ) -> Option<F::Output> {
        if deadline.saturating_duration_since(now) > TICK * 3 {
            let mut place: Option<Place<'_>> = None;
            let early = poll_fn(|cx| {
                if let Poll::Ready(output) = future.as_mut().poll(cx) {
                    return Poll::Ready(Some(output));
                }
                match &place {
                    Some(place) if place.rang(cx.waker()) => Poll::Ready(None),
                    Some(_) => Poll::Pending,
                    None => {
                        place = Some(self.enter(cx.waker()));
                        Poll::Pending
                    }
                }
            });
            if let Some(output) = early.await {
                return Some(output);
            }
        }
        // In a box: hardly anybody comes this far, and all would carry it with them.
        Box::pin(tokio::time::timeout_at(deadline, future)).await.ok()
    }

    fn enter(self: &Rc<Self>, waker: &Waker) -> Place<'_> {
        let wait = Some(Wait { waker: waker.clone(), since: self.tick.get() });
        let mut waits = self.waits.borrow_mut();
        let slot = waits.free.pop().unwrap_or(waits.slots.len());
        match waits.slots.get_mut(slot) {
            Some(free) => *free = wait,
            None => waits.slots.push(wait),
        }
        if !self.ticking.replace(true) {
            let alarm = Rc::clone(self);
            self.tasks.spawn("alarm", async move {
                while alarm.ring() {
                    tokio::time::sleep(TICK).await;
                }
                alarm.ticking.set(false);
            });
        }
        Place { alarm: self, slot }
    }

    /// Wakes who has waited for more than a tick; `false` if nobody waits any more.
    fn ring(&self) -> bool {
        let now = self.tick.get() + 1;
        self.tick.set(now);
        let mut waits = self.waits.borrow_mut();
        let mut waiting = false;
        for slot in &mut waits.slots {
            if let Some(wait) = slot.take_if(|wait| wait.since + 1 < now) {
                wait.waker.wake();
            }
            waiting |= slot.is_some();
        }
        waiting
    }
}

impl Place<'_> {
    /// Whether it is time for a timer of its own; remembers who waits.
    fn rang(&self, waker: &Waker) -> bool {
        match self.alarm.waits.borrow_mut().slots.get_mut(self.slot) {
            Some(Some(wait)) => {
                wait.waker.clone_from(waker);
                false
            }
            _ => true,
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waits = self.alarm.waits.borrow_mut();
        if let Some(slot) = waits.slots.get_mut(self.slot) {
            *slot = None;
        }
        waits.free.push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Events;
    use std::future::{pending, ready};
    use std::pin::pin;

    async fn timed<F: Future>(
        alarm: &Rc<Alarm>,
        limit: Duration,
        future: F,
    ) -> (Option<F::Output>, Duration) {
        let begun = Instant::now();
        let output = alarm.timeout_at(begun, begun + limit, pin!(future)).await;
        (output, begun.elapsed())
    }

    /// Runs on a clock that jumps to whatever is waited for.
    fn on_a_worker<F: Future>(test: impl FnOnce(Rc<Alarm>) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build_local(Default::default())
            .unwrap();
        runtime.block_on(async {
            let tasks = LocalTasks::new(Events::default());
            let alarm = Alarm::new(tasks.clone());
            test(Rc::clone(&alarm)).await;
            // Nobody waits: the timer stops, and no place is lost.
            tasks.join().await;
            let waits = alarm.waits.borrow();
            assert_eq!(waits.free.len(), waits.slots.len());
        });
    }

    #[test]
    fn a_wait_ends_with_its_future_or_at_its_deadline() {
        on_a_worker(|alarm| async move {
            for limit in [0, 1, 19, 60, 61, 100, 15_000].map(Duration::from_millis) {
                let (output, took) = timed(&alarm, limit, pending::<()>()).await;
                assert!(output.is_none());
                // Timers are exact to a millisecond.
                assert!(took >= limit && took <= limit + Duration::from_millis(2), "{limit:?}: {took:?}");
                assert_eq!(timed(&alarm, limit, ready(7)).await, (Some(7), Duration::ZERO));
                let half = limit / 2;
                let (output, took) = timed(&alarm, limit, tokio::time::sleep(half)).await;
                assert!(output.is_some() && took >= half && took <= half + Duration::from_millis(2));
            }
        });
    }

    #[test]
    fn many_wait_at_once_and_each_has_its_own_deadline() {
        on_a_worker(|alarm| async move {
            let waits = (1..200).map(|n| {
                let limit = Duration::from_millis(n * 7);
                let alarm = Rc::clone(&alarm);
                async move { (limit, timed(&alarm, limit, pending::<()>()).await) }
            });
            for (limit, (output, took)) in futures_util::future::join_all(waits).await {
                assert!(output.is_none() && took >= limit && took <= limit + Duration::from_millis(2));
            }
        });
    }
}
