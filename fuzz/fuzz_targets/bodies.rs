//! The bytes of a connection, as they are heard behind its requests.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::proxy::fuzzing::{chunked, ear};

fuzz_target!(|input: (u8, [u8; 4], &[u8])| {
    let (step, framings, text) = input;
    ear(text, &framings, step.into());
    chunked(text, step.into());
});
