//! The data plane: what happens to a request between the application and an instance.

mod awake;
mod client;
mod connection;
mod entry;
mod error;
mod failed;
mod forward;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod grpc;
mod headers;
mod http;
mod http2;
mod listener;
mod mirror;
mod place;
mod proxy_protocol;
mod reflect;
mod relay;
mod route;
mod sniff;
mod socket;
mod tcp;
mod transport;
mod upgrade;
mod upload;
mod welcome;
mod worker;

pub use listener::{Bound, Crew, bind};
pub use route::Table;
pub use worker::{Shared, Worker};
