//! `cargo xtask bench edge`: the program that ships, with as much of this machine as a small box has: one core, 256 MB,
//! no swap, by a control group. Linux, as root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail};

use super::{machine, median};
use crate::{
    command,
    demo::{BUNDLE, expect_bundle},
    dist::{Target, folder},
    doors::sentences,
    output, workspace,
};

const FOLDER: &str = ".setup/bench/edge";
const MEMORY: u64 = 256_000_000;
const ROWS: usize = 10_000;
const ROUNDS: usize = 11;

/// A control group; it ends with the value.
struct Group {
    path: PathBuf,
    is_v2: bool,
}

impl Group {
    fn new() -> Result<Self> {
        let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let root = if v2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/memory" };
        let path = Path::new(root).join(format!("nimbert-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("{}: control groups are made by root", path.display()))?;
        let group = Self { path, is_v2: v2 };
        group.set(if v2 { "memory.max" } else { "memory.limit_in_bytes" }, MEMORY)?;
        let no_swap = group.set(if v2 { "memory.swap.max" } else { "memory.swappiness" }, 0);
        // The first line is a header.
        if no_swap.is_err() && fs::read_to_string("/proc/swaps")?.lines().count() > 1 {
            bail!("expected a machine without swap, or one that can forbid it to a group");
        }
        Ok(group)
    }

    fn set(&self, name: &str, value: u64) -> Result<()> {
        let path = self.path.join(name);
        fs::write(&path, value.to_string()).with_context(|| path.display().to_string())
    }

    /// The most that its processes had at once, their part of the page cache included, in MB; and how often they wanted
    /// more.
    fn peak(&self) -> Result<(f64, String)> {
        let read = |name: &str| fs::read_to_string(self.path.join(name)).with_context(|| name.to_owned());
        let (peak, failed) = match self.is_v2 {
            true => ("memory.peak", "memory.events"),
            false => ("memory.max_usage_in_bytes", "memory.failcnt"),
        };
        Ok((read(peak)?.trim().parse::<f64>()? / 1e6, read(failed)?.trim().replace('\n', ", ")))
    }

    /// A run of a program in the group, on the first core.
    fn command(&self, program: &Path) -> Command {
        let join = "echo $$ > \"$0/cgroup.procs\" && exec taskset -c 0 \"$@\"";
        let mut shell = command("sh", &["-c", join]);
        shell.arg(&self.path).arg(program).env_remove("ORT_DYLIB_PATH");
        shell
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

pub(crate) fn edge() -> Result<()> {
    if cfg!(not(target_os = "linux")) {
        bail!("control groups are Linux's");
    }
    let program = folder(&Target::host()?).join("bin/nimbert");
    expect_bundle()?;
    if !program.exists() {
        bail!("{} is missing: cargo xtask dist makes it", program.display());
    }
    let cache = workspace(FOLDER).join("cache");
    let _ = fs::remove_dir_all(&cache);
    fs::create_dir_all(workspace(FOLDER))?;
    println!("{}; one core, {} MB\n\n| | time | peak of the group |\n|---|--:|--:|", machine(), MEMORY / 1_000_000);
    let one = ["classify", BUNDLE, "a delight from start to finish"];
    let texts = sentences(ROWS)?;
    let rows = ["classify", BUNDLE, "--input", &texts, "--output", &format!("{FOLDER}/labels.jsonl")];
    let measure = |what: &str, arguments: &[&str], rounds: usize| -> Result<f64> {
        let group = Group::new()?;
        let mut seconds = Vec::new();
        for _ in 0..rounds {
            let mut run = group.command(&program);
            run.args(arguments).env("NIMBERT_CACHE", &cache);
            let began = Instant::now();
            output(&mut run)?;
            seconds.push(began.elapsed().as_secs_f64());
        }
        let (peak, failed) = group.peak()?;
        let seconds = median(seconds);
        println!("| {what} | {:.0} ms | {peak:.1} MB ({failed}) |", seconds * 1e3);
        Ok(seconds)
    };
    measure("the very first start, with one text", &one, 1)?;
    measure("a start, with one text", &one, ROUNDS)?;
    measure("without the cache", &[&one[..], &["--no-cache"]].concat(), ROUNDS)?;
    let seconds = measure(&format!("a file of {ROWS} rows"), &rows, 1)?;
    println!("\n{:.0} rows/s", ROWS as f64 / seconds);
    Ok(())
}
