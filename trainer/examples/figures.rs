//! Figures of predictions that come as JSON lines, for comparison with other programs: `cargo xtask interop` compares them
//! with scikit-learn's.
//!
//!     echo '{"problem_type": "single_label_classification", "labels": ["a", "b"], "expected": [[0]],
//!            "scores": [[0.9, 0.1]], "label_thresholds": null}' | cargo run --release --example figures

use std::io::{BufRead, Write};

use nimbert::{Decision, ProblemType};
use nimbert_trainer::metrics::Metrics;
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    problem_type: ProblemType,
    labels: Vec<String>,
    expected: Vec<Vec<u32>>,
    scores: Vec<Vec<f32>>,
    label_thresholds: Option<Vec<f32>>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let Case { problem_type, labels, expected, scores, label_thresholds } = serde_json::from_str(&line?)?;
        let decision = Decision {
            problem_type,
            temperature: 1.0,
            abstain_threshold: None,
            label_thresholds,
            coverage: None,
            unknown_threshold: None,
        };
        let expected: Vec<&[u32]> = expected.iter().map(Vec::as_slice).collect();
        writeln!(out, "{}", serde_json::to_string(&Metrics::new(&labels, &decision, &expected, &scores))?)?;
    }
    Ok(())
}
