//! Which way a request goes on a shared port: the first route that its host, path, method and fields match.

use crate::model::Meta;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use rand::{Rng, RngExt};

/// One route. What is empty or absent matches everything.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Route {
    /// One of them.
    pub hosts: Vec<HostPattern>,
    pub path: Option<PathPrefix>,
    /// One of them.
    pub methods: Vec<Method>,
    /// All of them; without a value the field only has to be there.
    pub fields: Vec<(HeaderName, Option<HeaderValue>)>,
    pub to: Split,
    /// What stands in the place of the path's prefix.
    pub rewrite: Option<PathPrefix>,
    pub request: Edits,
    pub response: Edits,
    pub mirror: Option<Mirror>,
}

/// Where requests go, by chance in proportion to weight: places are numbers of somebody else's list.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Split {
    places: Vec<(usize, u32)>,
    total: u64,
}

/// A host, or all hosts below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// In lower case.
    Exact(String),
    /// What they end in, the leading dot included; one label or more stands before it.
    Below(String),
}

/// A path that ends at a segment's border: `/v1` is the prefix of `/v1` and `/v1/x`, not of `/v10`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPrefix(String);

/// What becomes of the fields of a head: first some are removed, then set, then added.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Edits {
    pub remove: Vec<HeaderName>,
    /// In the place of all of that name.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Beside those of that name.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

/// A copy of some requests goes there, and its answer nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    pub place: usize,
    /// In millionths.
    pub share: u32,
}

/// Some of a service's instances: those whose metadata has all of this.
#[derive(Clone, Debug, PartialEq, Eq, Default, PartialOrd, Ord)]
pub struct Subset(pub Vec<(String, String)>);

/// What routes look at.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// As in Host (RFC 9110, section 7.2), a port included.
    pub host: &'a [u8],
    /// Without its query. Nothing is decoded.
    pub path: &'a str,
    pub method: &'a Method,
    pub fields: &'a HeaderMap,
}

/// The first route that matches, and its number.
pub fn find<'r>(routes: &'r [Route], asked: &Asked<'_>) -> Option<(usize, &'r Route)> {
    let host = bare(asked.host);
    routes.iter().enumerate().find(|(_, route)| route.matches(host, asked))
}

impl Route {
    /// `host` is without its port.
    fn matches(&self, host: &[u8], asked: &Asked<'_>) -> bool {
        (self.hosts.is_empty() || self.hosts.iter().any(|pattern| pattern.matches(host)))
            && self.path.as_ref().is_none_or(|prefix| prefix.rest(asked.path).is_some())
            && (self.methods.is_empty() || self.methods.contains(asked.method))
            && self.fields.iter().all(|(name, value)| match value {
                None => asked.fields.contains_key(name),
                Some(value) => asked.fields.get_all(name).iter().any(|one| one == value),
            })
    }

    /// The path that the instance gets, if it is another one.
    pub fn rewritten(&self, path: &str) -> Option<String> {
        let prefix = self.rewrite.as_ref()?;
        let rest = match &self.path {
            Some(matched) => matched.rest(path)?,
            None => path,
        };
        let new = format!("{}{rest}", prefix.0);
        Some(if new.is_empty() { "/".to_owned() } else { new })
    }
}

impl Split {
    /// Places and their weights; `None` if all of these are 0.
    pub fn new(places: Vec<(usize, u32)>) -> Option<Self> {
        let total = places.iter().map(|(_, weight)| u64::from(*weight)).sum();
        (total > 0).then_some(Self { places, total })
    }

    /// One of the places.
    pub fn draw(&self, rng: &mut impl Rng) -> usize {
        let mut left = if self.places.len() > 1 { rng.random_range(0..self.total) } else { 0 };
        for (place, weight) in &self.places {
            match left.checked_sub(u64::from(*weight)) {
                Some(rest) => left = rest,
                None => return *place,
            }
        }
        0
    }

    /// Places and their weights.
    pub fn places(&self) -> impl Iterator<Item = (usize, u32)> {
        self.places.iter().copied()
    }
}

impl Mirror {
    pub fn draws(&self, rng: &mut impl Rng) -> bool {
        rng.random_range(0..1_000_000) < self.share
    }
}

impl HostPattern {
    /// `api.example.com`, or `*.example.com` for all below it; in any case.
    ///
    /// # Errors
    /// What would be accepted.
    pub fn new(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix("*.").unwrap_or(text).to_ascii_lowercase();
        let is_v6 = text.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
        let is_v6 = is_v6.is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok());
        let label = |label: &str| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if !is_v6 && !bare.split('.').all(label) {
            return Err(format!(
                "{text:?} is no host: a name such as \"api.example.com\" or \"*.example.com\" is accepted, without a port"
            ));
        }
        Ok(if text.starts_with("*.") { Self::Below(format!(".{bare}")) } else { Self::Exact(bare) })
    }

    fn matches(&self, host: &[u8]) -> bool {
        match self {
            Self::Exact(name) => host.eq_ignore_ascii_case(name.as_bytes()),
            Self::Below(end) => host
                .len()
                .checked_sub(end.len())
                .filter(|before| *before > 0)
                .and_then(|before| host.get(before..))
                .is_some_and(|tail| tail.eq_ignore_ascii_case(end.as_bytes())),
        }
    }
}

/// As it was written, in lower case.
impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Below(end) => write!(f, "*{end}"),
        }
    }
}

impl PathPrefix {
    /// A slash at its end means nothing.
    ///
    /// # Errors
    /// What would be accepted.
    pub fn new(text: &str) -> Result<Self, String> {
        let fits = text.starts_with('/') && !text.contains(['?', '#']);
        if !fits || text.parse::<http::uri::PathAndQuery>().is_err() {
            return Err(format!(
                "{text:?} is no path: \"/\" and what follows it is accepted, such as \"/v1\""
            ));
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }

    /// What follows it in a path that begins with it.
    fn rest<'p>(&self, path: &'p str) -> Option<&'p str> {
        path.strip_prefix(&self.0).filter(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl std::fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "/" } else { &self.0 })
    }
}

impl Edits {
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    pub fn apply(&self, fields: &mut HeaderMap) {
        for name in &self.remove {
            fields.remove(name);
        }
        for (name, value) in &self.set {
            fields.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            fields.append(name, value.clone());
        }
    }

    /// Whether fields of this name do not stay as they are.
    pub fn replaces(&self, name: &[u8]) -> bool {
        let is = |known: &HeaderName| name.eq_ignore_ascii_case(known.as_str().as_bytes());
        self.remove.iter().any(is) || self.set.iter().any(|(known, _)| is(known))
    }
}

impl Subset {
    /// `tag` is one of the comma-separated `tags`; everything else is a key of its own.
    pub fn has(&self, meta: &Meta) -> bool {
        self.0.iter().all(|(key, value)| {
            let tags = (key == "tag").then(|| meta.get("tags")).flatten();
            meta.get(key) == Some(value)
                || tags.is_some_and(|tags| tags.split(',').any(|tag| tag.trim() == value))
        })
    }
}

/// A host without its port and without the dot of a fully qualified name.
fn bare(host: &[u8]) -> &[u8] {
    let host = match host.iter().rposition(|byte| matches!(byte, b':' | b']')) {
        Some(at) if host.get(at) == Some(&b':') => host.get(..at).unwrap_or(host),
        _ => host,
    };
    host.strip_suffix(b".").unwrap_or(host)
}

#[cfg(test)]
mod tests;
