//! The licences of all that is in the programs and libraries.

use anyhow::Result;

use super::{target::TARGETS, tree};
use crate::{command, guard, output};

const CARGO_ABOUT: (&str, &str) = ("cargo-about", "0.9.3");

/// Every licence with its text, and the crates that have it, on any of the systems.
pub(super) fn text() -> Result<String> {
    let about = guard::install(CARGO_ABOUT, "cli")?;
    let arguments = ["generate", "--offline", "--fail", "--manifest-path", "runtime/Cargo.toml"];
    let mut about = command(about, &arguments);
    about.args(["--features", tree::FEATURES, "--config", "packaging/about.toml"]);
    about.args(TARGETS.iter().flat_map(|target| ["--target", target.triple]));
    output(about.arg("packaging/licenses.hbs").env("CARGO", guard::cargo_program()))
}
