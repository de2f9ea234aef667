//! The examples in five languages: they do the same, and print the same.

use anyhow::{Result, bail};

use super::{FOLDER, c, has, node, packed, python};
use crate::{cargo, command, output, workspace};

pub(super) fn test() -> Result<()> {
    let file = workspace(&packed()?);
    let mut in_rust = cargo(&["run", "--release", "--quiet", "--package", "nimbert", "--example", "classify", "--"]);
    // As its user's `main` would.
    in_rust.env("ORT_DISABLE_TELEMETRY", "1");
    let mut in_python = python::user("python");
    in_python.arg(workspace("runtime/examples/classify.py"));
    let mut examples = vec![("Rust", in_rust), ("Python", in_python)];
    // Each where its user would have it: the packages that the tests before have installed.
    if has("pkg-config") {
        examples.push(("C", c::example("classify.c")?));
        if has("c++") {
            examples.push(("C++", c::example("classify.cpp")?));
        }
    }
    if node::is_here() {
        let module = workspace("target/npm/user/classify.mjs");
        std::fs::copy(workspace("runtime/examples/classify.mjs"), &module)?;
        examples.push(("Node", command("node", &[&module.to_string_lossy()])));
    }
    let languages = examples.iter().map(|(language, _)| *language).collect::<Vec<_>>().join(", ");
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
    println!("examples: {languages} print the same:\n{}", first.unwrap_or_default().1);
    Ok(())
}
