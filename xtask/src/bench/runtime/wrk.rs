//! `cargo xtask bench runtime wrk`: the server with many clients, beside all texts at once.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{
    super::{benched, last_json, number},
    Bench, ROUNDS, Server, Table, serving_program,
};
use crate::{command, output};

const CLIENTS: &str = "32";
const WARM_UP: &str = "4s";
const TIME: &str = "12s";

impl Bench {
    /// wrk and the server share the cores, of which wrk takes some percent.
    pub(super) fn wrk(&self) -> Result<()> {
        // It says its version and ends with 1.
        if command("wrk", &["--version"]).output().is_err() {
            println!(
                "serve, {CLIENTS} clients: not measured: there is no program wrk (Debian has a package of that name)\n"
            );
            return Ok(());
        }
        let program = serving_program()?;
        let mut table = Table::default();
        for _ in 0..ROUNDS {
            let all = number(&benched(&self.exported.ours, &self.texts, &[])?, "rows_per_second")?;
            let server = Server::start(&program, &self.exported.ours, &[])?;
            self.asked(server.port, WARM_UP)?;
            let result = self.asked(server.port, TIME)?;
            server.end()?;
            let rate = number(&result, "requests_per_second")?;
            table.add("rate", rate);
            table.add("share", rate / all);
            table.add("p50", number(&result, "p50_ms")?);
            table.add("p99", number(&result, "p99_ms")?);
        }
        let [rate, share, p50, p99] = ["rate", "share", "p50", "p99"].map(|name| table.median(name));
        println!(
            "serve, {CLIENTS} clients by wrk on the same cores: {rate:.0} requests/s, {share:.2} of all at once; p50 {p50:.1} ms, p99 {p99:.1} ms, \
             p99 / p50 {:.2}\n",
            p99 / p50
        );
        Ok(())
    }

    fn asked(&self, port: u16, time: &str) -> Result<Value> {
        let address = format!("http://127.0.0.1:{port}");
        let settings = ["-t", "1", "-c", CLIENTS, "-d", time, "--timeout", "10s", "-s", "benches/compare/serve.lua"];
        let result = last_json(&output(command("wrk", &settings).args([&address, "--", &self.texts]))?)?;
        ensure!(number(&result, "failed")? == 0.0, "requests failed: {result}");
        Ok(result)
    }
}
