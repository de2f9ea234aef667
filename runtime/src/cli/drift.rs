//! `nimbert drift`, and `nimbert classify --summary`: whether the texts that come are still like those of before.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use nimbert::{
    Bundle, Classifier, HiddenFolder, Prediction, TextInput, behind_links,
    prediction::escaped,
    sha256,
    summary::{CHANGED, Drift, LARGELY_CHANGED, Reference, Summary, TaskSummary, characters, index},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{OutputError, message, output::is_special};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nimbert classify reviews-bundle --input monday.csv --output labels.csv --summary monday.json
  nimbert drift reviews-bundle monday.json
  nimbert drift monday.json friday.json --fail-above 0.25

Compared are shares of labels, histograms of scores and of lengths, and shares of unknown and unsure texts, by the population \
stability index (PSI; where a text may have several labels, of the label that has moved most): 0.1 is taken for a change, 0.25 for a large one. Few texts differ by chance: beside it stands what it is at \
most in 95 of 100 cases in which nothing has changed.")]
pub(super) struct Args {
    /// What was before: a file of nimbert classify --summary, or a bundle, for the texts that it was tested on
    before: PathBuf,
    /// What came later, likewise
    after: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Exit with status 1 if a figure's index is above this, and above what chance explains
    #[arg(long, value_name = "PSI")]
    fail_above: Option<f64>,
}

/// A file of `--summary`.
#[derive(Serialize, Deserialize)]
struct SummaryFile {
    /// Digest of the manifest of the bundle that has answered.
    bundle: String,
    summary: Summary,
    /// What it was tested on, if the bundle says it.
    reference: Option<Reference>,
    /// How far the summary is from that.
    drift: Vec<Drift>,
}

/// Labels whose shares are shown, of a figure that has changed.
const SHOWN: usize = 5;

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(bound) = args.fail_above.filter(|bound| bound.is_nan() || *bound < 0.0) {
        bail!("--fail-above: expected 0 or more, found {bound}");
    }
    let ((before_bundle, before), (after_bundle, after)) = (read(&args.before)?, read(&args.after)?);
    if before.tasks.iter().all(|a| after.tasks.iter().all(|b| a.task != b.task)) {
        let what = before.incomparable(&after).unwrap_or_default();
        bail!("expected answers to the same tasks on both sides, found on one side only: {what}");
    }
    if let Some(only) = before.incomparable(&after) {
        message(&format!("warning: not compared, since it is on one side only: {}", escaped(&only)));
    }
    if before_bundle != after_bundle {
        message("warning: the answers are of two bundles: what differs may be these, not the texts");
    }
    if let Some(task) = before.tasks.iter().find(|a| after.tasks.iter().any(|b| a.has_other_labels(b))) {
        let name = task.task.as_ref().map_or(String::new(), |name| format!(" of {}", escaped(name)));
        message(&format!("warning: the labels{name} are not the same on both sides"));
    }
    let drifts = before.drift(&after);
    let shown = match args.json {
        true => format!("{}\n", json!({ "texts": [before.texts, after.texts], "drift": drifts })),
        false => table(&before, &after, &drifts),
    };
    match io::stdout().lock().write_all(shown.as_bytes()) {
        // Who reads no further is told by the status.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => (),
    }
    let is_above = |drift: &Drift| args.fail_above.is_some_and(|bound| drift.psi > bound && drift.is_beyond_chance());
    Ok(if drifts.iter().any(is_above) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A summary, or that of the texts that a bundle was tested on; before it the digest of the manifest of the bundle that has answered.
fn read(path: &Path) -> anyhow::Result<(String, Summary)> {
    let (bundle, summary) = if path.is_dir() || is_packed(path) {
        let bundle = Bundle::open(path)?;
        match bundle.reference()? {
            Some(reference) => (sha256(&bundle.manifest_bytes()?), reference.summary),
            None => bail!("{}: expected a bundle with a summary of what it was tested on, found none", path.display()),
        }
    } else {
        let content = fs::read(path).with_context(|| path.display().to_string())?;
        let wrong = |got: String| {
            anyhow::anyhow!("{}: expected a file of nimbert classify --summary, found {got}", path.display())
        };
        let file: SummaryFile = serde_json::from_slice(&content).map_err(|error| wrong(error.to_string()))?;
        if !file.summary.is_sound() {
            return Err(wrong("counts that do not add up".to_owned()));
        }
        (file.bundle, file.summary)
    };
    // Of none at all nothing is as before.
    match summary.texts {
        0 => bail!("{}: expected a summary of at least one text, found 0", path.display()),
        _ => Ok((bundle, summary)),
    }
}

/// Whether it begins as a packed bundle does, whatever it is called. A pipe would give that once.
fn is_packed(path: &Path) -> bool {
    let mut start = [0; 2];
    let mut read = || fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
    path.is_file() && read().is_ok() && start == *b"PK"
}

fn table(before: &Summary, after: &Summary, drifts: &[Drift]) -> String {
    let mut table = format!("texts  {} → {}\n", before.texts, after.texts);
    let width = drifts.iter().map(|drift| escaped(&drift.name()).chars().count()).max().unwrap_or(0);
    for drift in drifts {
        let Drift { task, figure, psi, chance } = drift;
        let name = escaped(&drift.name());
        table += &format!("{name:<width$}  PSI {psi:.4}, by chance up to {chance:.4}: {}\n", verdict(drift));
        if !drift.is_beyond_chance() || figure != "labels" {
            continue;
        }
        let of_task = |summary: &'_ Summary| summary.tasks.iter().find(|summary| summary.task == *task).cloned();
        let tasks = of_task(before).zip(of_task(after));
        for (label, [a, b]) in tasks.map(|(a, b)| moved(&a, &b, [before.texts, after.texts])).unwrap_or_default() {
            let label = escaped(&label);
            table += &format!("  {label}: {:.1} % → {:.1} %\n", 100.0 * a, 100.0 * b);
        }
    }
    table
}

/// The labels whose shares have moved most, each by its own index.
fn moved(before: &TaskSummary, after: &TaskSummary, texts: [u64; 2]) -> Vec<(String, [f64; 2])> {
    let counts = |label: &String| [before, after].map(|summary| summary.labels.get(label).copied().unwrap_or(0));
    let moved = |label: &String| {
        let [a, b] = counts(label);
        index(&[a, texts[0] - a.min(texts[0])], &[b, texts[1] - b.min(texts[1])])
    };
    let share = |label: &String, side: usize| counts(label)[side] as f64 / texts[side].max(1) as f64;
    let labels: std::collections::BTreeSet<&String> = before.labels.keys().chain(after.labels.keys()).collect();
    let mut labels: Vec<(f64, &String)> = labels.into_iter().map(|label| (moved(label), label)).collect();
    labels.retain(|(index, _)| *index > 0.0);
    labels.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    labels.truncate(SHOWN);
    labels.into_iter().map(|(_, label)| (label.clone(), [share(label, 0), share(label, 1)])).collect()
}

fn verdict(drift: &Drift) -> &'static str {
    match drift.psi {
        _ if !drift.is_beyond_chance() => "as before",
        psi if psi >= LARGELY_CHANGED => "a large change",
        psi if psi >= CHANGED => "a change",
        _ => "a small change",
    }
}

/// What is counted while texts are classified.
pub(super) struct Counting {
    path: PathBuf,
    /// Beside the file, so that a folder that is not there is noticed before anything is classified. None for a device or a pipe, which is
    /// written to, not replaced.
    hidden: Option<HiddenFolder>,
    bundle: String,
    reference: Option<Reference>,
    summary: Summary,
}

impl Counting {
    /// For the file that `--summary` names.
    pub(super) fn new(path: &Path, classifier: &Classifier) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            bail!("--summary: expected a file, found -");
        }
        let bundle = classifier.bundle();
        let path = behind_links(path);
        let reason = |error| match error {
            nimbert::Error::Io { reason, .. } => OutputError { path: path.clone(), reason }.into(),
            error => anyhow::Error::from(error),
        };
        let hidden = (!is_special(&path)).then(|| HiddenFolder::beside(&path)).transpose().map_err(reason)?;
        Ok(Self {
            path,
            hidden,
            bundle: sha256(&bundle.manifest_bytes()?),
            reference: bundle.reference()?,
            summary: Summary::new(classifier.tasks()),
        })
    }

    pub(super) fn add(&mut self, text: &str, pair: Option<&str>, prediction: &Prediction) {
        self.summary.add(characters(TextInput { text, pair }), prediction);
    }

    /// Why the file is not written: what was answered went to somebody who has gone.
    pub(super) fn unwritten(self, error: anyhow::Error) -> anyhow::Error {
        OutputError { path: self.path, reason: io::Error::other(format!("{error:#}")) }.into()
    }

    /// Writes the file as a whole, and says what has changed.
    pub(super) fn write(self) -> anyhow::Result<()> {
        let Self { path, hidden, bundle, reference, summary } = self;
        let drift = reference.as_ref().map_or(Vec::new(), |reference| reference.summary.drift(&summary));
        for drift in drift.iter().filter(|drift| drift.psi >= CHANGED && drift.is_beyond_chance()) {
            let (name, psi) = (escaped(&drift.name()), drift.psi);
            let before = match reference.as_ref().map(|reference| reference.split.as_str()) {
                Some("validation") => "what the bundle was validated by",
                Some("cross-validated") => "what models like the bundle's answered to rows that they had not seen",
                Some("train") => "what the bundle was trained on",
                _ => "what the bundle was tested on",
            };
            message(&format!("{name}: {} from {before}, PSI {psi:.2}", verdict(drift)));
        }
        let content = serde_json::to_vec_pretty(&SummaryFile { bundle, summary, reference, drift })?;
        let written = match hidden {
            None => fs::write(&path, content),
            Some(hidden) => {
                let partial = hidden.path().join("summary");
                fs::write(&partial, content).and_then(|()| fs::rename(&partial, &path))
            }
        };
        Ok(written.map_err(|reason| OutputError { path, reason })?)
    }
}
