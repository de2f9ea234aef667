//! `cargo xtask bench tune`: the settings that `nimbert-train tune` finds, beside the usual ones, on rows that neither has seen.

use std::time::Instant;

use anyhow::Result;

use super::{
    FOLDER, accuracy,
    datasets::{Labelled, questions, rated},
    evaluated,
    few::{BASE, MAX_LENGTH},
    machine, movie_rows, write_csv,
};
use crate::{build, command, output, release_program, setup};

/// Rows that are learned from, and that are tested on.
const TRAIN: usize = 300;
const TEST: usize = 2000;

/// With so much time for the trials of each set, such as `10m`.
pub(crate) fn tune(budget: &str) -> Result<()> {
    setup::setup()?;
    build()?;
    println!("{}; base all-MiniLM-L6-v2, {TRAIN} rows, int8; trials of {budget}\n", machine());
    println!("| rows | as usual | tuned | gain | minutes | what was found |");
    println!("|---|--:|--:|--:|--:|---|");
    let cells = |rows: Vec<Labelled>| rows.into_iter().map(Labelled::into_cells).collect();
    let sets: [(&str, Vec<Vec<String>>); 3] = [
        ("movie sentences", movie_rows(0)?),
        ("amazon sentences", cells(rated("amazonReviewSnippets_GroundTruth.txt")?)),
        ("questions", cells(questions()?)),
    ];
    let mut gains = 0.0;
    for (name, rows) in &sets {
        let test = write_csv("tune-test.csv", "text,label", &rows[TRAIN..rows.len().min(TRAIN + TEST)])?;
        let train = write_csv("tune-train.csv", "text,label", &rows[..TRAIN])?;
        let settings = ["--base", BASE, "--max-length", MAX_LENGTH, "--data", &train, "--test-data", &test];
        let learned = |command_name: &str, further: &[&str]| -> Result<(f64, String)> {
            let bundle = format!("{FOLDER}/tune-{command_name}");
            let mut program = command(release_program("nimbert-train"), &[command_name]);
            let printed =
                output(program.args(settings).args(["--out", &bundle, "--overwrite", "--no-cache"]).args(further))?;
            Ok((100.0 * accuracy(&evaluated(&bundle, &test, &[])?)?, printed))
        };
        let (usual, _) = learned("fit", &[])?;
        let began = Instant::now();
        let (tuned, printed) = learned("tune", &["--budget", budget])?;
        let minutes = began.elapsed().as_secs_f64() / 60.0;
        let gain = tuned - usual;
        gains += gain / sets.len() as f64;
        println!("| {name} | {usual:.1} % | {tuned:.1} % | {gain:+.1} | {minutes:.1} | {} |", found(&printed));
    }
    println!("| mean | | | {gains:+.1} | | |");
    Ok(())
}

/// The options of the command line that `tune` prints, less those that were given.
fn found(printed: &str) -> String {
    let line = printed.lines().find(|line| line.contains("nimbert-train fit ")).unwrap_or_default();
    let names = ["--method", "--learning-rate", "--epochs", "--layer-decay", "--pooling"];
    let words: Vec<&str> = line.split_whitespace().collect();
    let pairs = words.windows(2).filter(|pair| names.contains(&pair[0]));
    pairs.map(|pair| pair.join(" ")).collect::<Vec<_>>().join(" ")
}
