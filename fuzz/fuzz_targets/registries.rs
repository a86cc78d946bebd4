//! What Consul and etcd say, and what endpoint files hold.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::discovery::fuzzing::{consul, etcd, file};

fuzz_target!(|input: &[u8]| {
    consul(input);
    etcd(input);
    if let Ok(text) = std::str::from_utf8(input) {
        file(text);
    }
});
