//! `cargo xtask bench runtime wrk`: the server with many clients, beside all texts at once.

use std::{ffi::OsStr, num::NonZero, path::Path, process::Command, thread::available_parallelism};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{
    super::{benched_by, last_json, number},
    Bench, ROUNDS, Server, Table, serving_program,
};
use crate::{command, output, release_program};

const CLIENTS: &str = "32";
const WARM_UP: &str = "4s";
const TIME: &str = "12s";

/// Who runs where.
struct Cores {
    what: String,
    /// The server's and wrk's, as taskset takes them; none: all.
    server: Option<String>,
    wrk: Option<String>,
    /// So many threads for `nimbert`; none: its default.
    threads: Option<String>,
}

impl Cores {
    /// wrk beside the server, of whose cores it takes some percent.
    fn shared() -> Self {
        Self { what: "wrk on the same cores".to_owned(), server: None, wrk: None, threads: None }
    }

    /// wrk has the last core, the server the others; none where they cannot be bound to them.
    fn apart() -> Option<Self> {
        let others = available_parallelism().map_or(1, NonZero::get).checked_sub(1).filter(|&others| others > 0)?;
        let cores = Self {
            what: format!("wrk on a core of its own, the server on {others}"),
            server: Some(format!("0-{}", others - 1)),
            wrk: Some(others.to_string()),
            threads: Some(others.to_string()),
        };
        let is_bound = |cores| bound(cores, "true").output().is_ok_and(|finished| finished.status.success());
        (is_bound(&cores.server) && is_bound(&cores.wrk)).then_some(cores)
    }

    /// Settings of `nimbert`.
    fn settings(&self) -> Vec<&str> {
        self.threads.iter().flat_map(|threads| ["--threads", threads]).collect()
    }
}

/// A program on some cores.
fn bound(cores: &Option<String>, program: impl AsRef<OsStr>) -> Command {
    let Some(cores) = cores else { return command(program, &[]) };
    let mut command = command("taskset", &["-c", cores]);
    command.arg(program);
    command
}

impl Bench {
    pub(super) fn wrk(&self) -> Result<()> {
        // It says its version and ends with 1.
        if command("wrk", &["--version"]).output().is_err() {
            println!(
                "serve, {CLIENTS} clients: not measured: there is no program wrk (Debian has a package of that name)\n"
            );
            return Ok(());
        }
        let program = serving_program()?;
        let apart = Cores::apart();
        if apart.is_none() {
            println!("serve, wrk on a core of its own: not measured: there is one core, or taskset binds to none");
        }
        apart.into_iter().chain([Cores::shared()]).try_for_each(|cores| self.wrk_on(&program, &cores))
    }

    fn wrk_on(&self, program: &Path, cores: &Cores) -> Result<()> {
        let (ours, settings) = (&self.exported.ours, cores.settings());
        let mut table = Table::default();
        for _ in 0..ROUNDS {
            let nimbert = bound(&cores.server, release_program("nimbert"));
            let all = number(&benched_by(nimbert, ours, &self.texts, &settings)?, "rows_per_second")?;
            let server = Server::start_by(bound(&cores.server, program), ours, &settings)?;
            self.asked(cores, server.port, WARM_UP)?;
            let result = self.asked(cores, server.port, TIME)?;
            server.end()?;
            let rate = number(&result, "requests_per_second")?;
            table.add("rate", rate);
            table.add("share", rate / all);
            table.add("p50", number(&result, "p50_ms")?);
            table.add("p99", number(&result, "p99_ms")?);
        }
        let [rate, share, p50, p99] = ["rate", "share", "p50", "p99"].map(|name| table.median(name));
        println!(
            "serve, {CLIENTS} clients, {}: {rate:.0} requests/s, {share:.2} of all at once; p50 {p50:.1} ms, p99 {p99:.1} ms, p99 / p50 {:.2}\n",
            cores.what,
            p99 / p50
        );
        Ok(())
    }

    fn asked(&self, cores: &Cores, port: u16, time: &str) -> Result<Value> {
        let address = format!("http://127.0.0.1:{port}");
        let settings = ["-t", "1", "-c", CLIENTS, "-d", time, "--timeout", "10s", "-s", "benches/compare/serve.lua"];
        let mut wrk = bound(&cores.wrk, "wrk");
        let result = last_json(&output(wrk.args(settings).args([&address, "--", &self.texts]))?)?;
        ensure!(number(&result, "failed")? == 0.0, "requests failed: {result}");
        Ok(result)
    }
}
