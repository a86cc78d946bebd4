//! Entrances for fuzz targets: what registries and files may say.

use super::consul::fuzzing::instances;
use super::etcd_value;
use super::file::fuzzing::{json, toml};

/// Consul's answer about the health of a service.
pub fn consul(body: &[u8]) {
    instances(body);
}

/// A key and its value in etcd; the first byte says how long the key is.
pub fn etcd(input: &[u8]) {
    let Some((length, rest)) = input.split_first() else { return };
    let (key, value) = rest.split_at(rest.len().min((*length).into()));
    let parsed = etcd_value::parse(key, value);
    assert!(
        !parsed.endpoints.is_empty() || !parsed.skipped.is_empty(),
        "a value that is silently passed over"
    );
}

/// An endpoint file in either format.
pub fn file(text: &str) {
    let _ = (toml(text, "web"), json(text, "web"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn entrances_take_anything(noise in prop::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,60}", number: i64) {
            consul(&noise);
            etcd(&noise);
            file(&text);
            let entry = format!(
                r#"[{{"Node":{{"Node":"n","Address":{text:?}}},"Service":{{"ID":"i","Service":"s","Port":{number}}},"Checks":null}}]"#
            );
            consul(entry.as_bytes());
            for value in [format!(r#"{{"Op":0,"Addr":{text:?}}}"#), format!(r#"{{"host":{text:?},"port":{number}}}"#), text] {
                etcd(&[b"\x01k", value.as_bytes()].concat());
            }
        }
    }
}
