//! An entrance for fuzz targets: what an agent may say about the health of a service.

use super::instance::read;
use crate::registry::consul::fuzzing::entries;

/// Reads an answer as both kinds of service do.
pub fn instances(body: &[u8]) {
    for entry in entries(body) {
        let _ = (read(entry.clone(), false), read(entry, true));
    }
}
