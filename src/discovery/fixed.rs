//! A list that never changes.

use super::{Answer, Discover, DiscoverError};
use crate::model::EndpointSet;

/// The endpoints of `static://` and of a list in the configuration file.
#[derive(Debug)]
pub struct Fixed {
    set: Option<EndpointSet>,
}

impl Fixed {
    pub fn new(set: EndpointSet) -> Self {
        Self { set: Some(set) }
    }
}

impl Discover for Fixed {
    async fn next(&mut self) -> Result<Answer, DiscoverError> {
        match self.set.take() {
            Some(set) => Ok(Answer { set, ..Answer::default() }),
            None => std::future::pending().await,
        }
    }
}
