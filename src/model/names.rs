//! Names with one checked constructor each.

use std::fmt;
use std::sync::Arc;

/// What the application calls an upstream service: 1 to 128 of `A-Z a-z 0-9 . _ -`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Arc<str>);

/// Identity of one instance within its registry: a Consul service ID, an etcd key, or the address itself.
///
/// The same address under another identity is another instance, which starts with a clean history.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(Arc<str>);

/// Where an instance runs, as its registry calls it: an availability zone, a rack, a datacenter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zone(Arc<str>);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no service name: 1 to 128 of A-Z a-z 0-9 . _ - are accepted")]
pub struct NameError(String);

impl ServiceName {
    pub fn new(name: &str) -> Result<Self, NameError> {
        let fits = (1..=128).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if fits { Ok(Self(name.into())) } else { Err(NameError(name.to_owned())) }
    }
}

impl InstanceId {
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }
}

impl Zone {
    /// `None` for an empty name: registries write `""` where they mean "not known".
    pub fn new(name: &str) -> Option<Self> {
        (!name.is_empty()).then(|| Self(name.into()))
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

as_text!(ServiceName, InstanceId, Zone);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_name_is_short_and_plain() {
        for good in ["orders", "a", "Web-2.eu_west"] {
            assert_eq!(ServiceName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a/b", "ü", &"x".repeat(129)] {
            assert!(ServiceName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_empty_zone_is_no_zone() {
        assert_eq!(Zone::new(""), None);
        assert_eq!(Zone::new("eu-1").unwrap().as_str(), "eu-1");
    }
}
