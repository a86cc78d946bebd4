//! Consul as a source on its bad days: scenarios 1 to 21.

mod agents;
