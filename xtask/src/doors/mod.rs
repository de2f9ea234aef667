//! The doors for other languages: built, packed as they ship, and tested as their users have them.

pub(crate) mod c;
mod cluster;
mod examples;
pub(crate) mod node;
mod python;

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

use crate::{cargo, command, release_program, run, workspace};

pub(crate) use self::{c::capi, cluster::cluster, node::node, python::python, python::sentences};

use self::python::Wheels;

/// What the doors are tested with.
const FOLDER: &str = ".setup/doors";
/// A bundle as a folder; packed, it is [`packed`].
const BUNDLE: &str = "tests/data/bundle-2";

/// The tests that need no network beyond setup: all, or those of one door.
pub(crate) fn test(door: Option<&str>) -> Result<()> {
    type Test = fn() -> Result<()>;
    let doors: [(&str, Test); 4] = [
        ("c", c::test),
        ("node", node::test),
        ("python", || python::test(Wheels::Native)),
        ("examples", examples::test),
    ];
    if !cfg!(target_os = "linux") {
        println!("doors: their packages are made on Linux, for Windows too: they are left out here");
        return Ok(());
    }
    let wanted = |name: &str| door.is_none_or(|door| door == name);
    if !doors.iter().any(|(name, _)| wanted(name)) {
        bail!("doors: expected one of {}", doors.map(|(name, _)| name).join(", "));
    }
    doors.iter().filter(|(name, _)| wanted(name)).try_for_each(|(_, test)| test())
}

/// Fetches what the tests need.
pub(crate) fn setup() -> Result<()> {
    if !cfg!(target_os = "linux") {
        return Ok(());
    }
    node::setup()?;
    python::setup()
}

/// Builds the libraries of all doors: at once, so that what they share is compiled once.
fn build() -> Result<()> {
    run(&mut cargo_of_doors("build"))
}

/// A command of cargo for all of them.
fn cargo_of_doors(subcommand: &str) -> Command {
    let packages = ["nimbert-capi", "nimbert-node", "nimbert-python"];
    let mut cargo = cargo(&[subcommand, "--release"]);
    cargo.args(packages.iter().flat_map(|package| ["--package", package]));
    // The last is a module of Python: it is not linked with an interpreter.
    cargo.env("PYO3_BUILD_EXTENSION_MODULE", "1");
    cargo
}

/// [`BUNDLE`] as one file.
fn packed() -> Result<String> {
    let file = format!("{FOLDER}/bundle.nimbert");
    fs::create_dir_all(workspace(FOLDER))?;
    let pack = ["pack", BUNDLE, "--out", &file, "--overwrite"];
    run(&mut command(release_program("nimbert-train"), &pack))?;
    Ok(file)
}

/// Whether a program is there. What needs one that a newcomer's machine need not have is left out, with a word.
pub(crate) fn has(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let names = [program.to_owned(), format!("{program}.exe"), format!("{program}.cmd")];
    let is_there = std::env::split_paths(&folders).any(|folder| names.iter().any(|name| folder.join(name).is_file()));
    if !is_there {
        println!("doors: {program} is not here: what needs it is left out");
    }
    is_there
}

/// A new, empty folder in place of what is there.
pub(crate) fn empty(folder: &str) -> Result<PathBuf> {
    let path = workspace(folder);
    if path.exists() {
        fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
    }
    fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
    Ok(path)
}

pub(crate) fn copy(from: &str, to: impl Into<PathBuf>) -> Result<()> {
    let to = to.into();
    fs::copy(workspace(from), &to).with_context(|| format!("{from} to {}", to.display()))?;
    Ok(())
}
