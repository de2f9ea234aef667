//! The reader of graphs, with large tensors beside them.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use nimbert::{Operators, graph};

fuzz_target!(|content: &[u8]| {
    for operators in [Operators::Known, Operators::Any] {
        let _ = graph::check(Path::new("model.onnx"), content, Some(("model.onnx_data", 1 << 20)), operators);
    }
});
