//! Behaviour tests: real registries, real sockets, real processes. One module per behaviour.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "these are tests"
)]

mod admin;
mod config;
mod consul_faults;
mod consul_outages;
mod consul_source;
mod etcd_faults;
mod etcd_source;
mod file_source;
mod harness;
mod health;
mod health_tls;
mod support;
