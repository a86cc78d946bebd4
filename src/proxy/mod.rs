//! The data plane: what happens to a request between the application and an instance.

mod awake;
mod client;
mod connection;
mod entry;
mod error;
mod failed;
mod forward;
mod headers;
mod http;
mod listener;
mod mirror;
mod place;
mod proxy_protocol;
mod relay;
mod route;
mod socket;
mod tcp;
mod upgrade;
mod upload;
mod worker;

pub use listener::{Bound, Crew, bind};
pub use route::Table;
pub use worker::{Shared, Worker};
