//! The body of `POST /predict`.
#![no_main]

#[path = "../../runtime/src/cli/serve/body.rs"]
#[allow(dead_code, unreachable_pub, reason = "written for the server")]
mod body;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|content: &[u8]| {
    if let Ok(body) = body::parse(content) {
        let _ = body.texts(32);
    }
});
