//! An entrance for fuzz targets: what an agent may say about the health of a service.

use super::entry::{Entry, list};

/// The readable entries of an answer.
pub fn entries(body: &[u8]) -> Vec<Entry> {
    list(body).unwrap_or_default().into_iter().flatten().collect()
}
