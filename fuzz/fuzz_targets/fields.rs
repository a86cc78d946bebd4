//! Values of fields: lists, what Connection names, gRPC's deadlines.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::net::field::{Field, Named, lists, may_trail, tokens};
use outrigger::proxy::fuzzing::grpc_timeout;

fuzz_target!(|value: &[u8]| {
    grpc_timeout(value);
    let _ = (lists(value, "trailers"), may_trail(value), Field::of(value));
    let mut named = Named::default();
    named.add(value);
    for name in tokens(value) {
        // Whatever is named stays here, but for what is not the client's to strip.
        let kept = matches!(Field::of(name), Field::ContentLength | Field::Host);
        let gone = named.has(name) || Field::of(name).is_hop_by_hop();
        assert!(gone || kept || name.is_empty() || name.eq_ignore_ascii_case(b"close"), "{name:?}");
    }
});
