//! `cargo xtask bench runtime`: the program beside optimum's pipeline, and beside what one writes in an hour with ort and
//! tokenizers.

mod openvino;
mod wrk;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{
    FOLDER, ONNX_PEERS, TRANSFORMERS, benched,
    graphs::{Exported, kept_or_exported},
    last_json, machine, median, number, onnx_peers, prepare,
};
use crate::{cargo, command, guard, output, release_program, run, setup, show, workspace};

/// How often everything that is timed is repeated, in turn with its peers.
const ROUNDS: usize = 3;
/// Starts of a process in a round; of Python, one.
const STARTS: usize = 15;
/// Texts that a process answers one by one while its memory is looked at.
const SINGLES: usize = 200;
/// Rows by which memory is shown not to grow with them.
const FEW_ROWS: usize = 10_000;
const MANY_ROWS: usize = 1_000_000;
/// Clients of the server, and for how long.
const CLIENTS: usize = 8;
const LOAD_SECONDS: u64 = 60;
/// Until it has met texts of all lengths, alone and together.
const WARM_UP_SECONDS: u64 = 20;
const TEXT: &str = "A delight from start to finish.";

/// What all measurements use.
struct Bench {
    exported: Exported,
    /// The test sentences, one a line.
    texts: String,
    python: std::path::PathBuf,
}

/// Measures all, or only the part of that name.
pub(crate) fn runtime(part: Option<&str>) -> Result<()> {
    type Part = fn(&Bench) -> Result<()>;
    let parts: [(&str, Part); 11] = [
        ("start", Bench::start),
        ("bulk", Bench::bulk),
        ("openvino", Bench::openvino),
        ("long", Bench::long),
        ("singles", Bench::singles),
        ("memory", Bench::memory),
        ("flat", Bench::flat),
        ("devices", Bench::devices),
        ("size", Bench::size),
        ("load", Bench::load),
        ("wrk", Bench::wrk),
    ];
    let wanted = |name: &str| part.is_none_or(|part| part == name);
    if !parts.iter().any(|(name, _)| wanted(name)) {
        bail!("bench runtime: expected one of {}", parts.map(|(name, _)| name).join(", "));
    }
    prepare()?;
    let python = onnx_peers()?;
    // The same cache as for any user: the first start compiles the graph, and is shown for itself.
    let cache = workspace(".setup/cache");
    if cache.exists() {
        fs::remove_dir_all(&cache)?;
    }
    let exported = kept_or_exported(&python)?;
    let texts = exported.test_texts()?;
    let rows = fs::read_to_string(workspace(&texts))?.lines().count();
    let bench = Bench { exported, texts, python };
    println!("{}; {}, {TRANSFORMERS}", machine(), ONNX_PEERS.join(", "));
    println!("{rows} movie sentences; int8: nimbert's cpu-int8, optimum's --avx2 for the others\n");
    parts.iter().filter(|(name, _)| wanted(name)).try_for_each(|(_, measure)| measure(&bench))
}

/// Milliseconds from the start of a process to its first line of output.
fn first_line(command: &mut Command) -> Result<f64> {
    let shown = show(command);
    let started = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context(shown.clone())?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("standard output")?).read_line(&mut line)?;
    let milliseconds = 1e3 * started.elapsed().as_secs_f64();
    if !child.wait()?.success() || line.is_empty() {
        bail!("{shown}: no label");
    }
    Ok(milliseconds)
}

/// Milliseconds from start to end of a process, and what it printed.
fn timed(command: &mut Command) -> Result<(f64, String)> {
    let started = Instant::now();
    let printed = output(command)?;
    Ok((1e3 * started.elapsed().as_secs_f64(), printed))
}

/// Values by name, in the order of the rounds.
#[derive(Default)]
struct Table(BTreeMap<&'static str, Vec<f64>>);

impl Table {
    fn add(&mut self, name: &'static str, value: f64) {
        self.0.entry(name).or_default().push(value);
    }

    fn median(&self, name: &str) -> f64 {
        self.0.get(name).map_or(f64::NAN, |values| median(values.clone()))
    }
}

impl Bench {
    fn nimbert(&self, arguments: &[&str]) -> Command {
        let mut command = command(release_program("nimbert"), &["classify", &self.exported.ours]);
        command.args(arguments);
        command
    }

    /// The bare program, with optimum's int8 graph or ours.
    fn bare(&self, graph: &str, batch: &str, arguments: &[&str]) -> Command {
        let tokenizer = format!("{}/tokenizer.json", self.exported.ours);
        let mut command = command(release_program("bare"), &[graph, &tokenizer, batch]);
        command.args(arguments);
        command
    }

    fn optimum_graph(&self) -> String {
        format!("{}/model_quantized.onnx", self.exported.optimum_int8)
    }

    fn our_graph(&self) -> String {
        format!("{}/model.onnx", self.exported.ours)
    }

    fn script(&self, what: &str, argument: &str) -> Command {
        let folder = &self.exported.optimum_int8;
        let script = ["benches/compare/runtime.py", folder, "model_quantized.onnx", what, argument];
        let mut command = command(&self.python, &script);
        command.env("HF_HUB_OFFLINE", "1");
        command
    }

    fn python(&self, what: &str, argument: &str) -> Result<Value> {
        let printed = output(&mut self.script(what, argument))?;
        last_json(&printed)
    }

    /// From the start of a process to its first label.
    fn start(&self) -> Result<()> {
        let mut table = Table::default();
        let fresh = workspace(".setup/bench/first-start");
        for _ in 0..STARTS {
            let _ = fs::remove_dir_all(&fresh);
            table.add("first", first_line(self.nimbert(&[TEXT]).env("NIMBERT_CACHE", &fresh))?);
        }
        let _ = fs::remove_dir_all(&fresh);
        first_line(&mut self.nimbert(&[TEXT]))?;
        // What is younger than two seconds is compared again.
        std::thread::sleep(std::time::Duration::from_secs(3));
        first_line(&mut self.nimbert(&[TEXT]))?;
        for _ in 0..ROUNDS {
            for _ in 0..STARTS {
                table.add("nimbert", first_line(&mut self.nimbert(&[TEXT]))?);
                table.add("never", first_line(&mut self.nimbert(&["--verify", "never", TEXT]))?);
                table.add("nimbert --no-cache", first_line(&mut self.nimbert(&["--no-cache", TEXT]))?);
                for (name, graph) in [("bare", self.optimum_graph()), ("bare, our graph", self.our_graph())] {
                    table.add(name, first_line(&mut self.bare(&graph, "1", &[TEXT]))?);
                }
            }
            table.add("optimum", first_line(&mut self.script("first", TEXT))?);
        }
        let [ours, no_cache, bare, bare_ours, optimum] =
            ["nimbert", "nimbert --no-cache", "bare", "bare, our graph", "optimum"].map(|name| table.median(name));
        println!(
            "start to first label: nimbert {ours:.0} ms ({no_cache:.0} without its cache), bare {bare:.0} ms (with our graph \
             {bare_ours:.0}), optimum {optimum:.0} ms"
        );
        let (first, never) = (table.median("first"), table.median("never"));
        println!("  with verified bytes / with --verify never ({never:.0} ms) {:.2}", ours / never);
        println!("  the very first start, which compiles the graph: {first:.0} ms");
        println!("  nimbert / bare {:.2}, nimbert / optimum {:.3}\n", ours / bare, ours / optimum);
        Ok(())
    }

    /// All sentences: ours and the bare program from start to end of the process, the pipeline without its start.
    fn bulk(&self) -> Result<()> {
        let rows = fs::read_to_string(workspace(&self.texts))?.lines().count() as f64;
        let mut table = Table::default();
        let mut labels: [Vec<String>; 2] = Default::default();
        for _ in 0..ROUNDS {
            let (time, printed) = timed(&mut self.nimbert(&["--input", &self.texts]))?;
            table.add("nimbert", 1e3 * rows / time);
            labels[0] = printed.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect();
            for (name, graph) in [("bare", self.optimum_graph()), ("bare, our graph", self.our_graph())] {
                let input = fs::File::open(workspace(&self.texts))?;
                table.add(name, 1e3 * rows / timed(self.bare(&graph, "32", &["-"]).stdin(input))?.0);
            }
            let result = self.python("pipeline", &self.texts)?;
            table.add("optimum", number(&result, "rows_per_second")?);
            let list = result["labels"].as_array().context("no labels")?;
            labels[1] = list.iter().map(|label| label.as_str().unwrap_or_default().to_owned()).collect();
        }
        let [ours, bare, bare_ours, optimum] =
            ["nimbert", "bare", "bare, our graph", "optimum"].map(|name| table.median(name));
        let same = labels[0].iter().zip(&labels[1]).filter(|(a, b)| a == b).count() as f64;
        println!(
            "bulk rows/s, tokenization included: nimbert {ours:.0}, bare {bare:.0} (with our graph {bare_ours:.0}), optimum's pipeline {optimum:.0}"
        );
        println!("  nimbert / optimum {:.2}, nimbert / bare {:.2}", ours / optimum, ours / bare);
        println!("  same label as optimum's int8 graph: {:.1} %\n", 100.0 * same / rows);
        Ok(())
    }

    /// One text after the other, and from threads that share a classifier.
    fn singles(&self) -> Result<()> {
        let mut table = Table::default();
        let mut other_labels = 0;
        let mut difference: f64 = 0.0;
        for _ in 0..ROUNDS {
            let result = benched(&self.exported.ours, &self.texts, &[])?;
            table.add("p50", number(&result["single"], "p50_ms")?);
            table.add("p99", number(&result["single"], "p99_ms")?);
            table.add("bulk", number(&result, "rows_per_second")?);
            table.add("threads", number(&result, "clients_rows_per_second")?);
            table.add("calls", number(&result, "clients_rows_per_second_by_calls_of_32")?);
            other_labels = other_labels.max(number(&result, "clients_other_labels")? as usize);
            difference = difference.max(number(&result, "clients_max_score_difference")?);
            let result = self.python("singles", &self.texts)?;
            let times = result["milliseconds"].as_array().context("no milliseconds")?;
            let mut times: Vec<f64> = times.iter().filter_map(Value::as_f64).collect();
            times.sort_by(f64::total_cmp);
            table.add("optimum p50", times[times.len() / 2]);
            table.add("optimum p99", times[times.len() * 99 / 100]);
        }
        let [p50, p99, peer50, peer99] = ["p50", "p99", "optimum p50", "optimum p99"].map(|name| table.median(name));
        println!(
            "single texts: nimbert p50 {p50:.2} ms, p99 {p99:.2} ms; optimum's ORTModel p50 {peer50:.2} ms, p99 {peer99:.2} ms"
        );
        println!("  nimbert / optimum: p50 {:.2}, p99 {:.2}", p50 / peer50, p99 / peer99);
        let [bulk, threads, calls] = ["bulk", "threads", "calls"].map(|name| table.median(name));
        println!(
            "  8 threads on one classifier: {threads:.0} rows/s text by text, {:.2} of all at once ({bulk:.0}); {calls:.0} in calls \
             of 32, {:.2}; {other_labels} other labels than alone, scores within {difference:.1e}\n",
            threads / bulk,
            calls / bulk
        );
        Ok(())
    }

    /// Memory while single texts are answered, of one process and of four.
    fn memory(&self) -> Result<()> {
        let texts = fs::read_to_string(workspace(&self.texts))?;
        let texts: Vec<&str> = texts.lines().take(SINGLES).collect();
        let mut ours = || self.nimbert(&["--input", "-"]);
        let mut bare = || self.bare(&self.optimum_graph(), "1", &["-"]);
        // One after the other: what two processes share would not count as private.
        let one = Answering::of(&mut ours(), &texts)?.peak;
        let other = Answering::of(&mut bare(), &texts)?.peak;
        println!("memory with single texts, at its peak, in MB: private of which dirty");
        println!("  nimbert {:.1}, {:.1}; bare {:.1}, {:.1}", one.private, one.dirty, other.private, other.dirty);
        println!("  nimbert / bare: private {:.2}, dirty {:.2}", one.private / other.private, one.dirty / other.dirty);
        for (name, start) in [("nimbert", &mut ours as &mut dyn FnMut() -> Command), ("bare", &mut bare)] {
            let processes: Vec<Answering> =
                (0..4).map(|_| Answering::of(&mut start(), &texts)).collect::<Result<_>>()?;
            let now: Vec<Memory> = processes.iter().map(Answering::now).collect();
            let sum = |figure: fn(&Memory) -> f64| now.iter().map(figure).sum::<f64>();
            println!(
                "  four processes of {name}: {:.1} MB together (proportional), of which private {:.1}, shared {:.1}",
                sum(|memory| memory.proportional),
                sum(|memory| memory.private),
                sum(|memory| memory.proportional) - sum(|memory| memory.private)
            );
        }
        println!();
        Ok(())
    }

    /// Memory by rows: short texts and a tiny model, so that a million of them take minutes.
    fn flat(&self) -> Result<()> {
        let bundle = format!("{FOLDER}/tiny");
        let export = ["export", "tests/data/tiny-bert", "--out", &bundle, "--overwrite"];
        run(&mut command(release_program("nimbert-train"), &export))?;
        print!("memory by rows (a tiny model):");
        for rows in [FEW_ROWS, MANY_ROWS] {
            let (input, labels) = (format!("{FOLDER}/rows.csv"), format!("{FOLDER}/rows-out.csv"));
            let mut file = std::io::BufWriter::new(fs::File::create(workspace(&input))?);
            writeln!(file, "id,text")?;
            for row in 0..rows {
                writeln!(file, "{row},\"a film, and one of {} to see again\"", row % 97)?;
            }
            file.flush()?;
            drop(file);
            let classify = ["classify", &bundle, "--input", &input, "--output", &labels];
            let started = Instant::now();
            let (_, peak) = super::measured(&mut command(release_program("nimbert"), &classify))?;
            let rate = rows as f64 / started.elapsed().as_secs_f64();
            print!(" {rows} rows {peak:.1} MB ({rate:.0} rows/s);");
            let lines = BufReader::new(fs::File::open(workspace(&labels))?).lines().count();
            if lines != rows + 1 {
                bail!("{labels}: expected {} lines, found {lines}", rows + 1);
            }
            fs::remove_file(workspace(&input))?;
            fs::remove_file(workspace(&labels))?;
        }
        println!("\n");
        Ok(())
    }

    /// Devices that are not here, by the library for processors and by the one for GPUs.
    fn devices(&self) -> Result<()> {
        let gpu = setup::onnx_runtime_gpu()?;
        for (name, library) in [("CPU wheel", None), ("GPU wheel", Some(gpu))] {
            for device in ["cuda", "tensorrt"] {
                let mut command = self.nimbert(&["--device", device, TEXT]);
                if let Some(library) = &library {
                    command.arg("--ort-lib").arg(workspace(library));
                }
                let finished = command.output()?;
                let message = String::from_utf8_lossy(&finished.stderr);
                let message = message.lines().last().unwrap_or_default().to_owned();
                let status = finished.status.code();
                println!(
                    "{name}, --device {device}: exit status {status:?}, {} bytes of output",
                    finished.stdout.len()
                );
                println!("  {message}");
            }
        }
        println!();
        Ok(())
    }

    fn size(&self) -> Result<()> {
        let bytes = fs::metadata(release_program("nimbert"))?.len() as f64;
        let crates = guard::crates("nimbert", &[])?;
        println!("program nimbert, stripped: {:.2} MB; {} crates beside it\n", bytes / 1e6, crates.len() - 1);
        Ok(())
    }

    /// The server under load, when its queue is full, and when it ends while it answers.
    fn load(&self) -> Result<()> {
        let program = serving_program()?;
        let load = |port: u16, clients: usize, seconds: u64| -> Result<Value> {
            let arguments = [port.to_string(), clients.to_string(), seconds.to_string()];
            let [port, clients, seconds] = arguments.each_ref().map(String::as_str);
            let script = ["benches/compare/load.py", port, clients, seconds, &self.texts];
            Ok(serde_json::from_str(output(&mut command(&self.python, &script))?.trim())?)
        };
        let server = Server::start(&program, &self.exported.ours, &[])?;
        load(server.port, CLIENTS, WARM_UP_SECONDS)?;
        let before = Memory::of(server.child.id())?;
        let result = load(server.port, CLIENTS, LOAD_SECONDS)?;
        let after = Memory::of(server.child.id())?;
        println!("serve, {CLIENTS} clients for {LOAD_SECONDS} s: {result}");
        println!(
            "  private memory after {WARM_UP_SECONDS} s of warm-up {:.1} MB, at the end {:.1} MB",
            before.private, after.private
        );
        println!("  ended by a signal: {}", server.end()?);
        let limits = ["--max-queue", "1", "--max-concurrent-requests", "4"];
        let full = Server::start(&program, &self.exported.ours, &limits)?;
        println!("  a queue of 1 and 4 requests at a time, 16 clients: {}", load(full.port, 16, 5)?["answers"]);
        full.end()?;
        let server = Server::start(&program, &self.exported.ours, &[])?;
        let port = server.port;
        let (ended, result) = std::thread::scope(|scope| {
            let clients = scope.spawn(move || load(port, 4, 2));
            std::thread::sleep(Duration::from_secs(1));
            (server.end(), clients.join().expect("a thread that does not panic"))
        });
        println!("  ended by a signal while 4 clients ask: {}; they got {}", ended?, result?["answers"]);
        Ok(())
    }
}

/// Megabytes of a process, by smaps_rollup.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Memory {
    pub(super) private: f64,
    dirty: f64,
    /// What several processes share counts in part.
    pub(super) proportional: f64,
    pub(super) resident: f64,
}

impl Memory {
    pub(super) fn of(process: u32) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
        let megabytes = |figure: &str| super::megabytes(&text, figure).unwrap_or(f64::NAN);
        let dirty = megabytes("Private_Dirty:");
        let (private, proportional) = (dirty + megabytes("Private_Clean:"), megabytes("Pss:"));
        Ok(Self { dirty, private, proportional, resident: megabytes("Rss:") })
    }

    fn max(self, other: Self) -> Self {
        Self {
            private: self.private.max(other.private),
            dirty: self.dirty.max(other.dirty),
            proportional: self.proportional.max(other.proportional),
            resident: self.resident.max(other.resident),
        }
    }
}

/// A process that has answered texts, one after the other, and waits for the next.
struct Answering {
    child: Child,
    peak: Memory,
}

impl Answering {
    /// Looks at the memory all the time, from the start of the process on.
    fn of(command: &mut Command, texts: &[&str]) -> Result<Self> {
        let shown = show(command);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context(shown)?;
        let mut stdin = child.stdin.take().context("standard input")?;
        let mut stdout = BufReader::new(child.stdout.take().context("standard output")?);
        let process = child.id();
        let done = AtomicBool::new(false);
        let peak = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut peak = Memory::default();
                while !done.load(Ordering::Relaxed) {
                    peak = Memory::of(process).map_or(peak, |memory| peak.max(memory));
                }
                peak
            });
            let mut answer = || -> Result<()> {
                for text in texts {
                    writeln!(stdin, "{text}")?;
                    stdin.flush()?;
                    let mut line = String::new();
                    if stdout.read_line(&mut line)? == 0 {
                        bail!("a process ended before it had answered");
                    }
                }
                Ok(())
            };
            let answered = answer();
            done.store(true, Ordering::Relaxed);
            answered.map(|()| watcher.join().expect("a thread that does not panic"))
        })?;
        // Left open, so that the process waits.
        child.stdin = Some(stdin);
        Ok(Self { child, peak })
    }

    fn now(&self) -> Memory {
        Memory::of(self.child.id()).unwrap_or_default()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It has nothing left to do, and ends by itself.
        let _ = self.child.wait();
    }
}

/// The program with its server, built beside the lean one, which has none.
pub(crate) fn serving_program() -> Result<PathBuf> {
    let target = format!("{FOLDER}/target");
    run(&mut cargo(&["build", "--release", "--package", "nimbert", "--features", "serve", "--target-dir", &target]))?;
    Ok(workspace(&format!("{target}/release/nimbert{}", std::env::consts::EXE_SUFFIX)))
}

/// A server that runs until it is ended.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
}

impl Server {
    pub(crate) fn start(program: &Path, bundle: &str, arguments: &[&str]) -> Result<Self> {
        Self::start_by(command(program, &[]), bundle, arguments)
    }

    /// The same, by a command that starts the program and has no arguments yet.
    fn start_by(mut command: Command, bundle: &str, arguments: &[&str]) -> Result<Self> {
        command.args(["serve", bundle, "--listen", "127.0.0.1:0"]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| show(&command))?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("standard output")?).read_line(&mut line)?;
        let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok());
        Ok(Self { child, port: port.with_context(|| format!("expected an address, found {line:?}"))? })
    }

    /// Sends the signal to end, and says how the server ended.
    pub(crate) fn end(mut self) -> Result<String> {
        let process = self.child.id().to_string();
        run(Command::new("kill").args(["-TERM", &process]))?;
        Ok(self.child.wait()?.to_string())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Where something failed before its end; one that has ended is left alone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
