//! Outrigger: a sidecar that discovers, checks, balances and retries.

pub mod admin;
pub mod balance;
pub mod cluster;
pub mod discovery;
pub mod health;
pub mod model;
pub mod policy;
pub mod proxy;
pub mod registry;
pub mod rt;
pub mod telemetry;
pub mod upstream;
