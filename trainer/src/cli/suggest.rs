//! `nimbert-train suggest`: the texts to label next, as a file to fill in; and what that would have saved, by rows that are labelled.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use nimbert::{
    Bundle, Task,
    rows::{ReadOptions, Reader, list},
};
use nimbert_trainer::{
    Error,
    dataset::{Columns, Dataset, Row},
    embed::{Embedded, Embedder},
    html::{self, Page, Table},
    logistic::LogisticRegression,
    loss::Target,
    metrics::percent,
    model::ModelFolder,
    report,
    suggest::{CurvePoint, Pool, Simulation, labels_for_the_same, uncertainty},
    tasks::Tasks,
};

use super::{
    BundleColumnArgs, Given, check_absent, check_output, columns::repeated, features_of, place, progress, quoted,
    remark, write_text,
};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nimbert-train suggest reviews-bundle --unlabelled more.csv --out to-label.csv
  nimbert-train suggest reviews-bundle --unlabelled more.csv --data reviews.csv \\
      --count 100 --out to-label.csv
  nimbert-train fit --base models/minilm --data reviews.csv to-label.csv --out better-bundle
  nimbert-train suggest mail-bundle --unlabelled more.csv --task topic --task tone=tone_column \\
      --out to-label.csv
  nimbert-train suggest --simulate --base models/minilm --data reviews.csv --report curve.html

The file that is written has a row for each text, the most useful first: the text, an empty label to fill in, and what the bundle \
says of it (nimbert_label, nimbert_score), which fit does not read. Of a bundle with several tasks it has an empty label of each, \
to fill in as far as it is known, and what the bundle says of each (nimbert_topic, \"nimbert_topic score\").")]
pub(super) struct Args {
    /// The bundle that is to become better: a folder, or a .nimbert file
    #[arg(required_unless_present = "simulate", conflicts_with = "simulate")]
    bundle: Option<PathBuf>,
    /// Texts without labels: .csv or .tsv with a header, .jsonl or .json, or .parquet; also as .gz or .zst
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "simulate", conflicts_with = "simulate")]
    unlabelled: Vec<PathBuf>,
    /// Rows that are labelled already: nothing that says nearly the same is suggested
    #[arg(long, value_name = "FILE", num_args = 1.., required_if_eq("simulate", "true"))]
    data: Vec<PathBuf>,
    /// How many texts; of a simulation, at once
    #[arg(long, default_value_t = 50, value_name = "TEXTS", value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// The file to be made, whose name ends with .csv
    #[arg(long, value_name = "FILE", required_unless_present = "simulate", conflicts_with = "simulate")]
    out: Option<PathBuf>,
    /// Replace files that are already there
    #[arg(long)]
    overwrite: bool,
    /// Show instead what suggestions are worth: rows of --data are labelled one batch after the other, drawn at random or as
    /// suggested, and logistic regression on what --base says of them is tested on the others
    #[arg(long, requires = "base")]
    simulate: bool,
    /// The base model of a simulation: a Hugging Face folder, or the name of a model on the hub
    #[arg(long, value_name = "DIR|NAME", requires = "simulate", conflicts_with = "bundle")]
    base: Option<String>,
    /// Texts of a simulation are cut to this many tokens, special ones included
    #[arg(long, default_value_t = 128, value_name = "TOKENS", requires = "simulate", conflicts_with = "bundle")]
    max_length: usize,
    /// Also draw the simulation's curve into this page
    #[arg(long, value_name = "FILE", requires = "simulate", conflicts_with = "bundle")]
    report: Option<PathBuf>,
    /// What is drawn at random follows from it
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    cache: super::CacheArgs,
    #[command(flatten)]
    columns: BundleColumnArgs,
    /// ONNX Runtime's library [default: $ORT_DYLIB_PATH, else beside this program, in ../lib/nimbert or ../lib, its Python
    /// environment, the setup's folder, the system]
    #[arg(long, value_name = "FILE")]
    ort_lib: Option<PathBuf>,
}

/// Batches of labels in a simulation, and how often it is repeated.
const ROUNDS: usize = 7;
const REPETITIONS: u64 = 5;

pub(super) fn run(args: &Args, given: &Given) -> anyhow::Result<()> {
    given.refuse(&["--weight-column", "--unknown-label"], !args.data.is_empty(), "--data with it")?;
    args.cache.check("--simulate with it", args.simulate)?;
    given.refuse(&["--ort-lib"], !args.simulate, "a bundle with it")?;
    given.refuse(&["--overwrite"], args.out.is_some() || args.report.is_some(), "--out or --report with it")?;
    let inputs: Vec<&PathBuf> = args.unlabelled.iter().chain(&args.data).collect();
    for path in [&args.out, &args.report].into_iter().flatten() {
        check_output(path, "to write into", &inputs, args.base.as_deref().map(Path::new))?;
        if !args.overwrite {
            check_absent(path)?;
        }
    }
    match (&args.bundle, &args.out) {
        (Some(bundle), Some(out)) => suggest(args, given, bundle, out),
        _ => {
            args.columns.columns.check_separator(given)?;
            simulate(args)
        }
    }
}

/// Writes the texts to label.
fn suggest(args: &Args, given: &Given, bundle: &Path, out: &Path) -> anyhow::Result<()> {
    if !out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) {
        let (setting, expected) = ("--out", "a file whose name ends with .csv".to_owned());
        return Err(Error::Setting { setting, expected, got: out.display().to_string() }.into());
    }
    if place(out).starts_with(place(bundle)) {
        let (setting, expected) = ("--out", "a place outside of the bundle, which holds no text".to_owned());
        return Err(Error::Setting { setting, expected, got: out.display().to_string() }.into());
    }
    nimbert::load_library(args.ort_lib.as_deref())?;
    let bundle = Bundle::open(bundle)?;
    let tasks = bundle.tasks();
    let columns = args.columns.columns_of(&tasks, given)?;
    let of_texts = Columns {
        label: None,
        label_columns: Vec::new(),
        tasks: Vec::new(),
        unknown_label: None,
        weight: None,
        ..columns.clone()
    };
    let sheet = Sheet { columns: &columns, tasks: &tasks, of_labels: Tasks::of_bundle(&tasks).0 };
    sheet.check()?;
    let unlabelled = Dataset::open(&args.unlabelled, &of_texts)?;
    if let Some(pairs) = bundle.manifest.pairs.filter(|pairs| *pairs != args.columns.columns.has_pairs()) {
        let texts = |pairs| if pairs { "pairs of texts" } else { "single texts" }.to_owned();
        let (setting, expected, got) = ("--text-pair-column", texts(pairs), texts(!pairs));
        return Err(Error::Setting { setting, expected, got }.into());
    }
    if columns.read != ReadOptions::default() {
        super::message("what is written is UTF-8 with commas: fit reads it beside files that are so too");
    }
    for path in &args.unlabelled {
        let reader = Reader::open_any(path, &columns.read)?;
        let has = |name: &&String| reader.columns().is_some_and(|columns| columns.contains(name));
        for label in label_columns(&columns).filter(has) {
            let path = path.display();
            super::message(&format!("{path}: the column {label} is not read; rows with labels belong to --data"));
        }
        let is_read = |name: &&String| {
            let own = label_columns(&columns).chain([&columns.text]).chain(&columns.pair);
            own.into_iter().any(|column| column == *name)
        };
        let columns = reader.columns().unwrap_or_default();
        let left: Vec<String> = columns.iter().filter(|name| !is_read(name)).cloned().collect();
        if !left.is_empty() {
            super::message(&format!("{}: not carried over: {}", path.display(), list(&left)));
        }
    }
    let mut labelled = match args.data.is_empty() {
        true => None,
        false => Some(Dataset::open(&args.data, &columns)?),
    };
    for dataset in [Some(&unlabelled), labelled.as_ref()].into_iter().flatten() {
        remark(dataset);
    }
    // They need no label any more either.
    labelled.iter_mut().for_each(|dataset| dataset.rows.append(&mut dataset.strangers));
    let mut embedder = Embedder::open(&bundle, args.ort_lib.clone())?;
    let bar = progress(unlabelled.rows.len() + labelled.as_ref().map_or(0, |dataset| dataset.rows.len()), "texts");
    let mut read = |dataset: &Dataset| {
        let texts: Vec<&Row> = dataset.rows.iter().collect();
        embedder.read(&texts, |count| {
            bar.inc(count as u64);
            Ok(())
        })
    };
    let Embedded { features, logits } = read(&unlabelled)?;
    let labelled = labelled.as_ref().map(&mut read).transpose()?.map(|embedded| embedded.features);
    bar.finish_and_clear();
    let unsure: Vec<f32> = logits.iter().map(|logits| sheet.uncertainty(logits)).collect();
    let pool = Pool { features: &features, uncertainty: &unsure, labelled: labelled.as_ref() };
    let count = args.count as usize;
    let chosen = pool.suggest(count, args.seed)?;
    if chosen.is_empty() {
        let expected = "a text that does not say nearly the same as one that is labelled".to_owned();
        let (path, got) = (args.unlabelled[0].clone(), "none".to_owned());
        return Err(Error::Data { path, line: None, column: None, expected, got }.into());
    }
    let lines = chosen.iter().map(|&row| sheet.line(&unlabelled.rows[row], &logits[row]));
    let content: String = std::iter::once(line(sheet.names().into_iter())).chain(lines).collect();
    write_text(out, &content)?;
    let mut stdout = io::stdout();
    let (texts, all) = (chosen.len(), unlabelled.rows.len());
    write!(stdout, "{}", report::stage("to label", &format!("{texts} of {all} texts, in {}", out.display())))?;
    if texts < count.min(all) {
        write!(
            stdout,
            "{}",
            report::stage("", &format!("not {count}: the others say nearly the same as these, or as labelled ones"))
        )?;
    }
    Ok(())
}

/// The columns that are to be filled in.
fn label_columns(columns: &Columns) -> impl Iterator<Item = &String> {
    let of_tasks = columns.tasks.iter().map(|task| &task.column);
    // Either one of each kind, or those of one.
    let is_one = columns.tasks.is_empty() && columns.label_columns.is_empty();
    of_tasks.chain(&columns.label_columns).chain(columns.label.iter().filter(move |_| is_one))
}

/// The file to fill in.
struct Sheet<'a> {
    columns: &'a Columns,
    tasks: &'a [Task],
    /// Which logits are whose.
    of_labels: Tasks,
}

impl Sheet<'_> {
    /// A text's logits, by task.
    fn by_task<'a>(&'a self, logits: &'a [f32]) -> impl Iterator<Item = (&'a Task, &'a [f32])> {
        self.tasks.iter().zip(self.of_labels.iter()).map(|(task, labels)| (task, &logits[labels.ids.clone()]))
    }

    /// How unsure the bundle is of a text: the mean of its tasks, a label of each of which is what labelling gives.
    fn uncertainty(&self, logits: &[f32]) -> f32 {
        let of_tasks = self.by_task(logits).map(|(task, logits)| uncertainty(&task.decision, logits));
        of_tasks.sum::<f32>() / self.tasks.len() as f32
    }

    /// What its columns are called.
    fn names(&self) -> Vec<String> {
        let texts = std::iter::once(&self.columns.text).chain(&self.columns.pair);
        let own = self.tasks.iter().flat_map(|task| match &task.name {
            None => ["nimbert_label".to_owned(), "nimbert_score".to_owned()],
            // No task has a space in its name.
            Some(name) => [format!("nimbert_{name}"), format!("nimbert_{name} score")],
        });
        texts.chain(label_columns(self.columns)).cloned().chain(own).collect()
    }

    /// Checks that fit can tell its columns apart.
    fn check(&self) -> Result<(), Error> {
        let names = self.names();
        match repeated(&names) {
            None => Ok(()),
            Some(name) => {
                let expected = "columns of different names for texts, labels and what the bundle says";
                let setting = if self.columns.tasks.is_empty() { "--text-column" } else { "--task" };
                Err(Error::setting(setting, expected, format!("{name} twice")))
            }
        }
    }

    fn line(&self, row: &Row, logits: &[f32]) -> String {
        let said = self.by_task(logits).flat_map(|(task, logits)| {
            let scores = task.decision.scores(logits);
            let ids = task.decision.label_ids(&scores).into_iter();
            let said: Vec<&str> = ids.map(|id| task.labels[id].as_str()).collect();
            let most = scores.into_iter().fold(0.0, f32::max);
            [said.join(", "), format!("{most:.6}")]
        });
        let texts = std::iter::once(&row.text).chain(&row.pair).cloned();
        let empty = label_columns(self.columns).map(|_| String::new());
        line(texts.chain(empty).chain(said))
    }
}

fn line(cells: impl Iterator<Item = String>) -> String {
    cells.map(|cell| quoted(&cell)).collect::<Vec<_>>().join(",") + "\n"
}

/// Prints the curve, and draws it where that is asked for.
fn simulate(args: &Args) -> anyhow::Result<()> {
    if !args.columns.tasks.is_empty() {
        let expected = "--label-column instead: a simulation is of one task";
        return Err(Error::setting("--task", expected, "it").into());
    }
    let base = args.base.as_deref().expect("clap asks for it");
    let folder = ModelFolder::open(&super::base_folder(base, None)?)?;
    let tokenizer = folder.open_tokenizer(args.max_length, None)?;
    let dataset = Dataset::open(&args.data, &args.columns.columns.columns())?;
    remark(&dataset);
    let labels = dataset.labels()?;
    let simulation =
        Simulation { count: args.count as usize, rounds: ROUNDS, repetitions: REPETITIONS, seed: args.seed };
    let least = simulation.least_rows();
    if dataset.rows.len() < least {
        let expected = format!("at least {least} rows to draw {} from, or a smaller --count", simulation.labels());
        return Err(Error::Setting { setting: "--simulate", expected, got: dataset.rows.len().to_string() }.into());
    }
    let (examples, features) = features_of(&[&dataset], &labels, (&folder, &tokenizer), args.cache)?;
    let targets: Vec<&Target> = examples.iter().map(|example| &example.target).collect();
    let task = LogisticRegression {
        problem_type: args.columns.columns.problem_type(),
        classes: labels.len(),
        class_weights: None,
    };
    let bar = progress(simulation.steps(), "steps of labelling");
    let curve = simulation.run(&task, &features, &targets, || {
        bar.inc(1);
        Ok(())
    })?;
    bar.finish_and_clear();
    let row = |point: &CurvePoint| {
        let [random, suggested] = [point.random, point.suggested].map(|share| percent(Some(share)));
        vec![point.labels.to_string(), random, suggested]
    };
    let header = ["labels", "drawn at random", "suggested"].map(str::to_owned).to_vec();
    let table = Table { header, rows: curve.iter().map(row).collect(), chosen: None };
    let most = curve.last().map_or(0, |point| point.labels);
    let saved = match labels_for_the_same(&curve) {
        Some(labels) => format!("{labels:.0} suggested labels do what {most} drawn at random do"),
        None => format!("{most} suggested labels do less than as many drawn at random"),
    };
    write!(io::stdout(), "{}{}", report::table(&table), report::stage("saved", &saved))?;
    let Some(path) = &args.report else { return Ok(()) };
    let counts = [("rows", dataset.rows.len()), ("labels", labels.len())];
    let page = Page {
        title: "Labels to save".to_owned(),
        subtitle: format!("{}: logistic regression on what {base} says of the texts", dataset.name()),
        summary: counts.map(|(name, count)| (name.to_owned(), count.to_string())).to_vec(),
        warnings: vec![saved],
        labelling: curve,
        ..Page::default()
    };
    Ok(write_text(path, &html::render(&page))?)
}

#[cfg(test)]
mod tests {
    use nimbert::ProblemType;
    use nimbert_trainer::train::undecided;

    use super::*;

    #[test]
    fn a_bundle_is_as_unsure_as_its_tasks_are_on_average() {
        let task = |name: &str, labels: &[&str]| Task {
            name: Some(name.to_owned()),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            decision: undecided(ProblemType::SingleLabel),
        };
        let tasks = [task("a", &["x", "y"]), task("b", &["x", "y", "z"])];
        let columns = Columns::default();
        let sheet = Sheet { columns: &columns, tasks: &tasks, of_labels: Tasks::of_bundle(&tasks).0 };
        // Sure of the first and torn between two of the second, the other way round, and torn in both.
        let [one, other, both] = [[9.0, 0.0, 9.0, 9.0, 0.0], [9.0, 9.0, 0.0, 0.0, 9.0], [9.0, 9.0, 9.0, 9.0, 0.0]]
            .map(|logits| sheet.uncertainty(&logits));
        assert!((one - 0.5).abs() < 1e-3 && (other - 0.5).abs() < 1e-3 && both > 0.99, "{one} {other} {both}");
    }
}
