//! Environments of Python's, in which tools of other people's lie.

use std::{
    env::consts::EXE_SUFFIX,
    fs,
    path::{Path, PathBuf},
};

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
    make(folder)?;
    install(&program(folder, "python"), packages)?;
    Ok(fs::write(done, wanted)?)
}

/// An environment in `folder` that has pip alone, in place of what is there.
pub(crate) fn make(folder: &str) -> Result<()> {
    let python = setup::python()?;
    let venv = |further: &[&str]| {
        let mut venv = command(python, &["-m", "venv", "--clear"]);
        venv.args(further).arg(workspace(folder));
        venv
    };
    if venv(&[]).output()?.status.success() {
        return Ok(());
    }
    // Where Python came without pip, as Debian's does, the system's pip installs one.
    run(&mut venv(&["--without-pip"]))?;
    let pip = ["-m", "pip", "--disable-pip-version-check", "--python"];
    run(command(python, &pip).arg(program(folder, "python")).args(["install", "--quiet", "pip"]))
}

/// Has packages, each with its version, in the environment of `python`: those are installed that are not there.
pub(crate) fn need(python: &Path, packages: &[&str]) -> Result<()> {
    let version = "import importlib.metadata as m, sys; print(*(m.version(name) for name in sys.argv[1:]), sep='\\n')";
    let names = packages.iter().map(|package| package.split(['=', '[']).next().unwrap_or_default());
    let found = command(python, &["-c", version]).args(names).output()?;
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    // Behind a plus sign stands how it was built.
    let found: Vec<&str> = found.lines().map(|line| line.split('+').next().unwrap_or_default()).collect();
    let wanted: Vec<&str> = packages.iter().map(|package| package.rsplit("==").next().unwrap_or_default()).collect();
    if found == wanted {
        return Ok(());
    }
    eprintln!("installing {}", packages.join(", "));
    install(python, packages)
}

/// Installs packages into the environment of `python`.
fn install(python: &Path, packages: &[&str]) -> Result<()> {
    run(command(python, &["-m", "pip", "--disable-pip-version-check", "install", "--quiet"]).args(packages))
}
