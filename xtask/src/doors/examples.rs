//! The examples in five languages: they do the same, and print the same.

use std::process::Command;

use anyhow::{Result, bail};

use super::{FOLDER, c, packed, python};
use crate::{cargo, command, output, workspace};

pub(super) fn test() -> Result<()> {
    let file = workspace(&packed()?);
    // Each where its user would have it: the packages that the tests before have installed.
    let module = workspace("target/npm/user/classify.mjs");
    std::fs::copy(workspace("runtime/examples/classify.mjs"), &module)?;
    let mut in_rust = cargo(&["run", "--release", "--quiet", "--package", "nimbert", "--example", "classify", "--"]);
    in_rust.env("ORT_DYLIB_PATH", workspace(&crate::setup::onnx_runtime_library()));
    let examples: [(&str, Command); 5] = [
        ("Rust", in_rust),
        ("C", c::example("classify.c")?),
        ("C++", c::example("classify.cpp")?),
        ("Python", {
            let mut python = python::user("python");
            python.arg(workspace("runtime/examples/classify.py"));
            python
        }),
        ("Node", command("node", &[&module.to_string_lossy()])),
    ];
    let mut first: Option<(&str, String)> = None;
    for (language, mut example) in examples {
        let printed = output(example.arg(&file).current_dir(workspace(FOLDER)))?;
        match &first {
            None => first = Some((language, printed)),
            Some((_, expected)) if *expected == printed => {}
            Some((other, expected)) => {
                bail!("the examples differ:\n{other}:\n{expected}\n{language}:\n{printed}");
            }
        }
    }
    println!("examples: Rust, C, C++, Python and Node print the same:\n{}", first.unwrap_or_default().1);
    Ok(())
}
