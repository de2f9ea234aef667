//! `cargo xtask cross-test`: what ships for every system, run here, with the answers of this system's own.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{
    emulator::Emulator,
    target::{TARGETS, Target},
    tree,
};
use crate::{command, demo, doors::sentences, output, release_program, run, workspace};

/// What is classified.
pub(super) const BUNDLE: &str = ".setup/dist/movies.nimbert";
const SENTENCES: usize = 500;
/// How far scores may be from this system's: processors add in another order, and int8 rounds what is added.
const TOLERANCES: [(&str, f64); 2] = [("cpu-fp32", 1e-4), ("cpu-int8", 1e-3)];

/// How long a socket may take: an emulator is slow.
const TIMEOUT: Duration = Duration::from_secs(60);

/// One answer: its label and the label's score.
type Answer = (String, f64);

/// Tests all, or one beside this system's.
pub(crate) fn cross_test(named: Option<&str>) -> Result<()> {
    bundle()?;
    let texts = sentences(SENTENCES)?;
    let host = Target::host()?;
    let mut expected = Vec::new();
    let named = named.map(Target::find).transpose()?;
    let is_wanted = |target: &Target| named.is_none_or(|named| named.triple == target.triple);
    let others = TARGETS.into_iter().filter(|target| target.triple != host.triple && is_wanted(target));
    for target in std::iter::once(host).chain(others) {
        let tree = tree::folder(&target);
        if !tree.exists() {
            bail!("{} is missing: cargo xtask dist makes it", tree.display());
        }
        let emulator = Emulator::new(&target)?;
        let program = tree.join("bin").join(target.program("nimbert"));
        run(emulator.command(&program).args(["verify", BUNDLE]))?;
        for (variant, tolerance) in TOLERANCES {
            let began = Instant::now();
            let answers = classify(&emulator, &program, variant, &texts)?;
            let seconds = began.elapsed().as_secs_f64();
            match expected.iter().find(|(of, _)| *of == variant) {
                None => expected.push((variant, answers)),
                Some((_, expected)) => compare(&target, variant, expected, &answers, tolerance, seconds)?,
            }
        }
        serve(&target, &emulator, &program)?;
        example(&target, &emulator, &tree)?;
    }
    Ok(())
}

/// A bundle with graphs in both precisions, of a short training.
pub(super) fn bundle() -> Result<()> {
    let (bundle, data) = (workspace(BUNDLE), ".setup/demo/movies.csv");
    if bundle.exists() {
        return Ok(());
    }
    if !workspace(data).exists() {
        fs::create_dir_all(workspace(".setup/demo"))?;
        demo::write_csv("movies.csv", &demo::movies(0)?[..1000])?;
    }
    crate::build()?;
    let fit = ["fit", "--base", "models/minilm", "--data", data, "--out", BUNDLE, "--overwrite", "--epochs", "1"];
    run(command(release_program("nimbert-train"), &fit).args(["--variants", "cpu-int8,cpu-fp32"]))
}

fn classify(emulator: &Emulator, program: &Path, variant: &str, texts: &str) -> Result<Vec<Answer>> {
    let mut classify = emulator.command(program);
    classify.args(["classify", BUNDLE, "--variant", variant, "--no-cache", "--json", "--input", texts]);
    let answer = |line: &str| {
        let answer: Value = serde_json::from_str(line)?;
        let label = answer["label"].as_str().context("expected a label")?;
        Ok((label.to_owned(), answer["score"].as_f64().context("expected a score")?))
    };
    output(&mut classify)?.lines().map(answer).collect()
}

fn compare(
    target: &Target,
    variant: &str,
    expected: &[Answer],
    found: &[Answer],
    tolerance: f64,
    seconds: f64,
) -> Result<()> {
    if expected.len() != SENTENCES || found.len() != SENTENCES {
        bail!("{}: expected {SENTENCES} answers, found {} and {}", target.triple, expected.len(), found.len());
    }
    let pairs = || expected.iter().zip(found);
    let labels = pairs().filter(|((expected, _), (found, _))| expected == found).count();
    let difference = pairs().map(|((_, expected), (_, found))| (expected - found).abs()).fold(0.0, f64::max);
    let system = target.triple;
    println!(
        "cross-test: {system}, {variant}: {labels} of {SENTENCES} labels, scores within {difference:.1e} ({seconds:.1} s)"
    );
    if labels != SENTENCES || difference > tolerance {
        bail!("{system}, {variant}: expected the same labels, and scores within {tolerance}");
    }
    Ok(())
}

/// The server answers at the loopback address.
fn serve(target: &Target, emulator: &Emulator, program: &Path) -> Result<()> {
    let mut server = emulator.command(program);
    server.args(["serve", BUNDLE, "--listen", "127.0.0.1:0", "--no-cache"]);
    let answer = while_served(&mut server, |server| {
        let mut line = String::new();
        BufReader::new(server.stdout.take().context("standard output")?).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on http://");
        let address = address.with_context(|| format!("{}: serve printed {line:?}", target.triple))?;
        let connection = TcpStream::connect(address)?;
        connection.set_read_timeout(Some(TIMEOUT))?;
        ask(connection)
    })?;
    if !answer.starts_with("HTTP/1.1 200") || !answer.contains("positive") {
        bail!("{}: serve answered {answer}", target.triple);
    }
    println!("cross-test: {}: serve answers", target.triple);
    Ok(())
}

/// What `ask` finds out of a server, which ends then.
pub(super) fn while_served(server: &mut Command, ask: impl FnOnce(&mut Child) -> Result<String>) -> Result<String> {
    let mut server = server.stdout(Stdio::piped()).spawn()?;
    let answer = ask(&mut server);
    server.kill()?;
    server.wait()?;
    answer
}

/// What a server says to one text.
fn ask(mut connection: impl Read + Write) -> Result<String> {
    let body = r#"{"inputs": "a delight from start to finish"}"#;
    let head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n";
    write!(connection, "{head}Content-Length: {}\r\n\r\n{body}", body.len())?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The same at a socket, once it is there.
#[cfg(unix)]
pub(super) fn ask_socket(path: &Path) -> Result<String> {
    let connection = retried(|| std::os::unix::net::UnixStream::connect(path))?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    ask(connection)
}

#[cfg(not(unix))]
pub(super) fn ask_socket(path: &Path) -> Result<String> {
    bail!("{}: this system has no such sockets", path.display())
}

/// The same at an address, once it is listened at.
pub(super) fn ask_address(address: &str) -> Result<String> {
    let connection = retried(|| TcpStream::connect(address))?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    ask(connection)
}

/// What a server that is just starting gives in time.
fn retried<T>(connect: impl Fn() -> std::io::Result<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        match connect() {
            Ok(connection) => return Ok(connection),
            Err(error) if began.elapsed() > TIMEOUT => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// The example in C, compiled with the tree alone.
fn example(target: &Target, emulator: &Emulator, tree: &Path) -> Result<()> {
    let compiler = match (target.os, target.arch) {
        ("windows", _) => "x86_64-w64-mingw32-gcc",
        (_, "aarch64") => "aarch64-linux-gnu-gcc",
        _ => "cc",
    };
    let program: PathBuf = tree.join("bin").join(target.program("classify"));
    let mut compile = command(compiler, &["-std=c11", "-Wall", "-Werror", "runtime/examples/classify.c", "-o"]);
    compile.arg(&program).arg("-I").arg(tree.join("include")).arg("-L").arg(tree.join("lib")).arg("-lnimbert");
    if !target.is_windows() {
        compile.arg("-Wl,-rpath,$ORIGIN/../lib");
    }
    run(&mut compile)?;
    let printed = output(emulator.command(&program).arg(BUNDLE));
    fs::remove_file(&program)?;
    let printed = printed?;
    // The last line has the system's own words.
    let known: Vec<&str> = printed.lines().filter(|line| !line.starts_with("io: ")).map(first_word).collect();
    if known.len() != 5 || known[4] != "cancelled" || printed.lines().count() != 6 {
        bail!("{}: classify.c printed {printed}", target.triple);
    }
    println!("cross-test: {}: classify.c: {}", target.triple, printed.replace('\n', "; "));
    Ok(())
}

fn first_word(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or_default()
}
