//! `cargo xtask desktop`: the program with a window. It is a workspace of its own, whose tree CI does not compile.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{
    cargo, command,
    demo::{BUNDLE, expect_bundle},
    dist::{Compiler, Emulator, Target, folder},
    doors::has,
    run, setup, workspace,
};

const FOLDER: &str = "examples/desktop";
const TARGET: &str = "target/desktop";

/// Builds it, tests it without a window, and measures it in one: from a key to its bar, without work and while a file
/// of 100,000 rows is labelled.
pub(crate) fn desktop() -> Result<()> {
    expect_bundle()?;
    setup::setup()?;
    let in_its_folder = |arguments: &[&str]| {
        let mut cargo = cargo(arguments);
        run(cargo.env("CARGO_TARGET_DIR", workspace(TARGET)).current_dir(workspace(FOLDER)))
    };
    in_its_folder(&["fmt", "--check"])?;
    in_its_folder(&["clippy", "--release", "--locked", "--all-targets", "--", "-D", "warnings"])?;
    in_its_folder(&["test", "--release", "--locked"])?;
    in_its_folder(&["build", "--release", "--locked"])?;
    if !has("xvfb-run") {
        return Ok(());
    }
    run(in_a_screen().arg(workspace(TARGET).join("release/nimbert-desktop")).args([BUNDLE, "--measure"]))
}

/// The same for Windows, compiled here and measured under wine, with the library that ships there.
pub(crate) fn windows() -> Result<()> {
    let target = Target::find("x86_64-pc-windows-gnu")?;
    let library = folder(&target).join("bin/onnxruntime.dll");
    expect_bundle()?;
    if !library.exists() {
        bail!("{} is missing: cargo xtask dist makes it", library.display());
    }
    let compiler = Compiler::new(target)?;
    let mut build = command(compiler.cargo(), &["build", "--release", "--locked", "--target", target.triple]);
    compiler.prepare(&mut build)?;
    run(build.args(compiler.arguments()).current_dir(workspace(FOLDER)))?;
    let program = compiler.folder().with_file_name("release").join("nimbert-desktop.exe");
    let wine = Emulator::new(&target)?.command(&program);
    let mut measure = in_a_screen();
    measure.arg(wine.get_program()).args(wine.get_args()).args([BUNDLE, "--measure"]);
    measure.envs(wine.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run(measure.env("ORT_DYLIB_PATH", library))
}

/// A screen that nobody sees, for a program.
fn in_a_screen() -> Command {
    command("xvfb-run", &["--auto-servernum", "--server-args=-screen 0 1280x1024x24"])
}
