//! `GET /v1/acl/token/self`: whether Consul asks who we are at all.

use super::client::Call;
use super::{ConsulClient, ConsulError};
use http::Method;
use std::time::Duration;

impl ConsulClient {
    const ACL_DEADLINE: Duration = Duration::from_secs(5);

    /// Whether this agent enforces ACLs: then an empty list may be a denial.
    ///
    /// # Errors
    /// If it does not say; an unknown token is no error, for who knows tokens enforces ACLs.
    pub async fn has_acls(&self, agent: usize) -> Result<bool, ConsulError> {
        let path = ["v1", "acl", "token", "self"];
        let call = Call {
            method: Method::GET,
            path: &path,
            query: Vec::new(),
            body: Vec::new(),
            deadline: Self::ACL_DEADLINE,
        };
        match self.call(agent, call).await {
            Ok(_) | Err(ConsulError::Status { status: 403, .. }) => Ok(true),
            // "ACL support disabled".
            Err(ConsulError::Status { status: 401, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
