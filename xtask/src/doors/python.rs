//! Python: wheels, installed into a fresh environment by pip alone.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

use super::{BUNDLE, FOLDER, build, empty, node, packed};
use crate::{
    bench, command, demo,
    python::{self as environments, environment},
    run, workspace,
};

const WHEELS: &str = "target/wheels";
/// No wheel may be larger, in bytes: that of the module, and that of the program.
const LIMITS: [(&str, u64); 2] = [("nimbert-", 4_000_000), ("nimbert_cli-", 8_000_000)];
/// What builds wheels and checks types.
const TOOLS: [&str; 6] = [
    "cmake==4.4.5",
    "maturin==1.16.0",
    "mypy==2.4.1",
    "pyright==1.1.414",
    "typing_extensions==4.16.0",
    "ziglang==0.17.1",
];
/// What a user's environment has besides, for the tests of columns.
const COLUMNS: [&str; 4] = ["onnxruntime==1.31.1", "pyarrow==26.0.1", "polars==2.1.0", "pandas==3.1.1"];
/// Sentences that the module and the program must answer alike.
const SENTENCES: usize = 2000;

/// For which systems wheels are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wheels {
    /// For this one: what is compiled already is used.
    Native,
    /// For any with glibc 2.17 or newer, by zig, which compiles everything anew.
    Manylinux,
}

/// `cargo xtask python`: builds the wheels that ship, and tests them; then their speed beside the command line's.
pub(crate) fn python() -> Result<()> {
    crate::setup::setup()?;
    crate::build()?;
    setup()?;
    test(Wheels::Manylinux)?;
    let texts = sentences(20_000)?;
    let [python, program] = ["python", "nimbert"].map(program);
    let bundle = demo::BUNDLE;
    if !workspace(bundle).exists() {
        println!("python: the speed was not measured: `cargo xtask demo` makes {bundle}");
        return Ok(());
    }
    let speed = ["bindings/python/tests/speed.py", bundle, &texts, &program.to_string_lossy(), "0.95"];
    run(&mut command(python, &speed))
}

/// The tools' environment, and what the tests' will be made of: it is made anew each time, without network.
pub(super) fn setup() -> Result<()> {
    environment(&format!("{FOLDER}/tools"), &TOOLS)?;
    let packages = workspace(&format!("{FOLDER}/packages"));
    let done = packages.join(fingerprint());
    if done.exists() {
        return Ok(());
    }
    let _ = fs::remove_dir_all(&packages);
    let mut download = command(tool("pip"), &["download", "--quiet", "--disable-pip-version-check", "--dest"]);
    run(download.arg(&packages).args(COLUMNS).args(["--only-binary", ":all:"]))?;
    if node::is_here() {
        // It fetches itself from npm when it is called first.
        run(command(tool("pyright"), &["--version"]).stdout(std::process::Stdio::null()))?;
    }
    fs::write(done, "")?;
    Ok(())
}

/// Changes with what is fetched.
fn fingerprint() -> String {
    TOOLS.iter().chain(&COLUMNS).map(|package| package.replace("==", "-")).collect::<Vec<_>>().join(",")
}

/// A program of the users' environment.
pub(super) fn program(name: &str) -> PathBuf {
    environments::program(&format!("{FOLDER}/user"), name)
}

pub(super) fn test(wheels: Wheels) -> Result<()> {
    install(wheels)?;
    let texts = sentences(SENTENCES)?;
    let file = packed()?;
    let mut tests = user("python");
    tests.args(["-m", "unittest", "test_nimbert"]).current_dir(workspace("bindings/python/tests"));
    tests.env("NIMBERT_PROGRAM", program("nimbert")).env("NIMBERT_TEST_TEXTS", workspace(&texts));
    run(tests.env("NIMBERT_TEST_BUNDLE", workspace(BUNDLE)).env("NIMBERT_TEST_FILE", workspace(&file)))?;
    let example = "bindings/python/tests/typing_example.py";
    run(command(tool("mypy"), &["--strict", "--python-executable"]).arg(program("python")).arg(example))?;
    if !node::is_here() {
        return Ok(());
    }
    run(command(tool("pyright"), &["--pythonpath"]).arg(program("python")).arg(example))
}

/// A program of the tools' environment.
pub(super) fn tool(name: &str) -> PathBuf {
    environments::program(&format!("{FOLDER}/tools"), name)
}

/// A program of the users' environment, which knows nothing of ours.
pub(super) fn user(name: &str) -> Command {
    let mut command = command(program(name), &[]);
    command.env_remove("ORT_DYLIB_PATH");
    command
}

/// Builds the wheels, and installs them into a fresh environment.
pub(super) fn install(wheels: Wheels) -> Result<()> {
    let tools = workspace(&format!("{FOLDER}/tools/bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(tools).chain(std::env::split_paths(&path)))?;
    let how: &[&str] = match wheels {
        Wheels::Native => {
            build()?;
            &["--compatibility", "linux"]
        }
        Wheels::Manylinux => &["--zig", "--compatibility", "manylinux2014"],
    };
    let folder = empty(WHEELS)?;
    for project in ["bindings/python", "bindings/python-cli"] {
        let mut maturin = command(tool("maturin"), &["build", "--release", "--quiet", "--out"]);
        run(maturin.arg(&folder).args(how).env("PATH", &path).current_dir(workspace(project)))?;
    }
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        let (name, bytes) =
            (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), path.metadata()?.len());
        let limit = LIMITS.iter().find(|(prefix, _)| name.starts_with(prefix)).map_or(0, |(_, limit)| *limit);
        println!("python: {name}: {:.2} MB", bytes as f64 / 1e6);
        if bytes > limit {
            bail!("{name}: expected at most {limit} bytes, found {bytes}");
        }
    }
    environments::make(&format!("{FOLDER}/user"))?;
    let mut install = user("pip");
    install.args(["install", "--quiet", "--disable-pip-version-check", "--no-index", "--find-links"]);
    install.arg(&folder).arg("--find-links").arg(workspace(&format!("{FOLDER}/packages")));
    run(install.arg("nimbert").args(COLUMNS))
}

/// So many movie sentences, a line each; where there are fewer, from the beginning again.
pub(crate) fn sentences(count: usize) -> Result<String> {
    let rows = bench::movie_rows(0)?;
    let lines: Vec<String> = rows.iter().cycle().take(count).map(|row| format!("{}\n", row[0])).collect();
    let file = format!("{FOLDER}/sentences-{count}.txt");
    fs::create_dir_all(workspace(FOLDER))?;
    fs::write(workspace(&file), lines.concat()).with_context(|| file.clone())?;
    Ok(file)
}
