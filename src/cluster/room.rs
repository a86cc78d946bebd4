//! The queue of requests that found every target at its limit.

use super::{PickError, Ticket};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Wakes those who wait when a ticket ends. Shared by all workers.
#[derive(Debug, Default)]
pub(super) struct Room {
    waiting: AtomicU32,
    /// Requests that any target would serve: one is woken for each place, the oldest first.
    first: Notify,
    /// Requests that some targets have failed already. The free place may be at one of these, so that such a request
    /// must not take another one's call: all of them look.
    again: Notify,
}

impl Room {
    /// Picks until it succeeds, for at most `limit`, unless `most` requests wait already.
    pub(super) async fn wait(
        &self,
        most: u32,
        limit: Duration,
        is_retry: bool,
        mut pick: impl FnMut() -> Result<Ticket, PickError>,
    ) -> Result<Ticket, PickError> {
        let Some(_place) = Place::take(&self.waiting, most) else { return Err(PickError::Saturated) };
        let deadline = Instant::now() + limit;
        let calls = if is_retry { &self.again } else { &self.first };
        loop {
            // Listens first and looks then: a place that gets free in between is not missed.
            let mut call = pin!(calls.notified());
            call.as_mut().enable();
            match pick() {
                Err(PickError::Saturated) => {}
                picked => return picked,
            }
            if timeout_at(deadline, call).await.is_err() {
                return Err(PickError::Saturated);
            }
        }
    }

    /// A ticket has ended.
    pub(super) fn freed(&self) {
        if self.waiting() > 0 {
            self.first.notify_one();
            self.again.notify_waiters();
        }
    }

    /// There are other targets now.
    pub(super) fn anew(&self) {
        self.first.notify_waiters();
        self.again.notify_waiters();
    }

    pub(super) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Acquire)
    }
}

/// A place in the queue, given back on drop.
struct Place<'a>(&'a AtomicU32);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicU32, most: u32) -> Option<Self> {
        let place = Self(waiting);
        // On refusal the drop takes this one back.
        (waiting.fetch_add(1, Ordering::AcqRel) < most).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
