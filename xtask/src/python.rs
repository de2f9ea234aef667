//! Environments of Python's, in which tools of other people's lie.

use std::{env::consts::EXE_SUFFIX, fs, path::PathBuf};

use anyhow::Result;

use crate::{command, run, setup, workspace};

/// A program of the environment in `folder`.
pub(crate) fn program(folder: &str, name: &str) -> PathBuf {
    let programs = if cfg!(windows) { "Scripts" } else { "bin" };
    workspace(folder).join(programs).join(format!("{name}{EXE_SUFFIX}"))
}

/// An environment in `folder` that has `packages`, each with its version: made anew unless it has just these.
pub(crate) fn environment(folder: &str, packages: &[&str]) -> Result<()> {
    let environment = workspace(folder);
    let (done, wanted) = (environment.join("packages.txt"), packages.join("\n"));
    if fs::read_to_string(&done).ok().as_ref() == Some(&wanted) {
        return Ok(());
    }
    run(command(setup::python()?, &["-m", "venv", "--clear"]).arg(&environment))?;
    run(command(program(folder, "pip"), &["install", "--quiet", "--disable-pip-version-check"]).args(packages))?;
    Ok(fs::write(done, wanted)?)
}
