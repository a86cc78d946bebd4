//! A request's head: what is read of it and what its bytes say must be one thing, and go on in one form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::proxy::fuzzing::request;

fuzz_target!(|input: &[u8]| {
    request(input);
    // Most inputs are no request; as fields of one, they are.
    request(&[b"GET / HTTP/1.1\r\nHost: a\r\n", input, b"\r\n\r\n"].concat());
});
