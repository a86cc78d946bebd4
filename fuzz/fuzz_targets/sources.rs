//! Source URLs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::config::{Environment, source};

fuzz_target!(|url: &str| {
    let env = Environment::Fixed(Default::default());
    for scheme in ["", "static://", "file:", "dns://", "srv://", "consul://", "etcd://"] {
        let _ = source(&format!("{scheme}{url}"), &env);
    }
});
