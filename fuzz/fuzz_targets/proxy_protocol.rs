//! Headers of the PROXY protocol, both versions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::proxy::fuzzing::proxy_protocol;

fuzz_target!(|header: &[u8]| proxy_protocol(header));
