//! Entrances for fuzz targets: what an endpoint file may hold.

pub use super::format::{from_json as json, from_toml as toml};
