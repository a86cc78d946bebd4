//! Behaviour tests: real registries, real sockets, real processes. One module per behaviour.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "these are tests"
)]

mod admin;
mod balancing;
mod commands;
mod config;
mod consul_faults;
mod consul_outages;
mod consul_source;
mod descriptors;
mod dns_source;
mod etcd_faults;
mod etcd_source;
mod failing_instances;
mod feedback;
mod file_source;
mod grpc;
mod harness;
mod health;
mod health_grpc;
mod health_tls;
mod http2;
mod http_bodies;
mod http_limits;
mod http_messages;
mod idle_connections;
mod life_cycle;
mod listener_tls;
mod mass_loss;
mod names;
mod operator;
mod outlier;
mod overload;
mod proxy_protocol;
mod readme;
mod real_clients;
mod registration;
mod registration_consul;
mod registration_etcd;
mod registration_mended;
mod retries;
mod rolling;
mod routes;
mod scale;
mod scenarios;
mod several_sources;
mod snapshot_on_disk;
mod stopping;
mod strictness;
mod support;
mod tcp;
mod upgrades;
mod uploads;
mod upstream_http2;
mod upstream_tls;
mod with_consul;
mod with_dns;
mod with_etcd;
mod with_registry;
