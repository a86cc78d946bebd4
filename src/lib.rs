//! Outrigger: a sidecar that discovers the healthy instances of each service, balances, checks and retries.
//!
//! # The map
//!
//! Imports only go down; rooms on one floor do not know each other (`tests/tidy.rs` holds it so).
//!
//! | floor | rooms | what they are for |
//! |---|---|---|
//! | 7 | [`app`], [`cli`] | composition root: the only place that knows everyone |
//! | 6 | [`config`] | TOML to checked settings of everyone below |
//! | 5 | [`proxy`], [`admin`] | data plane; window on the process |
//! | 4 | [`cluster`], [`registration`] | joins floors 1 to 3 into "an upstream"; announces the local app |
//! | 3 | [`discovery`], [`health`] | find instances; judge instances |
//! | 2 | [`balance`], [`policy`], [`upstream`], [`registry`] | choose; decide; talk to a target; talk to Consul, etcd and DNS |
//! | 1 | [`model`], [`rt`], [`net`] | nouns; tasks, stop, back-off, workers, timers; TLS, header fields by name |
//! | 0 | [`telemetry`] | events, logs, metric cells, secrets |
//!
//! # The words
//!
//! | word | meaning |
//! |---|---|
//! | endpoint | one instance as discovery describes it; a value |
//! | set | all endpoints a source sees, at once |
//! | source | where sets come from: static, file, Consul, etcd, DNS |
//! | target | an endpoint together with this process's history of it |
//! | cluster | a named group of targets with its rules; what users call an upstream service |
//! | booth | a cluster as one worker sees it |
//! | snapshot, generation | the one immutable view that requests read, and its number |
//! | keeper | the single writer of something |
//! | route | which service a request on a shared port goes to |
//! | place | a service, or some of its instances, that a route leads to |
//! | picker | chooses a target from a snapshot; never waits |
//! | book | what one source says of its endpoints, and what is kept although it no longer does |
//! | roster | the targets of a cluster by address |
//! | judge | whoever may raise a health bit: checker, registry, operator |
//! | attempt, ticket | one try at one target, and its record |
//! | shed | refuse a request early |
//! | announcement, lease | what we tell the registry about the local app, and what holds it |
//! | drain, withdraw | finish what runs; leave the registry |
//!
//! # The invariants
//!
//! Each has a test named after it.
//!
//! 1. A request never waits on the control plane: one load of a pointer between routing and pick.
//! 2. Only the cluster's keeper stores a snapshot.
//! 3. An error is not an empty set: it never changes what is known.
//! 4. History outlives snapshots: a redescribed target inherits its cells; only a new instance starts clean.
//! 5. One health bit per judge; no judge clears another's bit.
//! 6. Every attempt has exactly one ticket; it ends at the last body byte; a dropped one was abandoned, which never
//!    counts against a target.
//! 7. `balance` and `policy` never await, spawn, read a clock or own a generator: `now` and `rng` are arguments.
//! 8. Nothing is retried after the first response byte went down, nor when request bytes may have reached an
//!    instance, unless the method or the service says it is safe.
//! 9. Every task has a name, a stop token and someone who reaps it; a panic is an event.
//! 10. Only `config` knows TOML (and the file source its own format), only `registry` the registries' wire, only
//!     `proxy::error` turns errors into responses.
//! 11. Stopping withdraws first, refuses new work and drains second, and has a deadline. Announcing happens only after
//!     the app answers.
//! 12. A rejected configuration changes nothing and says why.
//!
//! # Two walks
//!
//! *A request:* `proxy::listener` accepts and deals the connection to a worker, where it rests in `proxy::connection`
//! until its first byte is here, which tells the version of HTTP. `proxy::http`, or `proxy::http2` for each of its streams, checks it and writes the head that the instance gets. `proxy::forward`,
//! while deadline and budget allow: [`cluster::Booth::pick`] gives a ticket, `upstream::pool` sends on this worker's
//! connection and waits in the same task, and a failure comes back with the stage it reached; then [`policy::decide`].
//! The ticket moves into the response body (`proxy::relay`) and ends with its last byte; the response's fields go past
//! hyper, as they were spelled (`proxy::headers`).
//!
//! *An endpoint:* a source's [`discovery::Discover::next`] gives a set. [`discovery::watch`] compares it with the last
//! one, backs off on errors, keeps what was known. [`cluster::Keeper`] enters it into the source's book, where
//! what may be a registry's loss of memory is held back, joins targets to their history in the roster, builds the picker
//! and swaps the snapshot once. A health verdict of
//! [`health`] enters the same keeper through one notification.

pub mod app;
pub mod cli;

pub mod config;

pub mod admin;
pub mod proxy;

pub mod cluster;
pub mod registration;

pub mod discovery;
pub mod health;

pub mod balance;
pub mod policy;
pub mod registry;
pub mod upstream;

pub mod model;
pub mod net;
pub mod rt;

pub mod telemetry;
