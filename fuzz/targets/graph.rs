//! The reader of graphs, with large tensors beside them.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use nimbert::{Operators, graph};

fuzz_target!(|content: &[u8]| {
    for operators in [Operators::Known, Operators::Any] {
        let path = Path::new("model.onnx");
        if graph::check(path, content, Some(("model.onnx_data", 1 << 20)), operators).is_ok() {
            // What is made of a graph is a graph.
            let fused = graph::fuse(path, content).expect("a graph");
            fused.into_iter().for_each(|fused| drop(graph::fuse(path, &fused).expect("a graph")));
        }
    }
});
