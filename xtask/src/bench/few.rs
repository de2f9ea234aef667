//! `cargo xtask bench few`: 8, 16 or 64 rows of each label, by the ways of `--method`, by SetFit, and by logistic regression on
//! sentence-transformers' features.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions},
    io::Write,
    slice,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    FOLDER, TORCH, accuracy,
    datasets::{Labelled, bbc, rated, topics},
    evaluated, last_json, machine, mean, median, number, percent, write_csv,
};
use crate::{build, command, output, python, release_program, setup, workspace};

pub(super) const ENVIRONMENT: &str = ".setup/venv-setfit";
pub(super) const PEERS: [&str; 6] = [
    "setfit==1.2.0",
    "sentence-transformers==6.2.0",
    "transformers==5.24.0",
    "scikit-learn==1.9.1",
    "cleanlab==2.9.0",
    TORCH,
];
const ROWS_OF_LABEL: [usize; 3] = [8, 16, 64];
const SETS: [&str; 6] = ["bbc", "r8", "r52", "20newsgroups", "movies", "amazon"];
const DRAWS: u64 = 5;
const TEST_ROWS: usize = 1000;
pub(super) const BASE: &str = "models/minilm";
pub(super) const MAX_LENGTH: &str = "128";

/// What was measured, a line each: it goes on where it was stopped.
const RECORD: &str = "few.jsonl";
const METHODS: [&str; 4] = ["auto", "frozen", "contrastive", "finetune"];

const PEER_WAYS: [&str; 3] = ["frozen", "setfit", "setfit-bf16"];

/// Who learns from the rows of a draw.
enum Way {
    /// nimbert by this `--method`.
    Nimbert(&'static str),
    /// What `benches/compare/few.py` calls so.
    Peer(&'static str),
}

impl Way {
    fn all() -> impl Iterator<Item = Self> {
        METHODS.map(Self::Nimbert).into_iter().chain(PEER_WAYS.map(Self::Peer))
    }

    fn name(&self) -> String {
        match self {
            Self::Nimbert(method) => format!("nimbert, --method {method}"),
            Self::Peer("frozen") => "sentence-transformers, logistic regression".to_owned(),
            Self::Peer("setfit-bf16") => "SetFit in bf16".to_owned(),
            Self::Peer(_) => "SetFit".to_owned(),
        }
    }
}

/// The draws and ways whose names (`bbc-8-0 SetFit`) have all of `words` in them; those that were measured before are not measured
/// again. The first draw of every set comes before the second of any.
pub(crate) fn few(words: &[&str]) -> Result<()> {
    let sizes = || ROWS_OF_LABEL.into_iter().flat_map(|count| SETS.map(|set| (set, count)));
    let draws = (0..DRAWS).flat_map(|draw| sizes().map(move |(set, count)| (set, count, draw)));
    let all = draws.flat_map(|(set, count, draw)| {
        Way::all().map(move |way| (name(set, count, draw, &way), set, count, draw, way))
    });
    let wanted: Vec<_> = all.filter(|(name, ..)| words.iter().all(|word| name.contains(word))).collect();
    ensure!(
        !wanted.is_empty(),
        "bench few: expected words of a name such as bbc-8-0 SetFit, found {}",
        words.join(" ")
    );
    setup::setup()?;
    build()?;
    python::environment(ENVIRONMENT, &PEERS)?;
    // As they are now: what is committed meanwhile is not measured.
    let versions = format!("{}; {}", machine(), PEERS.join(", "));
    println!("{versions}; base all-MiniLM-L6-v2\n");
    let mut results = measured_before()?;
    println!("{} measured before: {FOLDER}/{RECORD}, without which all is measured anew\n", results.len());
    for (key, set, count, draw, way) in wanted {
        if results.contains_key(&key) {
            continue;
        }
        let (train, test) = rows_of(set)?;
        let rows = drawn(&train, count, draw);
        let (accuracy, seconds) = learned(&way, &format!("{set}-{count}-{draw}"), &rows, &test)?;
        println!("{key}: {}, {seconds:.1} s ({} rows)", percent(Some(accuracy)), rows.len());
        let result = Measured { accuracy, seconds, versions: versions.clone() };
        result.record(&key)?;
        results.insert(key, result);
    }
    print(&results);
    Ok(())
}

fn name(set: &str, count: usize, draw: u64, way: &Way) -> String {
    format!("{set}-{count}-{draw} {}", way.name())
}

/// What a way has made of a draw.
struct Measured {
    accuracy: f64,
    /// That learning took.
    seconds: f64,
    /// Machine, commit and peers.
    versions: String,
}

impl Measured {
    fn record(&self, name: &str) -> Result<()> {
        let Self { accuracy, seconds, versions } = self;
        let line = json!({"name": name, "accuracy": accuracy, "seconds": seconds, "versions": versions});
        let mut file = OpenOptions::new().create(true).append(true).open(workspace(FOLDER).join(RECORD))?;
        Ok(file.write_all(format!("{line}\n").as_bytes())?)
    }

    /// With its name.
    fn read(line: &str) -> Result<(String, Self)> {
        let record: Value = serde_json::from_str(line)?;
        let text = |name: &str| record[name].as_str().map(str::to_owned).with_context(|| format!("no {name}"));
        let (accuracy, seconds) = (accuracy(&record)?, number(&record, "seconds")?);
        Ok((text("name")?, Self { accuracy, seconds, versions: text("versions")? }))
    }
}

fn measured_before() -> Result<BTreeMap<String, Measured>> {
    fs::create_dir_all(workspace(FOLDER))?;
    let path = workspace(FOLDER).join(RECORD);
    let content = if path.exists() { fs::read_to_string(&path)? } else { String::new() };
    let read = |(index, line)| Measured::read(line).with_context(|| format!("{}:{}", path.display(), index + 1));
    content.lines().enumerate().map(read).collect()
}

/// Of everything that was measured: a row for each set and number of rows, with the means of each way, and how far `auto` is from SetFit,
/// or from it in bf16 where f32 was not waited for, in the draws that have both.
fn print(results: &BTreeMap<String, Measured>) {
    let ways: Vec<Way> = Way::all().collect();
    let names: Vec<String> = ways.iter().map(Way::name).collect();
    println!("\n| rows of a label | {} | auto − SetFit, of draws |", names.join(" | "));
    println!("|---|{}--:|", "--:|".repeat(ways.len()));
    // By the first of the ways that was measured.
    let of_draws = |set: &str, count: usize, ways: &[Way]| -> Vec<Option<&Measured>> {
        (0..DRAWS).map(|draw| ways.iter().find_map(|way| results.get(&name(set, count, draw, way)))).collect()
    };
    // In the draws that have both.
    let both = |set: &str, count: usize, ours: &[Way], peers: &[Way]| -> Vec<(&Measured, &Measured)> {
        of_draws(set, count, ours)
            .into_iter()
            .zip(of_draws(set, count, peers))
            .filter_map(|(ours, peer)| ours.zip(peer))
            .collect()
    };
    let (auto, setfit) = ([Way::Nimbert("auto")], ["setfit", "setfit-bf16"].map(Way::Peer));
    let rows = || SETS.into_iter().flat_map(|set| ROWS_OF_LABEL.map(|count| (set, count)));
    let mut differences = Vec::new();
    for (set, count) in rows() {
        let cells = ways.iter().map(|way| {
            let results: Vec<&Measured> = of_draws(set, count, slice::from_ref(way)).into_iter().flatten().collect();
            let accuracy = mean(results.iter().map(|result| result.accuracy));
            accuracy.map_or("–".to_owned(), |mean| format!("{} ({})", percent(Some(mean)), results.len()))
        });
        let cells: Vec<String> = cells.collect();
        let compared = both(set, count, &auto, &setfit);
        let difference = mean(compared.iter().map(|(auto, peer)| 100.0 * (auto.accuracy - peer.accuracy)));
        differences.extend(difference);
        let shown = difference.map_or("–".to_owned(), |mean| format!("{mean:+.1} points, {}", compared.len()));
        println!("| {set}-{count} | {} | {shown} |", cells.join(" | "));
    }
    if let Some(mean) = mean(differences.iter().copied()) {
        println!("\nauto − SetFit: {mean:+.2} points, the mean of {} rows of the table", differences.len());
    }
    for (ours, peer) in [("contrastive", "setfit"), ("contrastive", "setfit-bf16"), ("frozen", "frozen")] {
        let (ours, peer) = ([Way::Nimbert(ours)], [Way::Peer(peer)]);
        let pairs = rows().flat_map(|(set, count)| both(set, count, &ours, &peer));
        let ratios: Vec<f64> = pairs
            .filter(|(ours, peer)| ours.versions == peer.versions)
            .map(|(ours, peer)| ours.seconds / peer.seconds)
            .collect();
        if !ratios.is_empty() {
            let count = ratios.len();
            let ([ours], [peer]) = (ours, peer);
            println!("{}: {:.2} x the time of {}, median of {count} draws", ours.name(), median(ratios), peer.name());
        }
    }
    println!("\nMeasured by:");
    let versions: BTreeSet<&str> = results.values().map(|result| result.versions.as_str()).collect();
    versions.iter().for_each(|versions| println!("{versions}"));
}

/// The accuracy on the first of the test rows, and the seconds that learning took, without loading, exporting and testing.
fn learned(way: &Way, draw: &str, rows: &[Labelled], test: &[Labelled]) -> Result<(f64, f64)> {
    let cells = |rows: &[Labelled]| -> Vec<Vec<String>> { rows.iter().cloned().map(Labelled::into_cells).collect() };
    let train = write_csv(&format!("few-{draw}.csv"), "text,label", &cells(rows))?;
    let test = write_csv(&format!("few-{draw}-test.csv"), "text,label", &cells(&test[..test.len().min(TEST_ROWS)]))?;
    match way {
        Way::Nimbert(method) => nimbert(&train, rows.len(), &test, method),
        Way::Peer(name) => peer(&train, &test, name),
    }
}

/// What to learn from, and what to test on.
pub(super) fn rows_of(name: &str) -> Result<(Vec<Labelled>, Vec<Labelled>)> {
    // All rows are of one table; the last ones are tested on.
    let of_one = |mut train: Vec<Labelled>| {
        let test = train.split_off(train.len().saturating_sub(TEST_ROWS));
        (train, test)
    };
    let divided = |name: &str| Ok((topics(&format!("{name}-train"))?, topics(&format!("{name}-test"))?));
    match name {
        "bbc" => Ok(of_one(bbc()?)),
        "movies" => Ok(of_one(rated("movieReviewSnippets_GroundTruth.txt")?)),
        "amazon" => Ok(of_one(rated("amazonReviewSnippets_GroundTruth.txt")?)),
        "20newsgroups" => divided(name),
        name => divided(&format!("reuters-{name}")),
    }
}

/// Up to `count` rows of each label that has two of them at least, as `fit` asks for.
fn drawn(rows: &[Labelled], count: usize, draw: u64) -> Vec<Labelled> {
    let mut rows = rows.to_vec();
    fastrand::Rng::with_seed(draw).shuffle(&mut rows);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    rows.retain(|row| {
        let so_far = counts.entry(row.label.clone()).or_default();
        *so_far += 1;
        *so_far <= count
    });
    rows.retain(|row| counts[&row.label] > 1);
    rows
}

fn nimbert(train: &str, rows: usize, test: &str, method: &str) -> Result<(f64, f64)> {
    let bundle = format!("{FOLDER}/few-{method}");
    let fit =
        ["fit", "--base", BASE, "--data", train, "--out", &bundle, "--method", method, "--max-length", MAX_LENGTH];
    let settings = [
        "--overwrite",
        "--no-checkpoint",
        "--no-cache",
        "--test-size",
        "0",
        "--validation-size",
        "0",
        "--variants",
        "cpu-fp32",
    ];
    let said = output(command(release_program("nimbert-train"), &fit).args(settings))?;
    // Of the head that is solved before the encoder learns, and of that behind it.
    let mut seconds = 0.0;
    for line in said.lines().filter(|line| line.starts_with("regression")) {
        let of_head = line.split_once(" s;").and_then(|(line, _)| line.rsplit(' ').next()?.parse::<f64>().ok());
        seconds += of_head.with_context(|| format!("no seconds in {line}"))?;
    }
    // Where methods were compared, the table's last column is how long each took.
    let is_header = |line: &&str| line.split_whitespace().take(3).eq(["method", "rows", "right"]);
    let compared = said.lines().skip_while(|line| !is_header(line)).skip(1);
    ensure!(method != "auto" || compared.clone().next().is_some(), "no table of methods in {said}");
    for line in compared.take_while(|line| line.starts_with(' ')) {
        let last = line.trim_end_matches(['←', ' ']).rsplit(' ').next().unwrap_or_default();
        seconds += last.parse::<f64>().with_context(|| format!("no seconds in {line}"))?;
    }
    for line in fs::read_to_string(workspace(&format!("{bundle}.metrics.jsonl")))?.lines() {
        let record: Value = serde_json::from_str(line)?;
        seconds += record["rows_per_second"].as_f64().map_or(0.0, |rate| rows as f64 / rate);
    }
    Ok((accuracy(&evaluated(&bundle, test, &[])?)?, seconds))
}

fn peer(train: &str, test: &str, way: &str) -> Result<(f64, f64)> {
    let script = ["benches/compare/few.py", way, BASE, train, test, MAX_LENGTH];
    let printed = output(&mut command(python::program(ENVIRONMENT, "python"), &script))?;
    let figures: Value = last_json(&printed)?;
    Ok((accuracy(&figures)?, number(&figures, "seconds")?))
}
