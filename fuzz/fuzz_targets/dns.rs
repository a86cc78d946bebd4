//! What a DNS server sends, and names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::registry::dns::fuzzing::{message, name};

fuzz_target!(|input: &[u8]| {
    message(input);
    if let Ok(text) = std::str::from_utf8(input) {
        name(text);
    }
});
