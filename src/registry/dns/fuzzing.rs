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
        assert_eq!(DnsName::new(&name.to_string()).as_ref(), Ok(&name));
    }
}
