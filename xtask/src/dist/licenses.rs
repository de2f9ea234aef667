//! The licences of all that is in the programs and libraries.

use std::fs;

use anyhow::{Context, Result};

use super::{target::TARGETS, tree};
use crate::{command, guard, output, run, workspace};

const CARGO_ABOUT: (&str, &str) = ("cargo-about", "0.9.3");
/// The file's name in wheels and npm packages: beside ours, which begin so.
pub(crate) const THIRD_PARTY: &str = "LICENSE-THIRD-PARTY";
/// What is packed for languages: whose dependencies it has, and the folder of its package.
const MODULES: [(&str, &str); 2] =
    [("bindings/python/Cargo.toml", "bindings/python"), ("bindings/node/Cargo.toml", "bindings/node/npm/platform")];

/// Writes the texts for wheels and npm packages, and gives that of the program.
pub(super) fn write() -> Result<String> {
    // Crates of other systems too, which a build for this one has not brought.
    run(&mut command(guard::cargo_program(), &["fetch", "--locked"]))?;
    let program = text("runtime/Cargo.toml", &["--features", tree::FEATURES])?;
    let put = |folder: &str, text: &str| {
        let path = workspace(folder).join(THIRD_PARTY);
        fs::write(&path, text).with_context(|| path.display().to_string())
    };
    put("bindings/python-cli", &program)?;
    for (manifest, folder) in MODULES {
        put(folder, &text(manifest, &[])?)?;
    }
    Ok(program)
}

/// Every licence with its text, and the crates that have it, on any of the systems.
fn text(manifest: &str, features: &[&str]) -> Result<String> {
    let about = guard::install(CARGO_ABOUT, "cli")?;
    let mut about = command(about, &["generate", "--offline", "--fail", "--manifest-path", manifest]);
    about.args(features).args(["--config", "packaging/about.toml"]);
    about.args(TARGETS.iter().flat_map(|target| ["--target", target.triple]));
    output(about.arg("packaging/licenses.hbs").env("CARGO", guard::cargo_program()))
}
