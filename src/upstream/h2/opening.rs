//! A connection that comes about for everyone who waits for one at the same target, and what calls who waits.

use crate::upstream::SendError;
use std::cell::RefCell;
use tokio::sync::Notify;

/// Nobody asks twice for what is being opened already, and nobody waits longer than the first one did.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Opening {
    outcome: RefCell<Option<Result<(), SendError>>>,
    done: Notify,
}

/// Calls those who wait for a place at one target. A place that is given back is one for a single caller; but those who
/// may only use newer connections could be called for one that they cannot use, and nobody else would hear of it: they
/// listen on their own.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Room {
    any: Notify,
    newer: Notify,
}

impl Room {
    /// One place is free.
    pub fn is_freed(&self) {
        self.any.notify_one();
        self.newer.notify_waiters();
    }

    /// There are other connections than before.
    pub fn changes(&self) {
        self.any.notify_waiters();
        self.newer.notify_waiters();
    }

    /// Waits for a place that may be free; `newer`: one on any connection will not do.
    pub async fn wait(&self, newer: bool) {
        if newer { self.newer.notified().await } else { self.any.notified().await }
    }
}

impl Opening {
    pub fn finish(&self, outcome: Result<(), SendError>) {
        self.outcome.borrow_mut().get_or_insert(outcome);
        self.done.notify_waiters();
    }

    /// How it ended.
    pub async fn wait(&self) -> Result<(), SendError> {
        loop {
            if let Some(outcome) = &*self.outcome.borrow() {
                return outcome.as_ref().copied().map_err(SendError::again);
            }
            self.done.notified().await;
        }
    }
}
