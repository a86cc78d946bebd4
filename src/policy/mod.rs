//! Deciding what should happen: pure functions over what is known.

mod budget;
mod limits;
mod outlier;
mod protocol;
mod retry;
mod route;

pub use budget::{Budget, BudgetSettings};
pub use limits::{ClientLimits, Limits, Timeouts};
pub use outlier::{Evidence, OutlierSettings, Window};
pub use protocol::{Protocol, ProxyProtocol, ProxyVersion};
pub use retry::{Ask, Denied, Failure, Next, RetryReason, RetrySettings, decide};
pub use route::{Asked, Edits, HostPattern, Mirror, PathPrefix, Route, Split, Subset, find as find_route};
