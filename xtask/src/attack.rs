//! `cargo xtask attack`: what becomes of a bundle that somebody has changed.

use std::path::absolute;

use anyhow::Result;

use crate::{build, command, release_program, run, setup};

/// What is attacked if nothing is named.
const TINY: &str = ".setup/attack/bundle";

pub(crate) fn attack(bundle: Option<&str>) -> Result<()> {
    setup::setup()?;
    build()?;
    let bundle = match bundle {
        // The command runs in the workspace's root.
        Some(bundle) => absolute(bundle)?.display().to_string(),
        None => {
            let export = ["export", "tests/data/tiny-bert", "--out", TINY, "--overwrite"];
            run(&mut command(release_program("nimbert-train"), &export))?;
            TINY.to_owned()
        }
    };
    run(&mut command(release_program("attack"), &[bundle.as_str()]))
}
