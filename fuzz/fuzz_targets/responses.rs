//! What an instance sends: heads, lengths, chunks, trailers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::upstream::fuzzing::responses;

fuzz_target!(|input: (u8, &[u8])| responses(input.1, input.0.into()));
