//! `cargo xtask bench runtime openvino` and `bench runtime long`: all texts, and each alone, beside OpenVINO in bf16, in NNCF's int8
//! and in fp32.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    super::{
        FOLDER, benched, median, number,
        openvino::{MAX_LENGTH, OpenVino, PEERS, Way, labels},
        write_file,
    },
    Bench, ROUNDS,
};
use crate::{command, output, release_program, run, workspace};

/// Tokens of a long text.
const LONG: &str = "512";
/// So many sentences, of 27 tokens on average, are one long text before it is cut, and so many of these are measured.
const SENTENCES_OF_LONG: usize = 30;
const LONG_TEXTS: usize = 64;

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
    /// Movie sentences.
    pub(super) fn openvino(&self) -> Result<()> {
        self.beside_openvino(&self.exported.ours, &self.texts, MAX_LENGTH)
    }

    /// Texts that fill 512 tokens.
    pub(super) fn long(&self) -> Result<()> {
        let bundle = format!("{FOLDER}/long");
        let export = ["export", &self.exported.model, "--data", &self.exported.train, "--out", &bundle, "--overwrite"];
        let settings = ["--max-length", LONG, "--variants", "cpu-int8,cpu-fp32"];
        run(command(release_program("nimbert-train"), &export).args(settings))?;
        let sentences = fs::read_to_string(workspace(&self.texts))?;
        let sentences: Vec<&str> = sentences.lines().collect();
        let texts: Vec<String> =
            sentences.chunks_exact(SENTENCES_OF_LONG).map(|chunk| chunk.join(" ") + "\n").collect();
        ensure!(texts.len() >= LONG_TEXTS, "expected {LONG_TEXTS} texts, found {}", texts.len());
        let texts = write_file("long.txt", &texts[..LONG_TEXTS].concat())?;
        println!("{LONG_TEXTS} texts of {SENTENCES_OF_LONG} sentences, cut to {LONG} tokens");
        self.beside_openvino(&bundle, &texts, LONG)
    }

    /// Tokenization counts in all of them, the start in none.
    fn beside_openvino(&self, bundle: &str, texts: &str, max_length: &str) -> Result<()> {
        let vino = OpenVino::of(&self.exported)?;
        let mut ours: Vec<(&str, Figures)> = ["cpu-int8", "cpu-fp32"].map(|name| (name, Figures::default())).into();
        let mut theirs: Vec<(&Way, Figures)> = Way::all().map(|way| (way, Figures::default())).collect();
        for _ in 0..ROUNDS {
            for (variant, figures) in &mut ours {
                let result = benched(bundle, texts, &["--variant", variant])?;
                figures.rates.push(number(&result, "rows_per_second")?);
                figures.medians.push(number(&result["single"], "p50_ms")?);
                let classify = ["classify", bundle, "--input", texts, "--variant", variant, "--json"];
                let printed = output(&mut command(release_program("nimbert"), &classify))?;
                figures.labels = printed.lines().map(label).collect::<Result<_>>()?;
            }
            for (way, figures) in &mut theirs {
                let result = vino.measure(way, texts, max_length)?;
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
