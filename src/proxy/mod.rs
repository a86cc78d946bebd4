//! The data plane: what happens to a request between the application and an instance.

mod awake;
mod client;
mod connection;
mod error;
mod failed;
mod forward;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod grpc;
mod headers;
mod http;
mod listener;
mod place;
mod reflect;
mod relay;
mod socket;
mod upgrade;
mod upload;
mod worker;

pub use listener::{Bound, Crew, bind};
pub use worker::{Shared, Worker};
