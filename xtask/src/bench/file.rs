//! `cargo xtask bench file`: a bundle as a folder, as one file, and in memory; with a cache and without; one process, and four.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Stdio},
};

use anyhow::{Context, Result, bail};

use super::{machine, runtime::Memory};
use crate::{
    build, command,
    demo::{BUNDLE, expect_bundle},
    release_program, run, workspace,
};

const FILE: &str = ".setup/bench/bundle.nimbert";
const CACHE: &str = ".setup/bench/cache";
/// Starts in turn.
const ROUNDS: usize = 15;
/// Processes that share what they can.
const PROCESSES: usize = 4;

/// A way to open it: its name, the program's first two arguments, and the cache.
type Way = (&'static str, [&'static str; 2], &'static str);

const WAYS: [Way; 6] = [
    ("folder, cache", ["open", BUNDLE], CACHE),
    ("file, cache", ["open", FILE], CACHE),
    ("bytes, cache", ["bytes", FILE], CACHE),
    ("folder", ["open", BUNDLE], "-"),
    ("file", ["open", FILE], "-"),
    ("bytes", ["bytes", FILE], "-"),
];

/// A process that is open and has answered.
struct Opened {
    child: Child,
    open: f64,
    label: f64,
}

impl Opened {
    fn start((_, arguments, cache): &Way) -> Result<Self> {
        let mut program = command(release_program("opened"), arguments);
        let mut child = program.arg(cache).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("standard output")?).read_line(&mut line)?;
        let times: Vec<f64> = line.split_whitespace().filter_map(|time| time.parse().ok()).collect();
        let [open, label] = times[..] else { bail!("opened {}: {line:?}", arguments.join(" ")) };
        Ok(Self { child, open, label })
    }

    fn memory(&self) -> Result<Memory> {
        Memory::of(self.child.id())
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // Its standard input ends, and with it the process.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

pub(crate) fn file() -> Result<()> {
    build()?;
    expect_bundle()?;
    fs::create_dir_all(workspace(".setup/bench"))?;
    let _ = fs::remove_dir_all(workspace(CACHE));
    let pack = ["pack", BUNDLE, "--out", FILE, "--overwrite"];
    run(&mut command(release_program("nimbert-train"), &pack))?;
    println!("{}\n", machine());
    // Files that were written just now are not remembered as compared.
    std::thread::sleep(std::time::Duration::from_secs(3));
    WAYS.iter().try_for_each(|way| Opened::start(way).map(drop))?;
    let mut times = vec![(Vec::new(), Vec::new()); WAYS.len()];
    for _ in 0..ROUNDS {
        for (way, (open, label)) in WAYS.iter().zip(&mut times) {
            let opened = Opened::start(way)?;
            open.push(opened.open);
            label.push(opened.label);
        }
    }
    println!(
        "| | open | first label | private | shared | of {PROCESSES} processes: private each | shared each | all (PSS) |\n\
         |---|---|---|---|---|---|---|---|"
    );
    for (way, (open, label)) in WAYS.iter().zip(times) {
        let one = Opened::start(way)?.memory()?;
        let several: Vec<Opened> = (0..PROCESSES).map(|_| Opened::start(way)).collect::<Result<_>>()?;
        let memory = several.iter().map(Opened::memory).collect::<Result<Vec<_>>>()?;
        let mean = |part: fn(&Memory) -> f64| super::mean(memory.iter().map(part)).unwrap_or(f64::NAN);
        println!(
            "| {} | {:.1} ms | {:.1} ms | {:.1} MB | {:.1} MB | {:.1} MB | {:.1} MB | {:.1} MB |",
            way.0,
            super::median(open),
            super::median(label),
            one.private,
            one.resident - one.private,
            mean(|memory| memory.private),
            mean(|memory| memory.resident - memory.private),
            mean(|memory| memory.proportional) * PROCESSES as f64,
        );
    }
    Ok(())
}
