//! Cross-validation: which `--method` is the best for a few rows, and how good a model is that learns from all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use indicatif::ProgressBar;
use nimbert::{Decision, ProblemType};
use nimbert_trainer::{
    Error,
    cross_validation::{Figure, Fold, Folds, OutOfFold},
    dataloader::Example,
    dataset::Place,
    evaluate::predict,
    features::Features,
    html::Table,
    label_errors::judge_folds,
    loss::Target,
    metrics::percent,
    model::{ModelFolder, SequenceClassifier},
    prepare::{Examples, Source},
    record::Record,
    report,
    tasks::{TaskLabels, Tasks},
    train::{Job, Splits, TrainConfig, train, undecided},
};
use serde_json::{Map, Value, json};

use super::{
    super::{
        doubts::{Doubt, Doubts},
        progress,
    },
    Work,
    method::{Method, MethodArg, Methods},
    tell,
};

/// With fewer training rows a label on average `--method auto` compares methods; with more, fine-tuning is the best or as good
/// (benches/runs/2026-11-27-few.md).
pub(super) const FEW_ROWS_A_LABEL: usize = 100;
/// The folds of `--method auto`.
const FOLDS: usize = 4;
/// Standard deviations from which on a method that is right more often is taken for better than the one that usually is.
const SIGNIFICANT: f64 = 2.0;

/// A method, and what it gave.
struct Trial {
    method: Method,
    /// Of the first one to all rows, of the others as long as they could be better.
    answers: OutOfFold,
    seconds: f64,
}

/// What a model learns by.
pub(super) struct Chosen {
    pub(super) method: Method,
    /// What is answered to rows that were left out, if some were.
    pub(super) answers: Option<OutOfFold>,
    /// The methods that were compared, if some were.
    pub(super) methods: Option<Table>,
    /// Figures by fold of the one, if `--cross-validate` asks for them.
    pub(super) figures: Option<Table>,
}

impl Work {
    /// The best of the methods for these rows, by what each answers to rows that were left out. Of one method that is found out
    /// where `--cross-validate` asks for it.
    pub(super) fn choose(
        &self,
        folder: &ModelFolder,
        methods: &Methods,
        examples: &Examples,
    ) -> anyhow::Result<Chosen> {
        let rows = &examples.train;
        let compared = self.compared(methods)?;
        let untried = Chosen { method: compared[0], answers: None, methods: None, figures: None };
        let asked = self.args.cross_validate.map(usize::from);
        if compared.len() == 1 && asked.is_none() {
            return Ok(untried);
        }
        let targets: Vec<&Target> = rows.iter().map(|example| &example.target).collect();
        let folds = match asked {
            Some(count) => Some(self.asked_folds(&targets, count)?),
            None => self.folds(&targets, FOLDS),
        };
        let Some(folds) = folds else {
            let (name, count) = (untried.method.name(), rows.len());
            tell(&report::stage("", &format!("{name}: {count} rows are too few to try others by")));
            return Ok(untried);
        };
        let originals = self.sources.originals();
        let judge = Judge::new(&self.sources.tasks, self.train_config.loss.problem_type, &targets, &folds, &originals);
        let trials = self.trials(folder, &compared, examples, &judge)?;
        let (chosen, table) = judge.best(&trials);
        let is_choice = compared.len() > 1;
        if is_choice {
            tell(&report::table(&table));
        }
        let Some(Trial { method, answers, .. }) = trials.into_iter().nth(chosen) else {
            unreachable!("one was chosen")
        };
        let figures = asked.map(|_| self.figures(&answers, &targets));
        if let Some(figures) = &figures {
            let by = if is_choice || self.is_tuned { ", which were also chosen by" } else { "" };
            let holds = match self.train_config.loss.problem_type {
                ProblemType::SingleLabel => "",
                ProblemType::MultiLabel => {
                    "; each label from a score of 0.5 on, where the bundle has thresholds of its own"
                }
            };
            let how = format!("{}, {} folds of {} rows in all{by}{holds}", method.name(), folds.count(), rows.len());
            tell(&report::stage("folds", &how));
            tell(&report::table(figures));
        }
        let (is_by_folds, left_out) = (self.is_by_folds(examples), answers.unanswerable());
        if is_by_folds && left_out > 0 {
            let how = format!("for scores and thresholds not counted: {left_out}, whose label no other fold has");
            tell(&report::stage("rows", &how));
        }
        let rate = self.export_config.certainty.unknown_rate.filter(|_| is_by_folds);
        if rate.is_some_and(|rate| answers.differ_by_more_than(rate)) {
            let why = "by folds, which differ by more than the share that is asked for and chance explain: by \
                       --validation-size it is surer";
            tell(&report::stage("unknown", why));
        }
        Ok(Chosen { method, answers: Some(answers), methods: is_choice.then_some(table), figures })
    }

    /// So many folds, or less where rows are few; none where there are not two.
    fn folds(&self, targets: &[&Target], count: usize) -> Option<Folds> {
        let (problem_type, classes) = (self.train_config.loss.problem_type, self.sources.labels.len());
        Folds::of_copies(problem_type, targets, &self.sources.originals(), classes, count, self.args.seed)
    }

    /// The folds of `--cross-validate`: just so many.
    pub(super) fn asked_folds(&self, targets: &[&Target], count: usize) -> Result<Folds, Error> {
        self.folds(targets, count).filter(|folds| folds.count() == count).ok_or_else(|| {
            let classes = self.sources.labels.len();
            let expected = format!("{count} training rows for each of {classes} labels on average, or less folds");
            let originals = self.sources.originals();
            let counted = targets.iter().zip(&originals).filter(|(target, _)| target.weight > 0.0);
            let rows = counted.clone().count();
            let texts = counted.map(|(_, original)| original).collect::<BTreeSet<_>>().len();
            let got = match self.sources.tasks.is_single() {
                _ if texts < count => format!("{rows} rows of {texts} different texts"),
                true => format!("{rows} rows"),
                false => {
                    format!("{} labels in {rows} rows", targets.iter().map(|target| target.ids.len()).sum::<usize>())
                }
            };
            Error::Setting { setting: "--cross-validate", expected, got }
        })
    }

    /// Those of the methods that are tried: where rows are not few, fine-tuning alone.
    fn compared(&self, methods: &Methods) -> Result<Vec<Method>, Error> {
        let rows_a_label = self.sources.rows_a_label;
        // A model that goes on is fine-tuned.
        if self.args.method != MethodArg::Auto || self.args.from.is_some() {
            return Ok(methods.usable.clone());
        }
        if rows_a_label < FEW_ROWS_A_LABEL {
            let names = methods.usable.iter().map(|method| method.name()).collect::<Vec<_>>().join(", ");
            tell(&report::stage("method", &names));
            for (method, reason) in &methods.left_out {
                tell(&report::stage("", &format!("without {}: {reason}", method.name())));
            }
            return Ok(methods.usable.clone());
        }
        self.args.check_method(Method::Finetune)?;
        let why = format!("finetune, for {FEW_ROWS_A_LABEL} rows a label or more ({rows_a_label})");
        tell(&report::stage("method", &why));
        Ok(vec![Method::Finetune])
    }

    /// Each method's answers, as far as they may decide something; one that does not get to its end is left out if there are others.
    fn trials(
        &self,
        folder: &ModelFolder,
        compared: &[Method],
        examples: &Examples,
        judge: &Judge<'_>,
    ) -> anyhow::Result<Vec<Trial>> {
        if compared.len() > 1 {
            let count = judge.folds.count();
            let how = format!("each by {count} folds, which are answered by what was learned from the others");
            tell(&report::stage("", &how));
        }
        let (mut trials, mut failure): (Vec<Trial>, _) = (Vec::new(), None);
        for &method in compared {
            let began = Instant::now();
            let is_worthwhile = |logits: &[Vec<f32>]| trials.first().is_none_or(|first| judge.can_win(logits, first));
            match self.answers(folder, method, examples, judge.folds, is_worthwhile) {
                Ok(answers) => trials.push(Trial { method, answers, seconds: began.elapsed().as_secs_f64() }),
                // Another one may do.
                Err(error) if is_of_method(&error) && compared.len() > 1 => {
                    tell(&report::stage("", &format!("without {}: {error}", method.name())));
                    failure = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match failure {
            Some(error) if trials.is_empty() => Err(error),
            _ => Ok(trials),
        }
    }

    /// A line a training row: what it is answered by the model that has not seen it.
    pub(super) fn out_of_fold_lines(&self, answers: &OutOfFold) -> String {
        let targets: Vec<&Target> = self.sources.train.iter().map(|source| &source.target).collect();
        let problem_type = self.train_config.loss.problem_type;
        let of_tasks = by_task(&self.sources.tasks, answers, &targets).into_iter();
        let of_tasks =
            of_tasks.map(|of_task| (of_task.task, of_task.answers.decision(problem_type, &of_task.targets())));
        let of_tasks: Vec<(&TaskLabels, Decision)> = of_tasks.collect();
        let line = |(row, source): (usize, &Source)| {
            let labels: Vec<&String> = source.target.ids.iter().map(|&id| &self.sources.labels[id as usize]).collect();
            let (mut answered, mut by_label) = (Vec::new(), Map::new());
            for (task, decision) in &of_tasks {
                let names = &self.sources.labels[task.ids.clone()];
                let scores = decision.scores(&answers.logits[row][task.ids.clone()]);
                answered.extend(decision.label_ids(&scores).into_iter().map(|id| &names[id]));
                by_label.extend(names.iter().cloned().zip(scores.into_iter().map(Value::from)));
            }
            let Place { file, line } = self.sources.place(source);
            let fold = answers.folds.of_row(row) + 1;
            let line = json!({
                "file": file, "line": line, "fold": fold, "labels": labels, "answer": answered, "scores": by_label
            });
            line.to_string() + "\n"
        };
        self.sources.train.iter().enumerate().map(line).collect()
    }

    /// How far the labels of the training rows are believed by the models that have not seen them, those of each task by themselves.
    pub(super) fn doubts(&self, answers: &OutOfFold) -> Doubts {
        let targets: Vec<&Target> = self.sources.train.iter().map(|source| &source.target).collect();
        let problem_type = self.train_config.loss.problem_type;
        let mut doubts = Vec::new();
        for of_task in by_task(&self.sources.tasks, answers, &targets) {
            let labels = &self.sources.labels[of_task.task.ids.clone()];
            let judged = judge_folds(&of_task.answers, problem_type, &of_task.targets());
            for ((&row, target), judgement) in of_task.rows.iter().zip(&of_task.targets).zip(judged) {
                let source = &self.sources.train[row];
                let given: Vec<&str> = target.ids.iter().map(|&id| labels[id as usize].as_str()).collect();
                let text = self.sources.row(source).shown();
                doubts.push(Doubt::new(self.sources.place(source), text, &given, judgement, labels));
            }
        }
        Doubts::new(doubts)
    }

    /// What models that learn by `method` answer to rows that they have not seen, as long as `is_worthwhile` says so of the answers
    /// until then.
    fn answers(
        &self,
        folder: &ModelFolder,
        method: Method,
        Examples { train: rows, strangers, .. }: &Examples,
        folds: &Folds,
        is_worthwhile: impl Fn(&[Vec<f32>]) -> bool,
    ) -> anyhow::Result<OutOfFold> {
        let nothing = folds.unanswered();
        if !is_worthwhile(&nothing.logits) {
            return Ok(nothing);
        }
        let model = self.untrained(folder, method)?;
        let features = self.head_features(&model, method, rows)?;
        let untrained = model.parameters().snapshot()?;
        let bar = progress(
            folds.iter().map(|fold| self.fold_texts(method, &fold)).sum(),
            &format!("rows ({})", method.name()),
        );
        let mut distances = self.export_config.certainty.unknown_rate.map(|_| vec![0.0; rows.len()]);
        let answers = folds.answers(is_worthwhile, |fold| -> anyhow::Result<_> {
            model.parameters().restore(&untrained)?;
            let logits = self.answer(&model, method, rows, features.as_ref(), fold, &bar)?;
            if let Some(distances) = &mut distances {
                let [seen, unseen] = [&fold.seen, &fold.unseen].map(|of| of.iter().map(|&row| &rows[row]));
                if let Some(distance) = self.distance(&model, seen, &strangers.train)? {
                    let of_unseen = self.distances(&distance, &model, unseen)?;
                    let of_unseen = fold.unseen.iter().zip(of_unseen);
                    of_unseen.for_each(|(&row, of_row)| distances[row] = of_row / distance.spread());
                }
            }
            Ok(logits)
        });
        bar.finish_and_clear();
        Ok(OutOfFold { distances: distances.unwrap_or_default(), ..answers? })
    }

    /// The model that learns by `method`, before it does.
    pub(super) fn untrained(&self, folder: &ModelFolder, method: Method) -> Result<SequenceClassifier, Error> {
        let (mut model, _) = self.load(folder, method)?;
        if let Some(layers) = self.args.frozen_layers() {
            model.freeze(layers)?;
        }
        Ok(model)
    }

    /// The texts that are learned from for a fold, each as often as it is read.
    pub(super) fn fold_texts(&self, method: Method, fold: &Fold) -> usize {
        match method {
            Method::Frozen => 0,
            _ => self.fold_config(method, fold.seen.len()).epochs * fold.seen.len(),
        }
    }

    /// The logits of the rows that a fold leaves out.
    pub(super) fn answer(
        &self,
        model: &SequenceClassifier,
        method: Method,
        rows: &[Example],
        features: Option<&Features>,
        fold: &Fold,
        bar: &ProgressBar,
    ) -> anyhow::Result<Vec<Vec<f32>>> {
        if let Some(features) = features
            && let Some(frozen) = self.solve_head_of((model, method), features, rows, &fold.seen)?
        {
            return Ok(frozen.logits(&features.select(&fold.unseen)));
        }
        let seen: Vec<Example> = fold.seen.iter().map(|&row| rows[row].clone()).collect();
        let config = self.fold_config(method, seen.len());
        let splits = Splits { train: &seen, validation: &[], test: &[] };
        let job = Job { splits, config: &config, teacher: None, checkpoints: None, compute: &self.compute };
        let training = train(model, job, &self.stop, |record| match record {
            Record::Step(_) => bar.inc(config.step_rows().min(seen.len()) as u64),
            Record::Epoch(_) => {}
        })?;
        if let Some(reason) = training.stopped {
            return Err(reason.into());
        }
        if self.is_settled(method) {
            // It has a bar of its own.
            bar.suspend(|| self.settle_head(model, &seen, || self.check_stop("the encoder's reading of a fold")))?;
        }
        let elsewhere = if self.compute.is_fused() { None } else { Some(model.on(&self.compute)?) };
        let unseen = fold.unseen.iter().map(|&row| rows[row].windows.as_slice());
        Ok(predict(elsewhere.as_ref().unwrap_or(model), unseen, config.batch_size)?)
    }

    /// As the model learns that ships, but for the choice of an epoch.
    fn fold_config(&self, method: Method, rows: usize) -> TrainConfig {
        TrainConfig { patience: None, ..self.config(method, rows) }
    }

    /// Mean and deviation of the figures of each task.
    fn figures(&self, answers: &OutOfFold, targets: &[&Target]) -> Table {
        let (problem_type, mut rows) = (self.train_config.loss.problem_type, Vec::new());
        let mut add = |task: &str, Figure { name, mean, deviation }: Figure| {
            let deviation = deviation.map_or("–".to_owned(), |deviation| format!("± {deviation:.4}"));
            rows.push(vec![task.to_owned() + name, format!("{mean:.4}"), deviation]);
        };
        for of_task in by_task(&self.sources.tasks, answers, targets) {
            let labels = &self.sources.labels[of_task.task.ids.clone()];
            let name = report::of_task(of_task.task.name.as_deref());
            let figures = of_task.answers.figures(labels, problem_type, &of_task.targets());
            figures.into_iter().for_each(|figure| add(&name, figure));
        }
        // A text is unknown to all tasks, or to none.
        let unknown = self.export_config.certainty.unknown_rate.and_then(|rate| answers.unknown(rate));
        unknown.into_iter().for_each(|figure| add("", figure));
        Table { header: ["figure", "mean", "deviation"].map(str::to_owned).to_vec(), rows, chosen: None }
    }
}

/// What was answered to a task.
struct TaskAnswers<'a> {
    task: &'a TaskLabels,
    /// The rows that have a label of it, and what they have.
    rows: Vec<usize>,
    targets: Vec<Target>,
    answers: OutOfFold,
}

impl TaskAnswers<'_> {
    fn targets(&self) -> Vec<&Target> {
        self.targets.iter().collect()
    }
}

/// Whether it is the method that these rows and settings do not suit.
pub(super) fn is_of_method(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::Diverged { .. } | Error::NothingTrained { .. }))
}

/// The answers to each task.
fn by_task<'a>(tasks: &'a Tasks, answers: &OutOfFold, targets: &[&Target]) -> Vec<TaskAnswers<'a>> {
    let of_task = |task: &'a TaskLabels| {
        let (rows, targets) = task.targets(targets.iter().copied());
        TaskAnswers { task, answers: answers.of_task(task, &rows), rows, targets }
    };
    tasks.iter().map(of_task).collect()
}

/// What methods are compared by: how many right answers each gave to a text. Rows without a weight do not count; those with the same
/// text, which are in one fold, are no evidence of their own.
struct Judge<'a> {
    tasks: &'a Tasks,
    problem_type: ProblemType,
    targets: &'a [&'a Target],
    folds: &'a Folds,
    /// The rows of each text that count.
    texts: Vec<Vec<usize>>,
}

impl<'a> Judge<'a> {
    /// `originals` has the first row with each row's text.
    fn new(
        tasks: &'a Tasks,
        problem_type: ProblemType,
        targets: &'a [&'a Target],
        folds: &'a Folds,
        originals: &[usize],
    ) -> Self {
        let mut texts = BTreeMap::<usize, Vec<usize>>::new();
        for row in (0..targets.len()).filter(|&row| folds.counts(row)) {
            texts.entry(originals[row]).or_default().push(row);
        }
        Self { tasks, problem_type, targets, folds, texts: texts.into_values().collect() }
    }

    /// Right answers to each text; none where it was not answered.
    fn hits(&self, logits: &[Vec<f32>]) -> Vec<Option<usize>> {
        let decision = undecided(self.problem_type);
        let of_row = |&row: &usize| {
            let logits = std::slice::from_ref(&logits[row]);
            (!logits[0].is_empty()).then(|| self.tasks.hits(&decision, logits, [self.targets[row].ids.as_slice()]))
        };
        self.texts.iter().map(|rows| rows.iter().map(of_row).sum()).collect()
    }

    /// The answers that are asked for to each text.
    fn asked(&self) -> Vec<usize> {
        let of_row = |&row: &usize| self.tasks.answers([self.targets[row].ids.as_slice()]);
        self.texts.iter().map(|rows| rows.iter().map(of_row).sum()).collect()
    }

    /// Whether a method with these answers could still be chosen over the first of the trials, were it right in all that is left.
    fn can_win(&self, logits: &[Vec<f32>], first: &Trial) -> bool {
        best_sign(&self.hits(logits), &self.hits(&first.answers.logits), &self.asked()) >= SIGNIFICANT
    }

    /// The first of the trials, or the one that is right most often of those which are so more often than it by more than chance. Of
    /// several tasks losses are summed.
    fn best(&self, trials: &[Trial]) -> (usize, Table) {
        let hits: Vec<Vec<Option<usize>>> = trials.iter().map(|trial| self.hits(&trial.answers.logits)).collect();
        let asked = self.asked();
        let signs: Vec<f64> = hits.iter().map(|of_trial| sign(of_trial, &hits[0])).collect();
        let right = |trial: usize| hits[trial].iter().flatten().sum::<usize>();
        let better = (1..trials.len()).rev().filter(|&trial| signs[trial] >= SIGNIFICANT);
        let chosen = better.max_by_key(|&trial| right(trial)).unwrap_or(0);
        let loss = |trial: &Trial| {
            let of_tasks = by_task(self.tasks, &trial.answers, self.targets).into_iter();
            of_tasks.map(|of_task| of_task.answers.loss(self.problem_type, &of_task.targets())).sum::<f64>()
        };
        let row = |(index, trial): (usize, &Trial)| {
            let answered: usize = hits[index]
                .iter()
                .zip(&self.texts)
                .filter(|(hits, _)| hits.is_some())
                .map(|(_, rows)| rows.len())
                .sum();
            let all: usize = self.texts.iter().map(Vec::len).sum();
            let asked = hits[index].iter().zip(&asked).filter_map(|(hits, asked)| hits.and(Some(*asked)));
            let share = right(index) as f64 / asked.sum::<usize>().max(1) as f64;
            let shown = |figure: Option<String>| figure.unwrap_or_else(|| "–".to_owned());
            vec![
                trial.method.name().to_owned(),
                answered.to_string(),
                shown((answered > 0).then(|| percent(Some(share)))),
                shown((answered == all).then(|| format!("{:.4}", loss(trial)))),
                shown((index > 0 && answered > 0).then(|| format!("{:+.1}", signs[index]))),
                format!("{:.1}", trial.seconds),
            ]
        };
        let rows = trials.iter().enumerate().map(row).collect();
        let header = ["method", "rows", "right", "log loss", "sigmas", "seconds"].map(str::to_owned).to_vec();
        (chosen, Table { header, rows, chosen: Some(chosen) })
    }
}

/// By how many standard deviations one has more right answers than another, those to each text that it answered, as far as it is
/// chance which of them is where they differ (McNemar's test, if there is an answer a text; a text's answers to several tasks, and of
/// several rows, go together).
fn sign(one: &[Option<usize>], other: &[Option<usize>]) -> f64 {
    in_deviations(differences(one, other))
}

/// What that can be at most, or else something negative, when the one has answered all texts, which ask for so many answers each. The
/// other has.
fn best_sign(one: &[Option<usize>], other: &[Option<usize>], asked: &[usize]) -> f64 {
    let left = one.iter().zip(other).zip(asked).filter(|((one, _), _)| one.is_none());
    let gained = left.map(|((_, other), asked)| asked - other.unwrap_or(0)).sum();
    // That each is of a text of its own counts most.
    in_deviations(differences(one, other).chain(std::iter::repeat_n(1.0, gained)))
}

/// In texts that both have answered.
fn differences(one: &[Option<usize>], other: &[Option<usize>]) -> impl Iterator<Item = f64> + Clone {
    one.iter().zip(other).filter_map(|(one, other)| Some((*one)? as f64 - (*other)? as f64))
}

fn in_deviations(differences: impl Iterator<Item = f64> + Clone) -> f64 {
    let squares = differences.clone().map(|difference| difference * difference).sum::<f64>();
    differences.sum::<f64>() / squares.sqrt().max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_chance_explains_decides_nothing() {
        let hits = |right: usize| (0..40).map(|row| Some(usize::from(row < right))).collect::<Vec<_>>();
        // Of four rows that only one of them knows, all four: two standard deviations.
        assert_eq!(sign(&hits(20), &hits(16)), 2.0);
        assert_eq!((sign(&hits(16), &hits(20)), sign(&hits(20), &hits(20))), (-2.0, 0.0));
        let targets: Vec<nimbert_trainer::loss::Target> = (0..40).map(|_| [0].into()).collect();
        let targets: Vec<&Target> = targets.iter().collect();
        let folds = Folds::new(ProblemType::SingleLabel, &targets, 2, 2, 0).unwrap();
        let tasks = Tasks::single(2);
        let each: Vec<usize> = (0..40).collect();
        let judge = Judge::new(&tasks, ProblemType::SingleLabel, &targets, &folds, &each);
        let trial = |method, right: usize| {
            let logits = (0..40).map(|row| if row < right { vec![1.0, 0.0] } else { vec![0.0, 1.0] });
            Trial {
                method,
                answers: OutOfFold { folds: folds.clone(), logits: logits.collect(), distances: Vec::new() },
                seconds: 1.0,
            }
        };
        let chosen = |rights: [usize; 3]| {
            let methods = [Method::Contrastive, Method::Finetune, Method::Frozen].into_iter();
            let trials: Vec<Trial> = methods.zip(rights).map(|(method, right)| trial(method, right)).collect();
            judge.best(&trials).0
        };
        assert_eq!([[30, 33, 32], [30, 36, 38], [30, 36, 36], [30, 20, 10]].map(chosen), [0, 2, 1, 0]);
        // One text that stands eight times is one that the other did not know.
        let copies: Vec<usize> = each.iter().map(|&row| if (30..38).contains(&row) { 30 } else { row }).collect();
        let judge = Judge::new(&tasks, ProblemType::SingleLabel, &targets, &folds, &copies);
        let trials = [trial(Method::Contrastive, 30), trial(Method::Frozen, 38)];
        let (chosen, table) = judge.best(&trials);
        assert_eq!((chosen, table.rows[1][1].as_str(), table.rows[1][4].as_str()), (0, "40", "+1.0"));
    }

    #[test]
    fn no_row_is_answered_that_can_decide_nothing() {
        let answered = |right: &[usize]| right.iter().map(|right| Some(*right)).collect::<Vec<_>>();
        let other = answered(&[1, 1, 1, 1, 1, 0, 0, 0, 0]);
        let asked = [1; 9];
        // The other is wrong in four rows: who has answered nothing can be right in all of them, who was wrong elsewhere not by enough.
        let none = vec![None; 9];
        assert_eq!((best_sign(&none, &other, &asked), sign(&none, &other)), (2.0, 0.0));
        let first = |right: &[usize]| [answered(right), none[right.len()..].to_vec()].concat();
        assert_eq!(best_sign(&first(&[1, 1]), &other, &asked), 2.0);
        assert!(best_sign(&first(&[0, 1]), &other, &asked) < SIGNIFICANT);
        // What that is at most it is not more, whatever the answers turn out to be: those of one or two tasks a row, all that there are.
        for asked in [[1; 5], [2, 2, 1, 1, 2]] {
            let all = |row: usize, code: usize| code / 3usize.pow(row as u32) % 3 % (asked[row] + 1);
            let answers = |code: usize| (0..5).map(|row| all(row, code)).collect::<Vec<usize>>();
            for (one, other) in (0..243).flat_map(|one| (0..243).map(move |other| (answers(one), answers(other)))) {
                let (one, other) = (answered(&one), answered(&other));
                for known in 0..=5 {
                    let part = [&one[..known], &vec![None; 5 - known]].concat();
                    assert!(
                        best_sign(&part, &other, &asked).max(0.0) >= sign(&one, &other),
                        "{one:?} {other:?} {known}"
                    );
                }
                assert_eq!(best_sign(&one, &other, &asked), sign(&one, &other));
            }
        }
    }
}
