//! `cargo xtask bench student`: the student without attention beside its teacher's int8 graph, and beside what others make
//! without attention.

use std::fs;

use anyhow::Result;
use serde_json::Value;

use super::{
    FOLDER, TORCH, Training, benched,
    datasets::{Labelled, bbc, questions, rated},
    machine, number, percent, write_csv,
};
use crate::{build, command, output, python, setup, workspace};

const ENVIRONMENT: &str = ".setup/venv-model2vec";
const PEERS: [&str; 3] = ["model2vec[distill]==0.6.0", "scikit-learn==1.9.1", TORCH];

pub(crate) fn student() -> Result<()> {
    setup::setup()?;
    build()?;
    python::environment(ENVIRONMENT, &PEERS)?;
    println!("{}; {}; base all-MiniLM-L6-v2", machine(), PEERS[..2].join(", "));
    println!("nimbert reads 128 tokens of a text; TF-IDF all of it, and Model2Vec as many as it does by itself.\n");
    println!("| task | model | accuracy | MB | rows/s | start |");
    println!("|---|---|--:|--:|--:|--:|");
    let tasks = [
        ("movies", rated("movieReviewSnippets_GroundTruth.txt")?, 5000, 2000, 3),
        ("amazon", rated("amazonReviewSnippets_GroundTruth.txt")?, 2000, 1000, 3),
        ("TREC questions, 6 kinds", questions()?, 3900, 1000, 3),
        ("BBC news, 5 topics", bbc()?, 800, 1000, 4),
    ];
    for (task, rows, train, test, epochs) in tasks {
        let rows: Vec<Vec<String>> = rows.into_iter().map(Labelled::into_cells).collect();
        let test_rows = &rows[train..(train + test).min(rows.len())];
        let train = write_csv("student-train.csv", "text,label", &rows[..train])?;
        let test = write_csv("student-test.csv", "text,label", test_rows)?;
        let training = Training { epochs, test: Some(&test), ..Training::of_base("models/minilm", &train) };
        for (name, further) in [("nimbert, 6 layers", &[][..]), ("nimbert, --student static", &["--student", "static"])]
        {
            let accuracy = training.nimbert(further)?.int8_accuracy;
            let bundle = format!("{FOLDER}/bundle");
            let figures = benched(&bundle, &test, &[])?;
            let (speed, start) = (number(&figures, "rows_per_second")?, number(&figures, "cold_start_ms")?);
            row(task, name, accuracy, size(&bundle)?, speed, &format!("{start:.0} ms"));
        }
        let peers = ["benches/compare/static.py", "models/minilm", &train, &test];
        for line in output(&mut command(python::program(ENVIRONMENT, "python"), &peers))?.lines() {
            let peer: Value = serde_json::from_str(line)?;
            let (bytes, speed) = (number(&peer, "bytes")?, number(&peer, "rows_per_second")?);
            row(task, peer["name"].as_str().unwrap_or_default(), peer["accuracy"].as_f64(), bytes, speed, "–");
        }
    }
    Ok(())
}

fn row(task: &str, model: &str, accuracy: Option<f64>, bytes: f64, rows_per_second: f64, start: &str) {
    let (accuracy, megabytes) = (percent(accuracy), bytes / 1e6);
    println!("| {task} | {model} | {accuracy} | {megabytes:.2} | {rows_per_second:.0} | {start} |");
}

/// Of all files of a folder, in bytes.
fn size(folder: &str) -> Result<f64> {
    let mut bytes = 0;
    for entry in fs::read_dir(workspace(folder))? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes as f64)
}
