//! Names of DNS, with one checked constructor.

use hickory_resolver::proto::rr::Name;
use std::fmt;

/// A name in lower case. With a dot at its end, or out of an answer, it is whole; else search domains may follow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(Name);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is no name: parts of 1 to 63 of A-Z a-z 0-9 - _ with dots between are accepted, up to 253 in all"
)]
pub struct NameError(String);

impl DnsName {
    /// The longest name in text, without the dot at its end.
    const LONGEST: usize = 253;

    pub fn new(text: &str) -> Result<Self, NameError> {
        let refused = || NameError(text.to_owned());
        let bare = text.strip_suffix('.').unwrap_or(text);
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let part = |part: &str| (1..=63).contains(&part.len()) && part.chars().all(plain);
        if bare.len() > Self::LONGEST || !bare.split('.').all(part) {
            return Err(refused());
        }
        Name::from_ascii(text).map(|name| Self(name.to_lowercase())).map_err(|_| refused())
    }

    pub(super) fn of(name: &Name) -> Self {
        Self(name.to_lowercase())
    }

    pub(super) fn name(&self) -> &Name {
        &self.0
    }

    /// The root, `.`.
    pub fn is_root(&self) -> bool {
        self.0.is_root()
    }
}

/// Without the dot at its end.
impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_ascii();
        f.write_str(text.strip_suffix('.').filter(|bare| !bare.is_empty()).unwrap_or(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_plain_and_its_case_means_nothing() {
        for (text, shown) in [
            ("orders", "orders"),
            ("Orders.Default.svc.cluster.local.", "orders.default.svc.cluster.local"),
            ("_http._tcp.web-1", "_http._tcp.web-1"),
            (&"a".repeat(63), &"a".repeat(63)),
        ] {
            assert_eq!(DnsName::new(text).unwrap().to_string(), shown);
        }
        let long = "a23456789.".repeat(26);
        for bad in ["", ".", "a..b", ".a", "a b", "a/b", "ü", "*.a", &"a".repeat(64), &long] {
            assert!(DnsName::new(bad).is_err(), "{bad:?}");
        }
    }
}
