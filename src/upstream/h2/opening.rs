//! A connection that comes about for everyone who waits for one at the same target.

use crate::upstream::SendError;
use std::cell::RefCell;
use tokio::sync::Notify;

/// Nobody asks twice for what is being opened already, and nobody waits longer than the first one did.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Opening {
    outcome: RefCell<Option<Result<(), SendError>>>,
    done: Notify,
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
