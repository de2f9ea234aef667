//! `cargo xtask demo`: the reference task, from raw sentences to labels.

use std::{fs, time::Instant};

use anyhow::{Context, Result, bail};

use crate::{build, command, release_program, run, setup, workspace};

/// The classifier that the demo makes.
pub(crate) const BUNDLE: &str = ".setup/demo/bundle";

/// Ratings nearer to 0 than this say neither.
const NEUTRAL: f64 = 0.5;

/// For what classifies with it.
pub(crate) fn expect_bundle() -> Result<()> {
    if !workspace(BUNDLE).exists() {
        bail!("{BUNDLE} is missing: cargo xtask demo makes it");
    }
    Ok(())
}

pub(crate) fn demo() -> Result<()> {
    setup::setup()?;
    build()?;
    let started = Instant::now();
    let folder = workspace(".setup/demo");
    fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
    let sentences = movies(0)?;
    write_csv("movies.csv", &sentences[..1000])?;
    let (train, nimbert) = (release_program("nimbert-train"), release_program("nimbert"));
    step("nimbert-train fit: 1,000 movie sentences, 800 for training");
    let fit = ["fit", "--base", "models/minilm", "--data", ".setup/demo/movies.csv", "--out", BUNDLE];
    run(command(&train, &fit).args(["--overwrite", "--epochs", "5", "--validation-size", "0", "--seed", "0"]))?;
    step("nimbert-train trace");
    run(&mut command(&train, &["trace", BUNDLE, "I love this movie!"]))?;
    step("nimbert verify, nimbert classify");
    run(&mut command(&nimbert, &["verify", BUNDLE]))?;
    let texts = ["I love this movie!", "A dull, lifeless sequel.", "It is what it is."];
    run(command(&nimbert, &["classify", BUNDLE]).args(texts))?;
    println!("\ndone in {:.0} s after the build; the bundle is {BUNDLE}", started.elapsed().as_secs_f64());
    Ok(())
}

fn step(name: &str) {
    println!("\n── {name}");
}

/// The sentences that are rated clearly, in an order that follows from `seed`: text and label.
pub(crate) fn movies(seed: u64) -> Result<Vec<(String, &'static str)>> {
    let path = workspace(setup::MOVIES);
    let content = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    let mut sentences = Vec::new();
    for (line, row) in (1..).zip(content.lines()) {
        let context = || format!("{}:{line}: expected id, rating and text", path.display());
        let mut fields = row.splitn(3, '\t').skip(1);
        let rating: f64 = fields.next().with_context(context)?.parse().with_context(context)?;
        let text = fields.next().with_context(context)?.trim();
        if rating.abs() >= NEUTRAL {
            sentences.push((text.to_owned(), if rating > 0.0 { "positive" } else { "negative" }));
        }
    }
    fastrand::Rng::with_seed(seed).shuffle(&mut sentences);
    Ok(sentences)
}

/// Writes labelled sentences into the demo's folder.
pub(crate) fn write_csv(name: &str, sentences: &[(String, &str)]) -> Result<()> {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let rows = sentences.iter().map(|(text, label)| format!("{},{label}\n", quoted(text)));
    let content: String = std::iter::once("text,label\n".to_owned()).chain(rows).collect();
    let path = workspace(".setup/demo").join(name);
    fs::write(&path, content).with_context(|| format!("{}", path.display()))
}
