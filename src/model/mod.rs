//! The nouns: what a registry says about an instance, and what this process has lived through with it.

mod endpoint;
mod health;
mod load;
mod meta;
mod names;
mod set;
mod tally;
mod target;
mod trial;

pub use endpoint::{Endpoint, Standing, Weight};
pub use health::{Flag, Health};
pub use load::Load;
pub use meta::Meta;
pub use names::{InstanceId, NameError, ServiceName, Zone};
pub use set::EndpointSet;
pub use tally::{Outcome, Tally};
pub use target::{History, Signs, Target, TargetId};
pub use trial::{Entry, Trial};
