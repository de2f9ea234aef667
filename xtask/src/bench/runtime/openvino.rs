//! `cargo xtask bench runtime openvino`: all texts, and each alone, beside OpenVINO in bf16, in NNCF's int8 and in fp32.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    super::{FOLDER, has_bf16, last_json},
    Bench, ROUNDS, median,
};
use crate::{command, output, python, release_program, run, workspace};

const ENVIRONMENT: &str = ".setup/venv-openvino";
const PEERS: [&str; 3] = ["openvino==2026.4.1", "nncf==3.4.0", "tokenizers==0.22.2"];
const SCRIPT: &str = "benches/compare/by_openvino.py";
const MAX_LENGTH: &str = "128";
/// What is called how, whether the graph is NNCF's, in which precision the rest is computed, and in how many streams.
const WAYS: [(&str, bool, &str, &str); 8] = [
    ("fp32", false, "f32", "1"),
    ("fp32", false, "f32", "2"),
    ("bf16", false, "bf16", "1"),
    ("bf16", false, "bf16", "2"),
    ("int8", true, "f32", "1"),
    ("int8", true, "f32", "2"),
    ("int8, the rest bf16", true, "bf16", "1"),
    ("int8, the rest bf16", true, "bf16", "2"),
];

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
        python::environment(ENVIRONMENT, &PEERS)?;
        let python = python::program(ENVIRONMENT, "python");
        let tokenizer = format!("{}/tokenizer.json", self.exported.ours);
        let fp32 = format!("{}/model.onnx", self.exported.optimum);
        let int8 = format!("{FOLDER}/openvino-int8.xml");
        let training = format!("{FOLDER}/openvino-train.txt");
        let rows = super::csv_texts(&workspace(&format!("{FOLDER}/graphs-train.csv")))?;
        std::fs::write(workspace(&training), rows.join("\n") + "\n")?;
        run(&mut command(&python, &[SCRIPT, "quantize", &fp32, &tokenizer, MAX_LENGTH, &training, &int8]))?;

        let has_bf16 = has_bf16();
        let mut ours: Vec<(&str, Figures)> = ["cpu-int8", "cpu-fp32"].map(|name| (name, Figures::default())).into();
        let mut theirs: Vec<Figures> = WAYS.iter().map(|_| Figures::default()).collect();
        for _ in 0..ROUNDS {
            for (variant, figures) in &mut ours {
                let bench = ["bench", &self.exported.ours, "--data", &self.texts, "--json", "--variant", variant];
                let result = last_json(&output(&mut command(release_program("nimbert"), &bench))?)?;
                figures.rates.push(number(&result, "rows_per_second")?);
                figures.medians.push(number(&result["single"], "p50_ms")?);
                let printed = output(&mut self.nimbert(&["--input", &self.texts, "--variant", variant, "--json"]))?;
                figures.labels = printed.lines().map(label).collect::<Result<_>>()?;
            }
            for ((_, is_int8, precision, streams), figures) in WAYS.iter().zip(&mut theirs) {
                if *precision == "bf16" && !has_bf16 {
                    continue;
                }
                let graph = if *is_int8 { &int8 } else { &fp32 };
                let measure = [SCRIPT, "measure", graph, &tokenizer, MAX_LENGTH, &self.texts, precision, streams];
                let result = last_json(&output(&mut command(&python, &measure))?)?;
                figures.rates.push(number(&result, "rows_per_second")?);
                figures.medians.push(number(&result, "p50_ms")?);
                let labels = result["labels"].as_array().context("no labels")?;
                figures.labels = labels.iter().filter_map(Value::as_u64).collect();
            }
        }
        println!("{}; tokenization included, starts not\n", PEERS.join(", "));
        println!("| | rows/s | one text, p50 | label of fp32 |");
        println!("|---|--:|--:|--:|");
        let line = |name: String, figures: &Figures| {
            let ((rate, p50), agreement) = (figures.median(), figures.agreement(&theirs[0]));
            println!("| {name} | {rate:.0} | {p50:.2} ms | {agreement:.2} % |");
        };
        ours.iter().for_each(|(variant, figures)| line(format!("nimbert {variant}"), figures));
        for ((name, _, _, streams), figures) in
            WAYS.iter().zip(&theirs).filter(|(_, figures)| !figures.rates.is_empty())
        {
            line(format!("OpenVINO {name}, streams: {streams}"), figures);
        }
        theirs.retain(|figures| !figures.rates.is_empty());
        let best = theirs.iter().map(|figures| figures.median().0).fold(0.0, f64::max);
        let fastest = theirs.iter().map(|figures| figures.median().1).fold(f64::INFINITY, f64::min);
        for (variant, figures) in &ours {
            let (rate, p50) = figures.median();
            println!("\nnimbert {variant} / the best of OpenVINO: rows/s {:.2}, p50 {:.2}", rate / best, p50 / fastest);
        }
        println!();
        Ok(())
    }
}

fn number(value: &Value, name: &str) -> Result<f64> {
    value[name].as_f64().with_context(|| format!("no {name}"))
}

/// The id of the label in an object of `classify --json`: they are two, and named in the order of their ids.
fn label(line: &str) -> Result<u64> {
    let answer: Value = serde_json::from_str(line)?;
    let label = answer["label"].as_str().context("no label")?;
    let scores = answer["scores"].as_object().context("no scores")?;
    Ok(scores.keys().position(|name| name == label).context("no score of the label")? as u64)
}
