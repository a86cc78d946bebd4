//! All endpoints a source sees, at once.

use super::Endpoint;
use std::ops::Deref;
use std::sync::Arc;

/// All endpoints a source sees: sorted by address, one per address. Equality is the test for "nothing changed".
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct EndpointSet(Arc<[Endpoint]>);

impl EndpointSet {
    /// Sorts, and keeps one endpoint per address: a passing one before a critical one, then the lowest instance id.
    pub fn new(mut endpoints: Vec<Endpoint>) -> Self {
        endpoints.sort_by(|a, b| (a.addr, &a.standing, &a.instance).cmp(&(b.addr, &b.standing, &b.instance)));
        endpoints.dedup_by_key(|e| e.addr);
        Self(endpoints.into())
    }
}

impl Deref for EndpointSet {
    type Target = [Endpoint];

    fn deref(&self) -> &[Endpoint] {
        &self.0
    }
}

impl FromIterator<Endpoint> for EndpointSet {
    fn from_iter<I: IntoIterator<Item = Endpoint>>(endpoints: I) -> Self {
        Self::new(endpoints.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{InstanceId, Standing};

    fn endpoint(addr: &str, instance: &str, standing: Standing) -> Endpoint {
        Endpoint { instance: InstanceId::new(instance), standing, ..Endpoint::at(addr.parse().unwrap()) }
    }

    #[test]
    fn order_of_arrival_does_not_matter() {
        let (a, b) =
            (endpoint("127.0.0.1:1", "a", Standing::Passing), endpoint("[::1]:1", "b", Standing::Passing));
        assert_eq!(EndpointSet::new(vec![a.clone(), b.clone()]), EndpointSet::new(vec![b, a]));
    }

    #[test]
    fn one_address_is_one_endpoint_and_passing_wins() {
        let set = EndpointSet::new(vec![
            endpoint("127.0.0.1:1", "a", Standing::Critical("check".into())),
            endpoint("127.0.0.1:1", "z", Standing::Passing),
            endpoint("127.0.0.1:1", "y", Standing::Passing),
        ]);
        assert_eq!(set.len(), 1);
        assert_eq!(set[0].instance.as_str(), "y");
    }
}
