//! `--layers`, `--student` and `--target-size`: from the trained model to a smaller one.

use std::{path::Path, sync::atomic::Ordering};

use nimbert_trainer::{
    Error,
    compress::{Rung, beside_graph, kept_layers, least_bytes, rungs, token_counts, with_layers},
    dataloader::Example,
    distill::{DistillConfig, Teacher, answered, softened},
    evaluate::predict,
    export::Judged,
    html::Table,
    model::SequenceClassifier,
    onnx::Storage,
    report,
    static_model::{self, SOFT_SHARE, StaticConfig, static_model},
    train::{Splits, TrainConfig},
};

use super::{super::progress, Candidate, Trained, Work, method::Method, splits, tell};

/// What becomes the bundle, and the table that led to it.
type Smaller = (Candidate, Judged, Option<Table>);

/// Models with layers that are tried for a size, at most.
const MAX_RUNGS: usize = 3;
/// Rows of which the teacher is asked between two looks at whether to stop.
const TEACHER_ROWS: usize = 256;
/// See [`smallest_vocabulary`].
const SMALLEST_VOCABULARY: usize = 3000;

impl Work {
    /// Checks before training that the model can be made as small as was asked for.
    pub(super) fn check_smaller(
        &self,
        full: &SequenceClassifier,
        tokenizer: &Path,
        has_validation: bool,
        target_size: Option<usize>,
    ) -> anyhow::Result<()> {
        let all = full.config.layers.len();
        if let Some(layers) = self.args.layers.map(usize::from).filter(|layers| *layers > all) {
            let (setting, expected) = ("--layers", format!("at most the model's {all}"));
            return Err(Error::Setting { setting, expected, got: layers.to_string() }.into());
        }
        if self.args.student.is_some() && all == 0 {
            let (setting, expected) = ("--student", "a base with layers to learn from".to_owned());
            return Err(Error::Setting { setting, expected, got: "none".to_owned() }.into());
        }
        if (self.args.student.is_some() || all == 0) && self.args.columns.has_pairs() {
            // It reads the mean of all tokens: neither which text one is of, nor how the texts relate.
            let expected = "single texts, for a model without attention".to_owned();
            let got = "pairs".to_owned();
            return Err(Error::Setting { setting: "--text-pair-column", expected, got }.into());
        }
        match target_size {
            Some(_) if !has_validation => {
                let expected = "validation rows to choose one by (--validation-size)".to_owned();
                Err(Error::Setting { setting: "--target-size", expected, got: "none".to_owned() }.into())
            }
            Some(bytes) => {
                let tokenizer_bytes = std::fs::metadata(tokenizer)?.len();
                let is_hopeless =
                    least_bytes(full, tokenizer_bytes) > bytes && self.rungs(full, tokenizer_bytes, bytes).is_empty();
                let expected = || format!("a size that {} words can have", smallest_vocabulary(full));
                if is_hopeless { Err(too_small(bytes, expected()).into()) } else { Ok(()) }
            }
            None => Ok(()),
        }
    }

    fn rungs(&self, full: &SequenceClassifier, tokenizer_bytes: u64, bytes: usize) -> Vec<Rung> {
        let (mut with_layers, without): (Vec<Rung>, Vec<Rung>) =
            rungs(full, tokenizer_bytes, smallest_vocabulary(full), bytes)
                .into_iter()
                .partition(|rung| rung.layers > 0);
        with_layers.truncate(MAX_RUNGS);
        if !self.args.columns.has_pairs() {
            with_layers.extend(without);
        }
        with_layers
    }

    /// A model of `layers` layers, taught by the trained one.
    pub(super) fn fewer_layers(&self, teacher: Candidate, layers: usize) -> anyhow::Result<Smaller> {
        self.smaller(teacher, |teacher| self.student(teacher, layers))
    }

    /// A model without layers, taught by the trained one.
    pub(super) fn without_layers(&self, teacher: Candidate) -> anyhow::Result<Smaller> {
        self.smaller(teacher, |teacher| self.static_student(teacher))
    }

    fn smaller(
        &self,
        teacher: Candidate,
        make: impl FnOnce(Candidate) -> anyhow::Result<Candidate>,
    ) -> anyhow::Result<Smaller> {
        // What folds say of its training rows, nobody says of the student's.
        let teacher = Candidate { out_of_fold: None, ..teacher };
        let mut table = table();
        match self.judge(&teacher) {
            // It does not ship.
            Err(refused @ Error::Gate { .. }) => tell(&report::stage("", &format!("the teacher alone: {refused}"))),
            before => table.rows.push(row(&teacher, &self.told(before)?, None)),
        }
        let student = make(teacher)?;
        self.save_model(&student)?;
        let after = self.told(self.judge(&student))?;
        table.rows.push(row(&student, &after, None));
        table.chosen = Some(table.rows.len() - 1);
        tell(&report::table(&table));
        Ok((student, after, Some(table)))
    }

    /// The most accurate of the models whose bundle has at most `bytes` bytes.
    pub(super) fn fit_size(&self, full: Candidate, bytes: usize) -> anyhow::Result<Smaller> {
        let tokenizer_bytes = std::fs::metadata(&full.tokenizer)?.len();
        let (all, words) = (full.model.config.layers.len(), full.model.config.vocab_size);
        let mut table = table();
        let mut refusal = None;
        let mut smallest = usize::MAX;
        match self.judge(&full) {
            // A smaller one may do.
            Err(refused @ Error::Gate { .. }) => {
                tell(&report::stage("", &refused.to_string()));
                refusal = Some(refused);
            }
            judged => {
                let judged = self.told(judged)?;
                table.rows.push(row(&full, &judged, Some(tokenizer_bytes)));
                smallest = size(&full, &judged, tokenizer_bytes);
                if smallest <= bytes {
                    table.chosen = Some(0);
                    tell(&report::table(&table));
                    self.save_model(&full)?;
                    return Ok((full, judged, Some(table)));
                }
            }
        }
        let mut best: Option<(Candidate, Judged, usize)> = None;
        for Rung { layers, vocabulary, .. } in self.rungs(&full.model, tokenizer_bytes, bytes) {
            tell(&report::stage("smaller", &format!("{layers} of {all} layers, {vocabulary} of {words} tokens")));
            let trimmed = self.trimmed(&full, vocabulary)?;
            let storage = if layers == 0 { Storage::Bytes } else { Storage::Packed };
            let student = match layers {
                _ if layers == all => trimmed,
                0 => self.static_student(trimmed)?,
                _ => self.student(trimmed, layers)?,
            };
            let judged = match self.judge_as(&student, storage) {
                // Another one may do.
                Err(refused @ Error::Gate { .. }) => {
                    tell(&report::stage("", &refused.to_string()));
                    refusal = Some(refused);
                    continue;
                }
                judged => self.told(judged)?,
            };
            let tokenizer_bytes = std::fs::metadata(&student.tokenizer)?.len();
            table.rows.push(row(&student, &judged, Some(tokenizer_bytes)));
            let has = size(&student, &judged, tokenizer_bytes);
            smallest = smallest.min(has);
            let fits = has <= bytes;
            let is_better = best
                .as_ref()
                .is_none_or(|(_, best, _)| judged.acceptance.shipped_accuracy > best.acceptance.shipped_accuracy);
            if fits && is_better {
                best = Some((student, judged, table.rows.len() - 1));
            }
        }
        let Some((student, judged, chosen)) = best else {
            let reason = match refusal {
                Some(refused) if table.rows.is_empty() => refused,
                _ => {
                    tell(&report::table(&table));
                    too_small(
                        bytes,
                        format!("at least {smallest} bytes, the bundle of the smallest model that was tried"),
                    )
                }
            };
            self.tell_of_resume(&reason);
            return Err(reason.into());
        };
        table.chosen = Some(chosen);
        tell(&report::table(&table));
        self.save_model(&student)?;
        Ok((student, judged, Some(table)))
    }

    /// Trains a copy of the teacher that has only some of its layers.
    fn student(&self, teacher: Candidate, layers: usize) -> anyhow::Result<Candidate> {
        if self.args.frozen_layers().is_some() {
            let what =
                "learns in all of its parts: --freeze-layers and --freeze-embeddings are of the model that teaches it";
            tell(&report::stage("student", what));
        }
        let kept = kept_layers(&teacher.model.config, layers);
        let model = with_layers(&teacher.model, &kept)?;
        let teacher_model = teacher.model.for_inference();
        let Candidate { load_report, tokenizer, examples, .. } = teacher;
        let student = Candidate { model, load_report, tokenizer, examples, out_of_fold: None };
        let problem_type = self.export_config.problem_type;
        let config = DistillConfig::default();
        let teacher = Teacher { model: &teacher_model, layers: kept, problem_type, config };
        let checkpoints = self.student_checkpoints(layers, student.model.config.vocab_size);
        let rows = (&student.model, splits(&student.examples));
        // It learns from its teacher, as that one would have from labels.
        let epochs = self.args.epochs(Method::Finetune, student.examples.train.len());
        let config = TrainConfig { epochs, contrast: None, ..self.train_config.clone() };
        let trained = self.train(rows, &config, Some(&teacher), checkpoints.as_ref())?;
        tell(&report::stage("observed", &report::observation(&trained.training.epochs)));
        self.finish(trained)?;
        Ok(student)
    }

    /// Trains a table of token vectors by what the teacher says of the training rows. It leaves no checkpoint: all of it follows
    /// from the teacher's, in a part of the time.
    fn static_student(&self, teacher: Candidate) -> anyhow::Result<Candidate> {
        let Candidate { model: teacher, load_report, tokenizer, examples, .. } = teacher;
        let teacher = if self.compute.is_fused() { teacher } else { teacher.on(&self.compute)? };
        let counts = token_counts(&examples.train, teacher.config.vocab_size);
        let empty = self.open_tokenizer(&tokenizer)?.encode("")?;
        let static_config = StaticConfig::of(&teacher.config, self.args.seed);
        let (words, width) = (teacher.config.vocab_size, static_config.width);
        tell(&report::stage("student", &format!("static: {words} tokens, each read alone → {words} × {width}")));
        let bar = progress(words, "tokens");
        let model = static_model(&teacher, &empty, &counts, static_config, |count| {
            bar.inc(count as u64);
            self.check_stop("the reading of the vocabulary")
        })?;
        bar.finish_and_clear();

        let variations = static_model::variations(&examples.train, &empty, self.args.seed);
        let count = variations.len();
        tell(&report::stage("", &format!("learns from {} rows and {count} variations of them", examples.train.len())));
        let bar = progress(examples.train.len() + count, "rows");
        let ask = |rows: &[Example]| -> anyhow::Result<Vec<Vec<f32>>> {
            let mut said = Vec::with_capacity(rows.len());
            for rows in rows.chunks(TEACHER_ROWS) {
                self.check_stop("the teacher's reading of the training rows")?;
                let texts = rows.iter().map(|example| example.windows.as_slice());
                said.extend(predict(&teacher, texts, self.train_config.batch_size)?);
                bar.inc(rows.len() as u64);
            }
            Ok(said)
        };
        let (of_rows, of_variations) = (ask(&examples.train)?, ask(&variations)?);
        let (problem_type, tasks) = (self.export_config.problem_type, &teacher.tasks);
        let train = [
            softened(&examples.train, &of_rows, problem_type, tasks, SOFT_SHARE),
            answered(&variations, &of_variations, problem_type, tasks),
        ]
        .concat();
        bar.finish_and_clear();

        let config = static_model::train_config(&self.train_config, train.len());
        tell(&report::training_stage(&config, train.len()));
        let taught = Splits { train: &train, ..splits(&examples) };
        self.finish(self.train((&model, taught), &config, None, None)?)?;
        Ok(Candidate { model, load_report, tokenizer, examples, out_of_fold: None })
    }

    /// An error once the user has asked to stop, who is told how to go on.
    pub(super) fn check_stop(&self, during: &str) -> Result<(), Error> {
        self.unless_stopped(during).inspect_err(|reason| self.tell_of_resume(reason))
    }

    /// An error once the user has asked to stop.
    pub(super) fn unless_stopped(&self, during: &str) -> Result<(), Error> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(Error::Interrupted { during: during.to_owned() }),
            false => Ok(()),
        }
    }

    /// An error if a student was not trained to its end.
    fn finish(&self, trained: Trained) -> anyhow::Result<()> {
        let Some(reason) = trained.training.stopped else { return Ok(()) };
        self.tell_of_resume(&reason);
        Err(reason.into())
    }
}

fn too_small(bytes: usize, expected: String) -> Error {
    Error::Setting { setting: "--target-size", expected, got: format!("{bytes} bytes") }
}

/// Fewer words would be little more than single characters.
fn smallest_vocabulary(model: &SequenceClassifier) -> usize {
    SMALLEST_VOCABULARY.min(model.config.vocab_size)
}

/// Bytes of the bundle, at most.
fn size(candidate: &Candidate, judged: &Judged, tokenizer_bytes: u64) -> usize {
    (judged.bytes() + tokenizer_bytes) as usize + beside_graph(&candidate.model.labels)
}

fn table() -> Table {
    let header = ["model", "vocabulary", "graph MB", "bundle MB at most", "fp32", "shipped", "ms a text"];
    Table { header: header.map(str::to_owned).to_vec(), rows: Vec::new(), chosen: None }
}

fn row(candidate: &Candidate, judged: &Judged, tokenizer_bytes: Option<u64>) -> Vec<String> {
    let shipped = judged.shipped();
    let config = &candidate.model.config;
    let name = match config.layers.len() {
        0 => "static".to_owned(),
        layers => format!("{layers} layers"),
    };
    let share = |share: Option<f64>| share.map_or("–".to_owned(), |share| format!("{:.2} %", share * 100.0));
    vec![
        name,
        config.vocab_size.to_string(),
        format!("{:.2}", shipped.bytes as f64 / 1e6),
        tokenizer_bytes.map_or("–".to_owned(), |bytes| format!("{:.2}", size(candidate, judged, bytes) as f64 / 1e6)),
        share(judged.acceptance.fp32_accuracy),
        share(judged.acceptance.shipped_accuracy),
        format!("{:.1}", shipped.milliseconds),
    ]
}
