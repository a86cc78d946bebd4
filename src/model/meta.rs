//! What a registry says of an instance beyond what balances it.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

/// Text by key. Clones share it, and most instances have none: that takes no memory of its own.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Meta(Option<Arc<BTreeMap<String, String>>>);

impl From<BTreeMap<String, String>> for Meta {
    fn from(meta: BTreeMap<String, String>) -> Self {
        Self((!meta.is_empty()).then(|| Arc::new(meta)))
    }
}

impl Deref for Meta {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.0.as_deref().unwrap_or(&NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_nothing_however_it_was_written() {
        assert_eq!(Meta::from(BTreeMap::new()), Meta::default());
        assert!(Meta::default().is_empty());
        let some = BTreeMap::from([("version".to_owned(), "2".to_owned())]);
        assert_eq!(*Meta::from(some.clone()), some);
        assert_ne!(Meta::from(some), Meta::default());
    }
}
