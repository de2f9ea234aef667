//! `nimbert-train tune`: settings that are tried on folds of the training rows, most of them on one fold only (successive halving:
//! Jamieson and Talwalkar, arXiv 1502.07943). Every trial is a file, so that a run which was killed goes on, and several runs share
//! the work.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ffi::OsString,
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, Instant},
};

use clap::Parser;
use nimbert_trainer::{
    Error,
    cross_validation::{Fold, judge},
    features::Features,
    html::{self, Page, Table, TrialPoint},
    loss::Target,
    metrics::percent,
    report,
};
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{
    super::{Cli, Command, Given, progress, write_text},
    Args, Prepared, Settings, Work, fit,
    folds::is_of_method,
    method::{Method, MethodArg, PoolingArg},
    prepare, resolve, settings, tell,
};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nimbert-train tune --base models/minilm --data reviews.csv --out reviews-bundle
  nimbert-train tune --base models/minilm --data reviews.csv --out reviews-bundle \\
      --budget 1h --trials 40 --further-bases models/bge-small
  nimbert-train tune --base models/minilm --data reviews.csv --method finetune --epochs 3 \\
      --out reviews-bundle --shard 2/4

What is given (--method, --epochs, --learning-rate, --layer-decay, --pooling) is fixed, and what is not is tried. Folds are four unless \
--cross-validate says how many. All of it is tried \
on a fold of the training rows, the best third on another one, the best ninth on all; the defaults come along to the end. Test rows \
take no part. The result is the command line of a fit, which is printed and run.

Trials are kept in OUT.tune until that is done: after Ctrl-C or a crash the same command goes on from them. With --shard, several \
processes that see the same folder take a part each, and say when they wait for the others; a last one without --shard goes on \
to the end.")]
// Refused in any case: folds have no rows to judge epochs by, and a model that goes on has learned from them.
#[command(mut_args(|arg| if ["from", "rehearsal", "rehearsal_rows", "patience"].contains(&arg.get_id().as_str()) { arg.hide(true) } else { arg }))]
pub(in crate::cli) struct TuneArgs {
    #[command(flatten)]
    fit: Args,
    /// Settings that are tried, with the defaults
    #[arg(long, default_value_t = 18, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(2..))]
    trials: u16,
    /// Begin no further trial after this time, such as 90s, 20m or 2h; the fit at the end comes on top
    #[arg(long, value_name = "TIME")]
    budget: Option<Budget>,
    /// Also try these base models: Hugging Face folders, or names on the hub
    #[arg(long, value_name = "DIR|NAME,…", value_delimiter = ',')]
    further_bases: Vec<String>,
    /// Do part I of N of the trials
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
}

/// Those of the options that a fit does not have. Each has one value.
const OWN_OPTIONS: [&str; 4] = ["--trials", "--budget", "--further-bases", "--shard"];
/// The folds, unless `--cross-validate` says how many.
const FOLDS: u16 = 4;
/// Digits of a trial's name.
const TRIAL_NAME: usize = 32;
/// One of so many settings goes on to the next rung.
const KEPT: usize = 3;
/// What is drawn: the range of learning rates, evenly in their logarithm; factors of the usual number of epochs; decays by layer.
const LEARNING_RATES: [f64; 2] = [3e-5, 5e-4];
const EPOCHS: [f64; 3] = [0.5, 1.0, 2.0];
const LAYER_DECAYS: [f64; 4] = [1.0, 0.9, 0.8, 0.7];

#[derive(Debug, Clone, Copy)]
struct Budget(Duration);

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected a time such as 90s, 20m or 2h, found {text:?}");
        let unit = text.chars().last().ok_or_else(expected)?;
        let seconds = match unit {
            's' => 1.0,
            'm' => 60.0,
            'h' => 3600.0,
            _ => return Err(expected()),
        };
        let count: f64 = text[..text.len() - 1].parse().map_err(|_| expected())?;
        Duration::try_from_secs_f64(count * seconds).map(Self).map_err(|_| expected())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shard {
    index: usize,
    count: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        match parts {
            Some((index, count)) if 1 <= index && index <= count => Ok(Self { index, count }),
            _ => Err(format!("expected a part such as 1/4, the first of four, found {text:?}")),
        }
    }
}

/// Settings that are tried; what is none is as it was given, or usual.
#[derive(Debug, Clone, PartialEq)]
struct Candidate {
    /// Which of the bases.
    base: usize,
    method: Method,
    learning_rate: Option<f64>,
    epochs: Option<usize>,
    layer_decay: Option<f64>,
    pooling: Option<PoolingArg>,
}

/// What a trial leaves: what is answered to the rows of a fold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Trial {
    /// `[rows][labels]`; empty where it failed.
    logits: Vec<Vec<f32>>,
    seconds: f64,
    /// Why there are no answers.
    failure: Option<String>,
}

/// How good settings are, by the folds on which they were tried.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Score {
    folds: usize,
    accuracy: f64,
    loss: f64,
    seconds: f64,
}

/// The settings, and what their trials need.
struct Tuning<'a> {
    args: &'a TuneArgs,
    bases: Vec<Prepared>,
    /// By base: what its trials are named by, besides their settings.
    identities: Vec<String>,
    candidates: Vec<Candidate>,
    folds: Vec<Fold>,
    /// Where trials are kept.
    folder: PathBuf,
    /// What heads are solved on that have learned nothing, if they are: by base, whether they have one layer, and read the first token.
    features: BTreeMap<(usize, bool, bool), Option<Features>>,
    began: Instant,
    /// Whether the choice was made, and the fit with it begun, by a run that was stopped: of further trials it might be another.
    is_in_fit: bool,
}

/// The fit that a tuning ends in, as it was begun: a run that was stopped in it goes on with that.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Begun {
    /// Of what the choice follows from: settings, rows and folds.
    tuning: String,
    /// The same: seconds.
    budget: Option<f64>,
    /// For people: the same settings are chosen again.
    command: String,
}

impl Begun {
    fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }
}

pub(in crate::cli) fn run(args: &TuneArgs, options: &Given) -> anyhow::Result<()> {
    let began = Instant::now();
    // A run that was stopped in the fit at the end goes on with that.
    let begun = args.fit.beside_bundle("tune").join(CHOSEN);
    let has_checkpoint = args.fit.checkpoint_path().exists();
    let is_left = begun.exists() && (has_checkpoint || args.fit.out_of_fold_path().exists());
    // Without a checkpoint it learns anew, and what folds have said before may be replaced.
    let is_gone_on_from = is_left && !(args.fit.no_checkpoint && has_checkpoint);
    let resume = args.fit.resume || is_gone_on_from && !args.fit.export.overwrite;
    // All rows that are not tested on are learned from, as they are in the fit at the end.
    let cross_validate = args.fit.cross_validate.or(Some(FOLDS));
    let given = &Args { cross_validate, resume, ..args.fit.clone() };
    let settings = settings(given, options)?;
    for path in [&given.data, &given.validation_data, &given.test_data].into_iter().flatten() {
        if !path.is_file() && (path.exists() || path == Path::new("-")) {
            return Err(Error::setting("--data", "a file: the fit at the end reads it again", path.display()).into());
        }
    }
    if given.from.is_some() {
        let expected = "--base: a model that goes on has learned from the rows of folds";
        return Err(Error::setting("--from", expected, "it").into());
    }
    if given.patience.is_some() {
        let expected = "--epochs, or neither: folds have no rows to judge epochs by".to_owned();
        return Err(Error::Setting { setting: "--patience", expected, got: "it".to_owned() }.into());
    }
    let of_base = |base: &String| Args { base: Some(base.clone()), ..given.clone() };
    let bases: Vec<Args> = given.base.iter().chain(&args.further_bases).map(of_base).collect();
    let folders = bases.iter().map(resolve).collect::<Result<Vec<PathBuf>, Error>>()?;
    let stop = super::super::stop_on_interrupt()?;
    let prepared = bases.iter().zip(&folders).map(|(args, folder)| prepare(args, settings.clone(), folder, &stop));
    let prepared = prepared.collect::<anyhow::Result<Vec<_>>>()?;
    for Prepared { work, folder, examples, .. } in prepared.iter().filter(|prepared| prepared.work.args.is_smaller()) {
        let (model, _) = work.load(folder, work.method)?;
        work.check_smaller(&model, &folder.tokenizer, !examples.validation.is_empty(), settings.target_size)?;
    }
    let mut tuning = Tuning::new(args, prepared, began)?;
    let Some(best) = tuning.best()? else { return Ok(()) };
    let (table, trials) = (tuning.table(best)?, tuning.trials(best)?);
    tell(&report::table(&table));
    let command = tuning.command_line(best);
    tell(&report::stage("command", &shown(&command)));
    let folder = tuning.folder.clone();
    let chosen = Begun { tuning: tuning.digest(), budget: tuning.budget(), command: shown(&command) };
    drop(tuning);
    write_text(&begun, &serde_json::to_string(&chosen).expect("strings and a number"))?;
    let Command::Fit(chosen) = Cli::try_parse_from(&command)?.command else { unreachable!("it is a fit") };
    let chosen = Args { resume, ..*chosen };
    let settings = Settings { is_tuned: true, ..settings };
    fit(&chosen, settings, &resolve(&chosen)?, &stop)?;
    let (title, subtitle) = ("Tuning".to_owned(), shown(&command));
    let page = Page { title, subtitle, ladder: Some(table), trials, ..Page::default() };
    super::write(&given.beside_bundle("tuning.html"), &html::render(&page))?;
    // What led to the bundle is in the page.
    remove_trials(&folder)
}

/// In a folder of trials, the fit that was begun ([`Begun`]): there is no more to be tried.
const CHOSEN: &str = "chosen.json";

/// Whether it is a trial's file, that of the choice, or the hidden folder that a killed run has left of one.
fn is_trial(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let whole = match name.strip_prefix('.') {
        Some(hidden) => hidden.split_once(".partial-").map_or("", |(whole, _)| whole),
        None => &name,
    };
    let is_digest = |digest: &str| digest.len() == TRIAL_NAME && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    whole == CHOSEN || whole.strip_suffix(".json").is_some_and(is_digest)
}

/// What lies in a folder of trials.
///
/// # Errors
/// [`Error::Model`] for the first that is something else.
fn trials_in(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let unreadable = |reason| Error::Io { path: folder.to_owned(), reason };
    let entries = std::fs::read_dir(folder).map_err(unreadable)?;
    let paths = entries.map(|entry| Ok(entry.map_err(unreadable)?.path())).collect::<Result<Vec<_>, Error>>()?;
    match paths.iter().find(|path| !is_trial(path)) {
        None => Ok(paths),
        Some(other) => {
            let (path, expected) = (folder.to_owned(), "trials of a tuning, and nothing else".to_owned());
            let got = other.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Err(Error::Model { path, expected, got })
        }
    }
}

/// Removes trials and their folder, which stays if somebody has put something else into it.
fn remove_trials(folder: &Path) -> anyhow::Result<()> {
    let trials = match trials_in(folder) {
        Err(other @ Error::Model { .. }) => {
            super::super::message(&format!("it stays: {other}"));
            return Ok(());
        }
        trials => trials?,
    };
    // First of all: without trials nothing could be chosen again.
    let (chosen, trials): (Vec<_>, Vec<_>) = trials.into_iter().partition(|path| path.ends_with(CHOSEN));
    for path in chosen.into_iter().chain(trials) {
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(|reason| Error::Io { path, reason })?;
    }
    std::fs::remove_dir(folder).map_err(|reason| Error::Io { path: folder.to_owned(), reason })?;
    Ok(())
}

impl Work {
    /// The share of answers that are right, and how much is lost.
    fn right_and_loss(&self, logits: &[Vec<f32>], targets: &[&Target]) -> (f64, f64) {
        judge(&self.sources.tasks, self.train_config.loss.problem_type, logits, targets)
    }
}

impl Candidate {
    /// Whether it is a method as it usually is.
    fn is_usual(&self) -> bool {
        *self == Self::usual(self.base, self.method)
    }

    /// That.
    fn usual(base: usize, method: Method) -> Self {
        Self { base, method, learning_rate: None, epochs: None, layer_decay: None, pooling: None }
    }

    /// One that is drawn; what is given is not.
    fn drawn(args: &Args, base: usize, method: Method, rows: usize, random: &mut ChaCha8Rng) -> Self {
        let mut candidate = Self::usual(base, method);
        if method != Method::Frozen {
            let [low, high] = LEARNING_RATES.map(f64::ln);
            // Of two digits: what is printed is what is tried.
            let rate = format!("{:.1e}", random.random_range(low..high).exp()).parse().expect("a number");
            candidate.learning_rate = args.learning_rate.is_none().then_some(rate);
            let epochs = args.epochs(method, rows) as f64 * EPOCHS.choose(random).expect("some factor");
            candidate.epochs = args.epochs.is_none().then_some(epochs.round().max(1.0) as usize);
            let decay = LAYER_DECAYS.choose(random).copied();
            candidate.layer_decay = if args.layer_decay.is_none() { decay } else { None };
        }
        if args.has_linear_head(method) && args.pooling.is_none() {
            // The other one is usual.
            candidate.pooling = random.random_bool(0.5).then_some(PoolingArg::First);
        }
        candidate
    }

    /// As a fit has them.
    fn settings(&self, base: &Args) -> Args {
        Args {
            method: match self.method {
                Method::Finetune => MethodArg::Finetune,
                Method::Frozen => MethodArg::Frozen,
                Method::Contrastive => MethodArg::Contrastive,
            },
            learning_rate: self.learning_rate.or(base.learning_rate),
            epochs: self.epochs.or(base.epochs),
            layer_decay: self.layer_decay.or(base.layer_decay),
            pooling: self.pooling.or(base.pooling),
            ..base.clone()
        }
    }

    /// Names and values of those that are its own.
    fn options(&self) -> Vec<(&'static str, String)> {
        let pooling = |pooling: PoolingArg| if pooling == PoolingArg::First { "first" } else { "mean" }.to_owned();
        let options = [
            ("--learning-rate", self.learning_rate.map(|rate| format!("{rate:.1e}"))),
            ("--epochs", self.epochs.map(|epochs| epochs.to_string())),
            ("--layer-decay", self.layer_decay.map(|decay| decay.to_string())),
            ("--pooling", self.pooling.map(pooling)),
        ];
        let own = options.into_iter().filter_map(|(name, value)| Some((name, value?)));
        std::iter::once(("--method", self.method.name().to_owned())).chain(own).collect()
    }

    fn shown(&self) -> String {
        let options = self.options().into_iter().map(|(name, value)| match name {
            "--method" => value,
            _ => format!("{} {value}", name.trim_start_matches("--").replace('-', " ")),
        });
        options.collect::<Vec<_>>().join(", ")
    }
}

impl<'a> Tuning<'a> {
    fn new(args: &'a TuneArgs, bases: Vec<Prepared>, began: Instant) -> anyhow::Result<Self> {
        let Prepared { work, examples, .. } = &bases[0];
        let targets: Vec<&Target> = examples.train.iter().map(|example| &example.target).collect();
        let folds = work.asked_folds(&targets, work.args.cross_validate.expect("it was set").into())?;
        let usual = (0..bases.len())
            .flat_map(|base| bases[base].methods.usable.iter().map(move |&method| Candidate::usual(base, method)));
        let mut candidates: Vec<Candidate> = usual.collect();
        let defaults = candidates.clone();
        let mut random = ChaCha8Rng::seed_from_u64(args.fit.seed);
        // Of settings that are all given there are not so many.
        for _ in 0..100 * usize::from(args.trials) {
            if candidates.len() >= usize::from(args.trials) {
                break;
            }
            let of = defaults.choose(&mut random).expect("some method is usable");
            let drawn = Candidate::drawn(&args.fit, of.base, of.method, targets.len(), &mut random);
            let is_known = |known: &Candidate| {
                *known == drawn || (known.base, known.method) == (drawn.base, drawn.method) && drawn.is_usual()
            };
            if !candidates.iter().any(is_known) {
                candidates.push(drawn);
            }
        }
        let identities = bases
            .iter()
            .map(|Prepared { work, folder, .. }| Ok(serde_json::Value::Object(work.identity(folder)?).to_string()));
        let identities = identities.collect::<anyhow::Result<_>>()?;
        // What would end the fit is looked at before.
        work.check_checkpoint()?;
        work.check_rows(Some(targets))?;
        let folder = args.fit.beside_bundle("tune");
        let page = args.fit.beside_bundle("tuning.html");
        if !args.fit.export.overwrite {
            super::super::check_absent(&page)?;
        }
        std::fs::create_dir_all(&folder).map_err(|reason| Error::Io { path: folder.clone(), reason })?;
        trials_in(&folder)?;
        let (folds, features) = (folds.iter().collect(), BTreeMap::new());
        let is_in_fit = folder.join(CHOSEN).exists();
        let mut tuning = Self { args, bases, identities, candidates, folds, folder, features, began, is_in_fit };
        tuning.expect_begun()?;
        let there = (0..tuning.candidates.len())
            .flat_map(|candidate| (0..tuning.folds.len()).map(move |fold| (candidate, fold)))
            .filter(|&(candidate, fold)| tuning.path(candidate, fold).exists())
            .count();
        let known = if there > 0 { format!("; {there} trials are there already") } else { String::new() };
        let (settings, folds) = (tuning.candidates.len(), tuning.folds.len());
        tell(&report::stage(
            "tuning",
            &format!("{settings} settings, on up to {folds} folds of {} rows{known}", tuning.rows()),
        ));
        Ok(tuning)
    }

    fn rows(&self) -> usize {
        self.bases[0].examples.train.len()
    }

    /// Of all that the choice follows from, but for the budget.
    fn digest(&self) -> String {
        let Self { identities, candidates, folds, .. } = self;
        nimbert::sha256(format!("{identities:?} {candidates:?} {}", folds.len()).as_bytes())
    }

    fn budget(&self) -> Option<f64> {
        self.args.budget.map(|Budget(budget)| budget.as_secs_f64())
    }

    /// Checks that a fit that was begun is this tuning's: with other settings or rows its choice would be taken for theirs.
    fn expect_begun(&mut self) -> anyhow::Result<()> {
        let path = self.folder.join(CHOSEN);
        let is_shard = self.args.shard.is_some();
        // A shard chooses nothing, whenever its time is up.
        let is_ours = |begun: Begun| begun.tuning == self.digest() && (is_shard || begun.budget == self.budget());
        if !self.is_in_fit || Begun::read(&path).is_some_and(is_ours) {
            return Ok(());
        }
        if is_shard || !self.args.fit.export.overwrite {
            let expected = "the settings, rows and budget of the tuning that was stopped in its fit";
            let how = if is_shard { "without --shard, " } else { "" };
            let got = format!("others; {how}--overwrite begins anew");
            return Err(Error::Model { path, expected: expected.to_owned(), got }.into());
        }
        std::fs::remove_file(&path).map_err(|reason| Error::Io { path, reason })?;
        self.is_in_fit = false;
        Ok(())
    }

    /// The settings that are right most often on the folds that all of the last ones were tried on; none while other shards
    /// are waited for.
    fn best(&mut self) -> anyhow::Result<Option<usize>> {
        if self.args.shard.is_some() && self.is_in_fit {
            tell(&report::stage("", "the fit at the end has begun: there is nothing more to be tried"));
            return Ok(None);
        }
        let mut left: Vec<usize> = (0..self.candidates.len()).collect();
        let all = self.folds.len();
        for folds in [0..1, 1..2, 2..all].into_iter().filter(|folds| !folds.is_empty()) {
            if folds.start > 0 {
                // Whatever is there already of this rung or a later one: a run that goes on chooses as one that was not stopped.
                left = self.kept(&left, folds.start)?;
            }
            let mut missing = 0;
            for fold in folds.clone() {
                for place in 0..left.len() {
                    let is_ours = self.args.shard.is_none_or(|shard| place % shard.count + 1 == shard.index);
                    if self.path(left[place], fold).exists() {
                        continue;
                    }
                    if !is_ours {
                        missing += 1;
                        continue;
                    }
                    let is_over = |Budget(budget)| self.is_in_fit || self.began.elapsed() >= budget;
                    if self.args.budget.is_some_and(is_over) {
                        if self.args.shard.is_some() {
                            let how =
                                "the time is up: the same command without --shard goes on with what all have tried";
                            tell(&report::stage("budget", how));
                            return Ok(None);
                        }
                        return self.best_in_time(&left, folds.end).map(Some);
                    }
                    self.run_trial(left[place], fold)?;
                }
            }
            if missing > 0 {
                let waits = format!("{missing} trials of other shards are not there yet; begin again when they are");
                tell(&report::stage("waiting", &waits));
                return Ok(None);
            }
        }
        if self.args.shard.is_some() {
            let how = "all trials are there: the same command without --shard goes on";
            tell(&report::stage("", how));
            return Ok(None);
        }
        self.first_of(&left).map(Some)
    }

    /// When the time is up: of those that came to an end on most folds; of failed ones only where all have failed.
    fn best_in_time(&self, left: &[usize], wanted: usize) -> anyhow::Result<usize> {
        let scores = self.scores(left, self.folds.len())?;
        let (failed, whole): (Vec<usize>, Vec<usize>) = (0..left.len())
            .filter(|&place| scores[place].folds > 0)
            .partition(|&place| scores[place].accuracy.is_nan());
        let ended = if whole.is_empty() { &failed } else { &whole };
        let Some(most) = ended.iter().map(|&place| scores[place].folds).max() else {
            let expected = "time for a trial at least".to_owned();
            return Err(Error::Setting { setting: "--budget", expected, got: "less".to_owned() }.into());
        };
        let of_most = ended.iter().filter(|&&place| scores[place].folds == most);
        let tried: Vec<usize> = of_most.map(|&place| left[place]).collect();
        if !whole.is_empty() {
            let (count, all) = (tried.len(), left.len());
            let how = format!(
                "the time is up: {count} of {all} settings have {most} of {wanted} folds, the best of which is taken"
            );
            tell(&report::stage("budget", &how));
        }
        self.first_of(&tried)
    }

    /// By so many folds, the best third, the best first: there may not be time for all; and the best of the defaults.
    fn kept(&self, left: &[usize], folds: usize) -> anyhow::Result<Vec<usize>> {
        let order = self.order(left, folds)?;
        let is_default = |candidate: &&usize| self.candidates[**candidate].is_usual();
        let default = order.iter().find(is_default).copied();
        let mut kept = order[..order.len().div_ceil(KEPT)].to_vec();
        kept.extend(default.filter(|default| !kept.contains(default)));
        Ok(kept)
    }

    fn first_of(&self, left: &[usize]) -> anyhow::Result<usize> {
        let all = self.folds.len();
        let best = self.order(left, all)?[0];
        if self.score(best, all)?.accuracy.is_nan() {
            let failure = |fold| self.trial(best, fold).map(|trial| trial.and_then(|trial| trial.failure)).transpose();
            let why = (0..all).find_map(failure).transpose()?.unwrap_or_default();
            anyhow::bail!("no settings come to an end: {why}");
        }
        Ok(best)
    }

    /// By so many folds, the best first; of equals the one with more certainty in what is right, then the earlier one.
    fn order(&self, left: &[usize], folds: usize) -> anyhow::Result<Vec<usize>> {
        let scores = self.scores(left, folds)?;
        let mut order: Vec<usize> = (0..left.len()).collect();
        // What failed comes last.
        let accuracy = |place: usize| if scores[place].accuracy.is_nan() { -1.0 } else { scores[place].accuracy };
        order.sort_by(|&a, &b| {
            accuracy(b)
                .total_cmp(&accuracy(a))
                .then(scores[a].loss.total_cmp(&scores[b].loss))
                .then(left[a].cmp(&left[b]))
        });
        Ok(order.into_iter().map(|place| left[place]).collect())
    }

    fn scores(&self, left: &[usize], folds: usize) -> anyhow::Result<Vec<Score>> {
        left.iter().map(|&candidate| self.score(candidate, folds)).collect()
    }

    /// By those of the first `most` folds that it was tried on.
    fn score(&self, candidate: usize, most: usize) -> anyhow::Result<Score> {
        let rows = &self.bases[0].examples.train;
        let (mut logits, mut targets) = (Vec::new(), Vec::new());
        let (mut folds, mut seconds, mut has_failed) = (0, 0.0, false);
        for (index, fold) in self.folds[..most].iter().enumerate() {
            let Some(trial) = self.trial(candidate, index)? else { continue };
            folds += 1;
            seconds += trial.seconds;
            has_failed |= trial.failure.is_some();
            logits.extend(trial.logits);
            targets.extend(fold.unseen.iter().map(|&row| &rows[row].target));
        }
        let (accuracy, loss) = match has_failed || folds == 0 {
            true => (f64::NAN, f64::NAN),
            false => self.bases[0].work.right_and_loss(&logits, &targets),
        };
        Ok(Score { folds, accuracy, loss, seconds })
    }

    /// Where a trial is kept: by all that it follows from.
    fn path(&self, candidate: usize, fold: usize) -> PathBuf {
        let Candidate { base, .. } = self.candidates[candidate];
        let options = self.candidates[candidate].options();
        let all = format!("{} {options:?} {fold}", self.identities[base]);
        self.folder.join(format!("{}.json", &nimbert::sha256(all.as_bytes())[..TRIAL_NAME]))
    }

    fn trial(&self, candidate: usize, fold: usize) -> anyhow::Result<Option<Trial>> {
        let path = self.path(candidate, fold);
        let content = match std::fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(reason) => return Err(Error::Io { path, reason }.into()),
        };
        let trial: Option<Trial> = serde_json::from_slice(&content).ok();
        let rows = self.folds[fold].unseen.len();
        match trial.filter(|trial| trial.failure.is_some() || trial.logits.len() == rows) {
            Some(trial) => Ok(Some(trial)),
            None => {
                let (expected, got) =
                    (format!("a trial of {rows} rows; remove the file to try again"), "none".to_owned());
                Err(Error::Model { path, expected, got }.into())
            }
        }
    }

    fn run_trial(&mut self, index: usize, fold: usize) -> anyhow::Result<()> {
        let (began, candidate, path) = (Instant::now(), self.candidates[index].clone(), self.path(index, fold));
        let Prepared { work, folder, examples, .. } = &mut self.bases[candidate.base];
        let settings = candidate.settings(&work.args);
        let given = std::mem::replace(&mut work.args, settings);
        work.method = candidate.method;
        let rows = &examples.train;
        let mut answer = || -> anyhow::Result<Vec<Vec<f32>>> {
            let model = work.untrained(folder, candidate.method)?;
            let of_first = work.args.pooling == Some(PoolingArg::First);
            let key = (candidate.base, work.args.has_linear_head(candidate.method), of_first);
            let features = match self.features.entry(key) {
                Entry::Occupied(known) => known.into_mut().as_ref(),
                Entry::Vacant(unknown) => unknown.insert(work.head_features(&model, candidate.method, rows)?).as_ref(),
            };
            let texts = work.fold_texts(candidate.method, &self.folds[fold]);
            let bar = progress(texts, &format!("rows ({})", candidate.shown()));
            let answers = work.answer(&model, candidate.method, rows, features, &self.folds[fold], &bar);
            bar.finish_and_clear();
            answers
        };
        let answers = answer();
        work.args = given;
        let (logits, failure) = match answers {
            Ok(logits) => (logits, None),
            Err(error) if is_of_method(&error) => (Vec::new(), Some(error.to_string())),
            Err(error) => {
                if let Some(Error::Interrupted { .. }) = error.downcast_ref() {
                    super::super::message(&format!("the same command goes on from {}", self.folder.display()));
                }
                return Err(error);
            }
        };
        let trial = Trial { logits, seconds: began.elapsed().as_secs_f64(), failure };
        write_text(&path, &serde_json::to_string(&trial)?)?;
        let targets: Vec<&Target> = self.folds[fold].unseen.iter().map(|&row| &rows[row].target).collect();
        let said = match &trial.failure {
            Some(failure) => failure.clone(),
            None => percent(Some(work.right_and_loss(&trial.logits, &targets).0)),
        };
        let (count, shown) = (self.candidates.len(), candidate.shown());
        let which =
            format!("{:>2} of {count}, fold {}: {shown}: {said} in {:.1} s", index + 1, fold + 1, trial.seconds);
        tell(&report::stage("", &which));
        Ok(())
    }

    /// All settings that were tried, the best first.
    fn table(&self, best: usize) -> anyhow::Result<Table> {
        let all: Vec<usize> = (0..self.candidates.len()).collect();
        let scores = self.scores(&all, self.folds.len())?;
        let mut order = self.order(&all, self.folds.len())?;
        order.retain(|&index| scores[index].folds > 0);
        // Those that were tried on more folds are known better.
        order.sort_by_key(|&index| std::cmp::Reverse(scores[index].folds));
        let row = |&index: &usize| {
            let (candidate, Score { folds, accuracy, loss, seconds }) = (&self.candidates[index], scores[index]);
            let (right, loss) = match accuracy.is_nan() {
                true => ("failed".to_owned(), "–".to_owned()),
                false => (percent(Some(accuracy)), format!("{loss:.4}")),
            };
            vec![self.shown(candidate), folds.to_string(), right, loss, format!("{seconds:.1}")]
        };
        let header = ["settings", "folds", "right", "log loss", "seconds"].map(str::to_owned).to_vec();
        let chosen = order.iter().position(|&index| index == best);
        Ok(Table { header, rows: order.iter().map(row).collect(), chosen })
    }

    /// The same as points.
    fn trials(&self, best: usize) -> anyhow::Result<Vec<TrialPoint>> {
        let point = |(index, candidate)| {
            let Score { folds, accuracy, seconds, .. } = self.score(index, self.folds.len())?;
            let (settings, seconds) = (self.shown(candidate), seconds / folds.max(1) as f64);
            Ok((folds > 0).then_some(TrialPoint { settings, folds, seconds, accuracy, is_chosen: index == best }))
        };
        self.candidates.iter().enumerate().map(point).filter_map(anyhow::Result::transpose).collect()
    }

    /// A candidate's settings, and its base where there are several.
    fn shown(&self, candidate: &Candidate) -> String {
        let options = candidate.shown();
        match self.bases.len() {
            1 => options,
            _ => format!("{}, {options}", super::super::model_name(self.bases[candidate.base].work.args.base_path())),
        }
    }

    /// The fit with the best settings: what was given here, and they.
    fn command_line(&self, best: usize) -> Vec<OsString> {
        let candidate = &self.candidates[best];
        let mut command: Vec<OsString> = vec!["nimbert-train".into(), "fit".into()];
        let mut given = std::env::args_os().skip(2);
        while let Some(argument) = given.next() {
            let text = argument.to_string_lossy();
            let name = text.split('=').next().unwrap_or_default();
            let is_of_learning = match name {
                "--checkpoint-every" => candidate.method == Method::Frozen,
                // A GPU also reads texts in that format.
                "--compute-dtype" => candidate.method == Method::Frozen && self.args.fit.rounds_on_cpu(),
                _ => false,
            };
            let is_replaced = name == "--base" || name == "--method" || OWN_OPTIONS.contains(&name) || is_of_learning;
            match is_replaced {
                // Its value comes behind it.
                true if !text.contains('=') => drop(given.next()),
                true => {}
                false => command.push(argument),
            }
        }
        let settings = &self.bases[candidate.base].work.args;
        command.extend(["--base".into(), settings.base().into_owned().into()]);
        if self.args.fit.cross_validate.is_none() {
            let folds = settings.cross_validate.unwrap_or(FOLDS).to_string();
            command.extend(["--cross-validate".into(), folds.into()]);
        }
        command.extend(candidate.options().into_iter().flat_map(|(name, value)| [name.into(), value.into()]));
        command
    }
}

/// As a shell reads it.
fn shown(command: &[OsString]) -> String {
    let is_plain =
        |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_=./,:+%@".contains(c));
    let quoted = |argument: &OsString| {
        let text = argument.to_string_lossy();
        if is_plain(&text) { text.into_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
    };
    command.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_parts_are_read_strictly() {
        let seconds = |text: &str| text.parse::<Budget>().map(|Budget(budget)| budget.as_secs());
        assert_eq!((seconds("90s"), seconds("20m"), seconds("1.5h")), (Ok(90), Ok(1200), Ok(5400)));
        for text in ["", "20", "m", "-1m", "1d", "NaNs"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        assert_eq!("2/3".parse(), Ok(Shard { index: 2, count: 3 }));
        for text in ["0/3", "4/3", "2", "2/", "/"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_command_line_is_quoted_where_a_shell_would_take_it_apart() {
        let command = ["fit", "--data", "my file.csv", "it's", "a=b"].map(OsString::from);
        assert_eq!(shown(&command), r"fit --data 'my file.csv' 'it'\''s' a=b");
    }
}
