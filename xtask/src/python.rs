//! Environments of Python's, in which tools of other people's lie.

use std::fs;

use anyhow::Result;

use crate::{command, run, setup, workspace};

/// An environment in `folder` that has `packages`, each with its version: made anew unless it has just these.
pub(crate) fn environment(folder: &str, packages: &[&str]) -> Result<()> {
    let environment = workspace(folder);
    let (done, wanted) = (environment.join("packages.txt"), packages.join("\n"));
    if fs::read_to_string(&done).ok().as_ref() == Some(&wanted) {
        return Ok(());
    }
    run(command(setup::python()?, &["-m", "venv", "--clear"]).arg(&environment))?;
    let pip = environment.join(if cfg!(windows) { "Scripts/pip" } else { "bin/pip" });
    run(command(pip, &["install", "--quiet", "--disable-pip-version-check"]).args(packages))?;
    Ok(fs::write(done, wanted)?)
}
