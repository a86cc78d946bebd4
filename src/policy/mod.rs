//! Deciding what should happen: pure functions over what is known.

mod budget;
mod limits;
mod protocol;
mod retry;

pub use budget::{Budget, BudgetSettings};
pub use limits::{ClientLimits, Limits, Timeouts};
pub use protocol::{Protocol, ProxyProtocol, ProxyVersion};
pub use retry::{Ask, Denied, Failure, Next, RetryReason, RetrySettings, decide};
