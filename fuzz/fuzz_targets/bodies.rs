//! The bytes of a connection, as they are heard behind its requests.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::proxy::fuzzing::ear;

fuzz_target!(|input: (u8, [u8; 4], &[u8])| ear(input.2, &input.1, input.0.into()));
