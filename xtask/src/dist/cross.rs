//! `cargo xtask cross-test`: what ships for every system, run here, with the answers of this system's own.

use std::{
    collections::BTreeMap,
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
    emulator::{BFLOAT16, CORTEX_A53, Emulator},
    target::{TARGETS, Target},
    tree,
};
use crate::{command, demo, doors::sentences, output, release_program, run, workspace};

/// What is classified.
pub(super) const BUNDLE: &str = ".setup/dist/movies.nimbert";
const SENTENCES: usize = 500;
/// Graphs, and how far scores may be from this system's: processors add in another order. Where int8 rounds what was added,
/// a sum that differs in its last bit may become another integer.
const FP32: (&str, f64) = ("cpu-fp32", 1e-4);
const INT8: (&str, f64) = ("cpu-int8", 2e-2);
/// The share of texts that must have the same label whatever was rounded.
const SAME_LABELS: f64 = 0.99;

/// How far scores of products in bfloat16 may be, and how many sentences are enough: the emulator computes them slowly.
const BFLOAT16_TOLERANCE: f64 = 2e-2;
const BFLOAT16_SENTENCES: usize = 20;

/// How long a socket may take: an emulator is slow.
const TIMEOUT: Duration = Duration::from_secs(60);

/// One answer: its label and the label's score.
type Answer = (String, f64);

/// Tests all, or one beside this system's.
pub(crate) fn cross_test(named: Option<&str>) -> Result<()> {
    let named = named.map(Target::find).transpose()?;
    bundle()?;
    let texts = sentences(SENTENCES)?;
    let host = Target::host()?;
    let mut expected = BTreeMap::new();
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
        for (variant, tolerance) in [FP32, INT8] {
            let answers = || classify(&emulator, &program, &[variant], &texts);
            match expected.get(variant) {
                None => drop(expected.insert(variant, answers()?)),
                Some(expected) => {
                    compare(&format!("{} {variant}", target.triple), expected, tolerance, answers)?;
                }
            }
        }
        if target.arch == "aarch64" && target.triple != host.triple {
            trials(&program, &texts, &expected)?;
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

/// What other processors of ARM answer.
fn trials(program: &Path, texts: &str, expected: &BTreeMap<&str, Vec<Answer>>) -> Result<()> {
    let (emulator, (int8, tolerance)) = (Emulator::arm(CORTEX_A53)?, INT8);
    let what = format!("{} {int8}", CORTEX_A53.name);
    compare(&what, &expected[int8], tolerance, || classify(&emulator, program, &[int8], texts))?;

    let (emulator, (fp32, _)) = (Emulator::arm(BFLOAT16)?, FP32);
    let texts = sentences(BFLOAT16_SENTENCES)?;
    let what = format!("bfloat16 {fp32} --fast-math");
    let arguments = [fp32, "--fast-math"];
    let opened = emulator.command(program).args(["classify", BUNDLE, "word", "--variant"]).args(arguments).output()?;
    let message = String::from_utf8_lossy(&opened.stderr);
    if opened.status.code() == Some(2) && message.contains("expected logits within") {
        // Whether ONNX Runtime's products are right is not ours; that nobody gets wrong ones is.
        println!("cross-test: {what}: refused: {}", message.trim());
        return Ok(());
    }
    let expected = &expected[fp32][..BFLOAT16_SENTENCES];
    match compare(&what, expected, BFLOAT16_TOLERANCE, || classify(&emulator, program, &arguments, &texts))? {
        0.0 => bail!("{what}: the option changed nothing"),
        _ => Ok(()),
    }
}

/// The answers by the graph and with the options that `arguments` begins and goes on with.
fn classify(emulator: &Emulator, program: &Path, arguments: &[&str], texts: &str) -> Result<Vec<Answer>> {
    let mut classify = emulator.command(program);
    classify.args(["classify", BUNDLE, "--no-cache", "--json", "--input", texts, "--variant"]).args(arguments);
    let answer = |line: &str| {
        let answer: Value = serde_json::from_str(line)?;
        let label = answer["label"].as_str().context("expected a label")?;
        Ok((label.to_owned(), answer["score"].as_f64().context("expected a score")?))
    };
    output(&mut classify)?.lines().map(answer).collect()
}

/// That there are the same labels, but for a few whose scores are as near to one half as they may be to those expected, and
/// nearly the same scores. Returns the largest difference.
fn compare(
    what: &str,
    expected: &[Answer],
    tolerance: f64,
    answers: impl FnOnce() -> Result<Vec<Answer>>,
) -> Result<f64> {
    let began = Instant::now();
    let found = answers()?;
    let (seconds, count) = (began.elapsed().as_secs_f64(), expected.len());
    if found.len() != count {
        bail!("{what}: expected {count} answers, found {}", found.len());
    }
    let pairs = || expected.iter().zip(&found);
    let labels = pairs().filter(|((expected, _), (found, _))| expected == found).count();
    // Of the same label, one of two.
    let differences = pairs().map(|((label, expected), (other, found))| {
        let found = if label == other { *found } else { 1.0 - found };
        (expected - found).abs()
    });
    let differences: Vec<f64> = differences.collect();
    let largest = differences.iter().copied().fold(0.0, f64::max);
    let equal = differences.iter().filter(|difference| **difference < 1e-6).count();
    println!(
        "cross-test: {what}: {labels} of {count} labels, {equal} scores equal, all within {largest:.1e} ({seconds:.1} s)"
    );
    if (labels as f64) < SAME_LABELS * count as f64 || largest > tolerance {
        bail!("{what}: expected the same labels, and scores within {tolerance}");
    }
    Ok(largest)
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
        (_, "arm") => "arm-linux-gnueabihf-gcc",
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
