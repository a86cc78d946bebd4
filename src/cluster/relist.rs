//! When a doubt that traffic casts on the list becomes a question to its sources.

use super::book::Book;
use crate::discovery::Link;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The least time between two such questions.
const PAUSE: Duration = Duration::from_secs(1);

/// Passes doubts on to the sources, and no more of them than help.
#[derive(Debug, Default)]
pub(super) struct Relist {
    asked: Option<Instant>,
}

impl Relist {
    /// Waits for a doubt, which may have come during the pause after the last question. Cancel-safe.
    pub(super) async fn due(&self, doubted: &Notify) {
        if let Some(asked) = self.asked {
            tokio::time::sleep_until(asked + PAUSE).await;
        }
        doubted.notified().await;
    }

    /// Asks the sources, unless they are being asked already: one that fails is, at the pace of its back-off, and one
    /// that has yet to answer the last question must not be cut short by the next.
    pub(super) fn ask(&mut self, books: &[Book], now: Instant) {
        let since = self.asked.map(|asked| now.saturating_duration_since(asked));
        for book in books {
            let source = book.feed.status.view(now);
            let answered = since.is_none_or(|since| source.age.is_some_and(|age| age <= since));
            if source.link == Link::Live && answered {
                self.asked = Some(now);
                book.feed.nudge();
            }
        }
    }
}
