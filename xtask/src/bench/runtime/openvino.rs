//! `cargo xtask bench runtime openvino`: all texts, and each alone, beside OpenVINO in bf16, in NNCF's int8 and in fp32.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    super::{
        benched, median, number,
        openvino::{OpenVino, PEERS, Way, labels},
    },
    Bench, ROUNDS,
};
use crate::output;

/// What was measured of one way, by round.
#[derive(Default)]
struct Figures {
    rates: Vec<f64>,
    medians: Vec<f64>,
    labels: Vec<u64>,
}

impl Figures {
    /// Rows a second, and the median time of a text alone in milliseconds.
    fn median(&self) -> (f64, f64) {
        (median(self.rates.clone()), median(self.medians.clone()))
    }

    /// The share of the texts that get the same label, in percent.
    fn agreement(&self, other: &Self) -> f64 {
        let same = self.labels.iter().zip(&other.labels).filter(|(a, b)| a == b).count();
        100.0 * same as f64 / self.labels.len() as f64
    }
}

impl Bench {
    /// Tokenization counts in all of them, the start in none.
    pub(super) fn openvino(&self) -> Result<()> {
        let vino = OpenVino::of(&self.exported)?;
        let mut ours: Vec<(&str, Figures)> = ["cpu-int8", "cpu-fp32"].map(|name| (name, Figures::default())).into();
        let mut theirs: Vec<(&Way, Figures)> = Way::all().map(|way| (way, Figures::default())).collect();
        for _ in 0..ROUNDS {
            for (variant, figures) in &mut ours {
                let result = benched(&self.exported.ours, &self.texts, &["--variant", variant])?;
                figures.rates.push(number(&result, "rows_per_second")?);
                figures.medians.push(number(&result["single"], "p50_ms")?);
                let printed = output(&mut self.nimbert(&["--input", &self.texts, "--variant", variant, "--json"]))?;
                figures.labels = printed.lines().map(label).collect::<Result<_>>()?;
            }
            for (way, figures) in &mut theirs {
                let result = vino.measure(way, &self.texts)?;
                figures.rates.push(number(&result, "rows_per_second")?);
                figures.medians.push(number(&result, "p50_ms")?);
                figures.labels = labels(&result)?;
            }
        }
        println!("{}; tokenization included, starts not\n", PEERS.join(", "));
        println!("| | rows/s | one text, p50 | label of fp32 |");
        println!("|---|--:|--:|--:|");
        let line = |name: String, figures: &Figures| {
            let ((rate, p50), agreement) = (figures.median(), figures.agreement(&theirs[0].1));
            println!("| {name} | {rate:.0} | {p50:.2} ms | {agreement:.2} % |");
        };
        ours.iter().for_each(|(variant, figures)| line(format!("nimbert {variant}"), figures));
        theirs.iter().for_each(|(way, figures)| line(way.name(), figures));
        let best = theirs.iter().map(|(_, figures)| figures.median().0).fold(0.0, f64::max);
        let fastest = theirs.iter().map(|(_, figures)| figures.median().1).fold(f64::INFINITY, f64::min);
        for (variant, figures) in &ours {
            let (rate, p50) = figures.median();
            println!("\nnimbert {variant} / the best of OpenVINO: rows/s {:.2}, p50 {:.2}", rate / best, p50 / fastest);
        }
        println!();
        Ok(())
    }
}

/// The id of the label in an object of `classify --json`: they are two, and named in the order of their ids.
fn label(line: &str) -> Result<u64> {
    let answer: Value = serde_json::from_str(line)?;
    let label = answer["label"].as_str().context("no label")?;
    let scores = answer["scores"].as_object().context("no scores")?;
    Ok(scores.keys().position(|name| name == label).context("no score of the label")? as u64)
}
