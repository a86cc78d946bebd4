//! How the attempts at one instance ended, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// How one attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A complete answer that is no 5xx.
    Success,
    /// A complete 5xx answer other than the next.
    ServerError,
    /// A complete answer that says "not me, not now": 502, 503, 504 or gRPC's UNAVAILABLE.
    Unavailable,
    /// No connection.
    ConnectFailed,
    /// The connection broke before the answer was complete.
    Reset,
    /// The answer was no HTTP.
    Protocol,
    /// No answer in time.
    Timeout,
    /// Nobody waited for the end: the client went away. Never counts against a target.
    Abandoned,
}

impl Outcome {
    pub const ALL: [Self; 8] = [
        Self::Success,
        Self::ServerError,
        Self::Unavailable,
        Self::ConnectFailed,
        Self::Reset,
        Self::Protocol,
        Self::Timeout,
        Self::Abandoned,
    ];

    /// The word in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::ServerError => "server_error",
            Self::Unavailable => "unavailable",
            Self::ConnectFailed => "connect_failed",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::Abandoned => "abandoned",
        }
    }

    /// Evidence against the target.
    pub fn is_failure(self) -> bool {
        !matches!(self, Self::Success | Self::Abandoned)
    }

    /// Evidence that the target is not there for anybody, whatever the request: one that answers with a 500 is.
    pub fn is_outage(self) -> bool {
        self.is_failure() && self != Self::ServerError
    }
}

/// Attempts at one instance by outcome.
#[derive(Debug, Default)]
pub struct Tally([AtomicU64; Outcome::ALL.len()]);

impl Tally {
    pub fn count(&self, outcome: Outcome) {
        if let Some(cell) = self.0.get(outcome as usize) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn get(&self, outcome: Outcome) -> u64 {
        self.0.get(outcome as usize).map_or(0, |cell| cell.load(Ordering::Relaxed))
    }

    /// All attempts that came to an end, abandoned ones included.
    pub fn attempts(&self) -> u64 {
        Outcome::ALL.into_iter().map(|o| self.get(o)).sum()
    }

    pub fn outages(&self) -> u64 {
        Outcome::ALL.into_iter().filter(|o| o.is_outage()).map(|o| self.get(o)).sum()
    }

    pub fn failures(&self) -> u64 {
        Outcome::ALL.into_iter().filter(|o| o.is_failure()).map(|o| self.get(o)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abandoned_attempt_is_an_attempt_but_no_failure() {
        let tally = Tally::default();
        for outcome in Outcome::ALL {
            tally.count(outcome);
        }
        assert_eq!((tally.attempts(), tally.failures(), tally.outages()), (8, 6, 5));
        assert_eq!(tally.get(Outcome::Abandoned), 1);
    }
}
