//! Source URLs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::config::{Environment, source};

const BEGINNINGS: [&str; 7] = ["", "static://", "file:", "dns://", "srv://", "consul://", "etcd://"];

fuzz_target!(|input: (u8, &str)| {
    let (number, rest) = input;
    let env = Environment::Fixed(Default::default());
    let beginning = BEGINNINGS[usize::from(number) % BEGINNINGS.len()];
    let _ = source(&format!("{beginning}{rest}"), &env);
});
