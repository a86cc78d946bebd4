//! An entrance for fuzz targets: what a DNS server may send.

use super::reading::{V4, V6, read};
use super::{DnsName, Srv};
use hickory_resolver::proto::op::Message;

/// Reads a message as an answer about a name.
pub fn message(bytes: &[u8]) {
    let (Ok(message), Ok(asked)) = (Message::from_vec(bytes), DnsName::new("a.example.")) else { return };
    let first = message.answers.first().map(|record| DnsName::of(&record.name));
    for name in first.iter().chain([&asked]) {
        let _ = (read::<V4>(&message, name), read::<V6>(&message, name), read::<Srv>(&message, name));
    }
}

/// Reads a name.
pub fn name(text: &str) {
    if let Ok(name) = DnsName::new(text) {
        // As people are shown it, without the dot at its end, it is a name too.
        assert!(DnsName::new(&name.to_string()).is_ok(), "{name}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn entrances_take_anything(noise in prop::collection::vec(any::<u8>(), 0..200), text in "[a-zA-Z0-9._-]{0,40}") {
            // A header of an answer with two records, and names that point back.
            message(&[&[0, 1, 0x84, 0, 0, 1, 0, 2, 0, 0, 0, 0][..], &noise].concat());
            message(&noise);
            name(&text);
        }
    }
}
