//! One entry of the health API, read so that a bad one never costs the list.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// An instance, the node it runs on, and its checks. Consul validates neither ports nor addresses, so neither does
/// this.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Entry {
    pub node: Node,
    pub service: Service,
    #[serde(default, deserialize_with = "null_as_default")]
    pub checks: Vec<Check>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Node {
    pub node: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub address: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub meta: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Service {
    /// Unique on its node only.
    #[serde(rename = "ID")]
    pub id: String,
    /// The service's name.
    #[serde(rename = "Service")]
    pub name: String,
    /// Empty: the node's address.
    #[serde(default, deserialize_with = "null_as_default")]
    pub address: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub port: i64,
    #[serde(default, deserialize_with = "null_as_default")]
    pub weights: Weights,
    #[serde(default, deserialize_with = "null_as_default")]
    pub meta: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub tags: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Weights {
    pub passing: i64,
    pub warning: i64,
}

/// Consul's own default.
impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Check {
    #[serde(rename = "CheckID", default, deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub status: String,
}

/// An entry of another shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The service ID, or the place in the list.
    pub entry: String,
    pub reason: String,
}

/// Reads a list entry by entry; only a list that is none fails as a whole.
pub(super) fn list(body: &[u8]) -> Result<Vec<Result<Entry, Unreadable>>, serde_json::Error> {
    let raw: Option<Vec<&RawValue>> = serde_json::from_slice(body)?;
    let entries = raw.unwrap_or_default().into_iter().enumerate();
    Ok(entries.map(|(place, raw)| one(raw).map_err(|e| unreadable(place, raw, &e))).collect())
}

fn one(raw: &RawValue) -> Result<Entry, serde_json::Error> {
    serde_json::from_str(raw.get())
}

fn unreadable(place: usize, raw: &RawValue, error: &serde_json::Error) -> Unreadable {
    let value: serde_json::Value = serde_json::from_str(raw.get()).unwrap_or_default();
    let id = value.pointer("/Service/ID").and_then(|id| id.as_str());
    let entry = id.map_or_else(|| format!("entry {}", place + 1), ToOwned::to_owned);
    Unreadable { entry, reason: error.to_string() }
}

/// Consul writes `null` for an empty list or map.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_entry_never_loses_the_list() {
        let body = br#"[
            {"Node": {"Node": "n", "Address": "10.0.0.1", "Meta": null, "Surprise": 1},
             "Service": {"ID": "a", "Service": "web", "Port": -1, "Weights": null, "Meta": null, "Tags": null},
             "Checks": null},
            {"Node": {"Node": "n"}, "Service": {"ID": "b", "Service": "web", "Port": "http"}},
            17,
            {"Node": {"Node": "n"}, "Service": {"ID": "c", "Service": "web", "Weights": {"Passing": 3}},
             "Checks": [{"CheckID": "x", "Status": "passing"}]}
        ]"#;
        let list = list(body).unwrap();
        let good: Vec<_> = list.iter().flatten().collect();
        assert_eq!(good.len(), 2);
        assert_eq!((good[0].service.port, good[0].service.weights), (-1, Weights::default()));
        assert_eq!((good[1].service.weights.passing, good[1].checks.len()), (3, 1));
        let bad: Vec<_> = list.iter().filter_map(|entry| entry.as_ref().err()).collect();
        assert_eq!((bad[0].entry.as_str(), bad[1].entry.as_str()), ("b", "entry 3"));
        assert!(bad[0].reason.contains("invalid type: string"), "{}", bad[0].reason);
    }

    #[test]
    fn what_is_no_list_is_an_error() {
        for body in ["", "<html>", "{}", "[{]", "[1"] {
            assert!(list(body.as_bytes()).is_err(), "{body}");
        }
        assert!(list(b"null").unwrap().is_empty());
    }
}
