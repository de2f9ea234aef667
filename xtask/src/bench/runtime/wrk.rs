//! `cargo xtask bench runtime wrk`: the server with many clients, beside all texts at once.

use std::{num::NonZero, path::Path, process::Command, thread::available_parallelism};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{
    super::{last_json, number},
    Bench, ROUNDS, Server, Table, serving_program,
};
use crate::{command, output, release_program};

const CLIENTS: &str = "32";
const WARM_UP: &str = "4s";
const TIME: &str = "12s";

/// Who runs where.
struct Cores {
    what: String,
    /// The server's, as taskset takes them, and as many threads; none: all.
    server: Option<(String, String)>,
    wrk: Option<String>,
}

impl Cores {
    /// wrk beside the server, of whose cores it takes some percent.
    fn shared() -> Self {
        Self { what: "wrk on the same cores".to_owned(), server: None, wrk: None }
    }

    /// wrk has the last core, the server the others; none where they cannot be bound to them.
    fn apart() -> Option<Self> {
        let others = available_parallelism().map_or(1, NonZero::get).checked_sub(1).filter(|&others| others > 0)?;
        let (server, wrk) = (format!("0-{}", others - 1), others.to_string());
        let is_bound =
            |cores: &String| bound(cores, Path::new("true")).output().is_ok_and(|finished| finished.status.success());
        [&server, &wrk].into_iter().all(is_bound).then(|| Self {
            what: format!("wrk on a core of its own, the server on {others}"),
            server: Some((server.clone(), others.to_string())),
            wrk: Some(wrk.clone()),
        })
    }

    /// Our program, on the server's cores.
    fn ours(&self, program: &Path, arguments: &[&str]) -> Command {
        let Some((cores, threads)) = &self.server else { return command(program, arguments) };
        let mut command = bound(cores, program);
        command.args(arguments).args(["--threads", threads]);
        command
    }

    fn wrk(&self) -> Command {
        self.wrk.as_ref().map_or_else(|| command("wrk", &[]), |core| bound(core, Path::new("wrk")))
    }
}

fn bound(cores: &str, program: &Path) -> Command {
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
        let mut table = Table::default();
        for _ in 0..ROUNDS {
            let bench = ["bench", &self.exported.ours, "--data", &self.texts, "--json"];
            let all = last_json(&output(&mut cores.ours(&release_program("nimbert"), &bench))?)?;
            let all = number(&all, "rows_per_second")?;
            let server =
                Server::spawn(cores.ours(program, &["serve", &self.exported.ours, "--listen", "127.0.0.1:0"]))?;
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
        let asked = output(cores.wrk().args(settings).args([&address, "--", &self.texts]))?;
        let result = last_json(&asked)?;
        ensure!(number(&result, "failed")? == 0.0, "requests failed: {result}");
        Ok(result)
    }
}
