//! What a newcomer and CI need, as `cargo xtask COMMAND`.

mod api;
mod attack;
mod bench;
mod demo;
mod desktop;
mod dist;
mod doors;
mod fuzz;
mod guard;
mod interop;
mod power_cut;
mod python;
mod setup;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};

const HELP: &str = "\
cargo xtask COMMAND

  setup            fetch ONNX Runtime, the base model, the demo data and protoc; what is there already is kept
  demo             setup, build, then train, export, trace and classify: 1,000 movie sentences, 800 for training (minutes)
  test             setup, build, then all tests
  doors [DOOR]     the tests of c, python, node and examples, as `test` runs them, or those of one
  capi             build the C library into target/capi; its tests under AddressSanitizer and valgrind (minutes)
  python           build wheels for any Linux into target/wheels; their tests, and speed beside the program's (minutes)
  node             build the packages for Node.js into target/npm; their tests
  cluster          Ray and Spark with the wheel, two workers, one of which is killed (minutes; needs PyPI, Java)
  desktop          build, test and measure examples/desktop, under Xvfb; with windows behind it, under wine (minutes)
  dist [OPTIONS]   archives and packages for every system into target/dist (minutes a system); dist --help
  cross-test [TARGET]
                   what `dist` made for each system, under wine and qemu-user: answers, server, C (half an hour for ARM)
  package-test     the .deb in fresh Debians, the archive in an empty root (Linux, as root; debootstrap; minutes)
  interop          other programs read our bundles: onnx, optimum, transformers.js, Triton (minutes; needs PyPI, npm)
  fuzz [SECONDS]   strangers' bytes under libFuzzer, each target for so long [default: 30] (needs a C++ compiler)
  attack [BUNDLE]  flipped bits, cut files and 2,000 odd graphs: errors or the same answers; of a tiny bundle (minutes)
  power-cut [CUTS] the power goes while a file is classified [default: 30] (Linux, as root; minutes)
  api [write]      compare the public interface of the crate nimbert with runtime/api.txt, or write that
  guard            check that the runtime depends on no candle, prost, TLS or HTTP crate, and where there is unsafe code
  audit            licences, sources and advisories of all dependencies, by cargo-deny (minutes; needs the network)
  sbom             what the programs are made of, as CycloneDX, into target/sbom (minutes the first time)
  bench train      speed, memory and accuracy of training, beside transformers' (an hour; needs PyPI); with seeds
                   behind it, of movie sentences alone; with another word, such as modernbert, of the shapes whose names have it
  bench tasks      tweets, product reviews and news, several labels, pairs, long texts, beside transformers (the same)
  bench graphs     the exported graphs beside optimum's, other ways to quantize, and OpenVINO (20 minutes; needs PyPI); with
                   a word behind it, such as deberta, of the shapes whose names have it
  bench runtime    start, speed, memory and server, beside optimum, a bare program and OpenVINO (an hour; needs PyPI and, for wrk,
                   that program and taskset); with start, bulk, openvino, long, singles, memory, flat, devices, size, load or wrk behind it, that
                   part only
  bench file       a bundle as a folder, as one file and in memory: start, and memory of one and four processes
  bench edge       what ships with one core and 256 MB: start, memory, a file (Linux, as root)
  bench size       how small the movie classifier can be made (minutes)
  bench labels     planted wrong labels, as `check --deep`, models by folds and cleanlab find them (half an hour; needs PyPI);
                   with movies, amazon, bbc, 20newsgroups or r8 behind it, in these rows alone
  bench suggest    labels that `suggest` saves, beside rows drawn at random (minutes)
  bench heads      two tasks over one encoder, beside a model for each (half an hour); with few behind it, of few labelled
                   rows by each method (minutes)
  bench tune       settings that were tried beside the usual ones (40 minutes); with a budget behind it, such as 20m, that long a set
  bench unknown    texts of labels that were not trained on, and sets of labels, beside what was asked for (half an hour);
                   with texts, shown or sets behind it, that part only
  bench few        few labelled rows, beside SetFit and logistic regression on sentence-transformers' features (a day; needs
                   PyPI; goes on where it was stopped); with words behind it, such as bbc-8 SetFit, the draws and ways with them in
                   their names
  bench fidelity   what the int8 graphs change of fp32's answers, three seeds (minutes)
  bench student    the student without attention beside its teacher, TF-IDF and Model2Vec (half an hour; needs PyPI)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["setup"] => setup::setup(),
        ["demo"] => demo::demo(),
        ["test"] => test(),
        ["doors"] => doors(None),
        ["doors", door] => doors(Some(door)),
        ["capi"] => doors::capi(),
        ["python"] => doors::python(),
        ["node"] => doors::node(),
        ["cluster"] => doors::cluster(),
        ["package-test"] => dist::package_test(),
        ["cross-test"] => dist::cross_test(None),
        ["cross-test", target] => dist::cross_test(Some(target)),
        ["desktop"] => desktop::desktop(),
        ["desktop", "windows"] => desktop::windows(),
        ["dist", ref arguments @ ..] => dist::dist(arguments),
        ["interop"] => interop::interop(),
        ["fuzz"] => fuzz::fuzz(30),
        ["fuzz", seconds] => match seconds.parse() {
            Ok(seconds) => fuzz::fuzz(seconds),
            Err(_) => Err(anyhow::anyhow!("fuzz: expected a number of seconds, found {seconds}")),
        },
        ["attack"] => attack::attack(None),
        ["attack", bundle] => attack::attack(Some(bundle)),
        ["power-cut"] => power_cut::power_cut(30),
        ["power-cut", cuts] => match cuts.parse() {
            Ok(cuts) => power_cut::power_cut(cuts),
            Err(_) => Err(anyhow::anyhow!("power-cut: expected a number of cuts, found {cuts}")),
        },
        ["api"] => api::api(api::Listing::Compare),
        ["api", "write"] => api::api(api::Listing::Write),
        ["guard"] => guard::guard(),
        ["audit"] => guard::audit(),
        ["sbom"] => guard::sbom(),
        ["bench", "train"] => bench::train(),
        ["bench", "train", "seeds"] => bench::train_seeds(),
        ["bench", "train", shape] => bench::train_shapes(shape),
        ["bench", "tasks"] => bench::tasks(),
        ["bench", "graphs"] => bench::graphs(),
        ["bench", "graphs", shape] => bench::graphs_of_shapes(shape),
        ["bench", "runtime"] => bench::runtime(None),
        ["bench", "runtime", part] => bench::runtime(Some(part)),
        ["bench", "file"] => bench::file(),
        ["bench", "edge"] => bench::edge(),
        ["bench", "size"] => bench::size(),
        ["bench", "student"] => bench::student(),
        ["bench", "labels", ref sets @ ..] => bench::labels(sets),
        ["bench", "suggest"] => bench::suggest(),
        ["bench", "heads"] => bench::heads(),
        ["bench", "heads", "few"] => bench::heads_of_few_rows(),
        ["bench", "tune"] => bench::tune("10m"),
        ["bench", "tune", budget] => bench::tune(budget),
        ["bench", "unknown"] => bench::unknown(None),
        ["bench", "unknown", part] => bench::unknown(Some(part)),
        ["bench", "fidelity"] => bench::fidelity(),
        ["bench", "few", ref words @ ..] => bench::few(words),
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("xtask: error: no such command: {}\n\n{HELP}", arguments.join(" "));
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A path inside of the workspace.
fn workspace(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ lies in the workspace").join(path)
}

/// A command to be run in the workspace's root.
fn command(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(workspace("."));
    // What cargo says of xtask would count as a change to build scripts that look at it, and compile much anew.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_MANIFEST_", "CARGO_PKG_"].iter().any(|start| name.to_string_lossy().starts_with(start)) {
            command.env_remove(name);
        }
    }
    // Nothing outside of the workspace.
    command.env("NIMBERT_CACHE", workspace(".setup/cache"));
    if std::env::var_os("ORT_DYLIB_PATH").is_none() {
        // The programs find it by themselves, unless CARGO_TARGET_DIR puts them elsewhere.
        command.env("ORT_DYLIB_PATH", workspace(&setup::onnx_runtime_library()));
    }
    command
}

/// A run of the cargo that runs us.
fn cargo(arguments: &[&str]) -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), arguments)
}

/// A program that the workspace builds.
fn release_program(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace("target"), PathBuf::from);
    target.join("release").join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}

/// Runs a command and shows its output; anything but success is an error that names it.
fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command.status().with_context(|| format!("cannot start: {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok(())
}

/// Runs a command and returns what it wrote to standard output; its messages are shown.
fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    command.stderr(std::process::Stdio::inherit());
    let output = command.output().with_context(|| format!("cannot start: {shown}"))?;
    if !output.status.success() {
        bail!("{shown}: {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{shown}: output is not UTF-8"))
}

/// The command as one would type it.
fn show(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    std::iter::once(name).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// Builds both programs.
fn build() -> Result<()> {
    // All at once, those of benches and tests too: another selection would compile what they share with other features.
    let packages = ["nimbert", "nimbert-trainer", "nimbert-benches", "nimbert-tests"];
    run(cargo(&["build", "--release"]).args(packages.iter().flat_map(|package| ["--package", package])))
}

/// What `test` runs of the doors, or of one of them.
fn doors(door: Option<&str>) -> Result<()> {
    setup::setup()?;
    build()?;
    doors::setup()?;
    doors::test(door)
}

fn test() -> Result<()> {
    setup::setup()?;
    doors::setup()?;
    // But the doors, which are tested by themselves: with them, all would be compiled anew with other features.
    let without = ["xtask", "nimbert-capi", "nimbert-node", "nimbert-python"].map(|package| ["--exclude", package]);
    let packages = [&["--release", "--workspace"][..], without.as_flattened()].concat();
    // What the lean program has not.
    let features = ["--release", "--package", "nimbert", "--features", "serve,parquet,tracing"];
    let has_nextest = cargo(&["nextest", "--version"]).output().is_ok_and(|output| output.status.success());
    if has_nextest {
        run(cargo(&["nextest", "run"]).args(features))?;
        build()?;
        // Their tests first: the last line is that of Rust's.
        doors::test(None)?;
        run(cargo(&["test", "--doc"]).args(&packages))?;
        return run(cargo(&["nextest", "run"]).args(&packages));
    }
    run(cargo(&["test"]).args(features))?;
    build()?;
    doors::test(None)?;
    run(cargo(&["test"]).args(packages))
}
