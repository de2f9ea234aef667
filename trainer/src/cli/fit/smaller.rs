//! `--layers` and `--target-size`: from the trained model to a smaller one.

use nimbert_trainer::{
    Error,
    compress::{Rung, kept_layers, rungs, with_layers},
    distill::{DistillConfig, Teacher},
    export::Judged,
    html::Table,
    onnx::Storage,
    report,
};

use super::{Candidate, Work, tell};

/// What becomes the bundle, and the table that led to it.
type Smaller = (Candidate, Judged, Option<Table>);

/// Models that are tried for a size, at most.
const MAX_RUNGS: usize = 3;
/// Fewer words than this are little more than single characters.
const SMALLEST_VOCABULARY: usize = 3000;

impl Work<'_> {
    /// Checks before training that the model can be made as small as was asked for.
    pub(super) fn check_smaller(&self, full: &Candidate, target_size: Option<usize>) -> anyhow::Result<()> {
        let all = full.model.config.layers.len();
        if let Some(layers) = self.args.layers.map(usize::from).filter(|layers| *layers > all) {
            let (setting, expected) = ("--layers", format!("at most the model's {all}"));
            return Err(Error::Setting { setting, expected, got: layers.to_string() }.into());
        }
        match target_size {
            Some(bytes) if self.rungs(full, bytes)?.is_empty() => Err(too_small(bytes).into()),
            _ => Ok(()),
        }
    }

    fn rungs(&self, full: &Candidate, bytes: usize) -> anyhow::Result<Vec<Rung>> {
        let tokenizer_bytes = std::fs::metadata(&full.tokenizer)?.len();
        let smallest_vocabulary = SMALLEST_VOCABULARY.min(full.model.config.vocab_size);
        let mut rungs = rungs(&full.model, tokenizer_bytes, smallest_vocabulary, bytes);
        rungs.truncate(MAX_RUNGS);
        Ok(rungs)
    }

    /// A model of `layers` layers, taught by the trained one.
    pub(super) fn fewer_layers(&self, teacher: Candidate, layers: usize) -> anyhow::Result<Smaller> {
        let all = teacher.model.config.layers.len();
        let before = self.judge(&teacher)?;
        let student = self.student(teacher, layers)?;
        self.save_model(&student)?;
        let after = self.judge(&student)?;
        let mut table = table();
        table.rows.push(row(&format!("{all} layers"), &before, student.model.config.vocab_size, None));
        table.rows.push(row(&format!("{layers} layers"), &after, student.model.config.vocab_size, None));
        table.chosen = Some(1);
        tell(&show(&table));
        Ok((student, after, Some(table)))
    }

    /// The most accurate of the models whose bundle has at most `bytes` bytes.
    pub(super) fn fit_size(&self, full: Candidate, bytes: usize) -> anyhow::Result<Smaller> {
        let tokenizer_bytes = std::fs::metadata(&full.tokenizer)?.len();
        let full_judged = self.judge(&full)?;
        let (all, words) = (full.model.config.layers.len(), full.model.config.vocab_size);
        let mut table = table();
        table.rows.push(row(&format!("{all} layers"), &full_judged, words, Some(tokenizer_bytes)));
        if size(&full_judged, tokenizer_bytes) <= bytes {
            table.chosen = Some(0);
            tell(&show(&table));
            self.save_model(&full)?;
            return Ok((full, full_judged, Some(table)));
        }
        let mut best: Option<(Candidate, Judged, usize)> = None;
        for Rung { layers, vocabulary, .. } in self.rungs(&full, bytes)? {
            tell(&report::stage("smaller", &format!("{layers} of {all} layers, {vocabulary} of {words} tokens")));
            let trimmed = self.trimmed(&full, vocabulary)?;
            let student = if layers == all { trimmed } else { self.student(trimmed, layers)? };
            let judged = self.judge_as(&student, Storage::Packed)?;
            let tokenizer_bytes = std::fs::metadata(&student.tokenizer)?.len();
            let vocabulary = student.model.config.vocab_size;
            table.rows.push(row(&format!("{layers} layers"), &judged, vocabulary, Some(tokenizer_bytes)));
            let fits = size(&judged, tokenizer_bytes) <= bytes;
            let is_better = best
                .as_ref()
                .is_none_or(|(_, best, _)| judged.acceptance.shipped_accuracy > best.acceptance.shipped_accuracy);
            if fits && is_better {
                best = Some((student, judged, table.rows.len() - 1));
            }
        }
        let Some((student, judged, chosen)) = best else {
            return Err(too_small(bytes).into());
        };
        table.chosen = Some(chosen);
        tell(&show(&table));
        self.save_model(&student)?;
        Ok((student, judged, Some(table)))
    }

    /// Trains a copy of the teacher that has only some of its layers.
    fn student(&self, mut teacher: Candidate, layers: usize) -> anyhow::Result<Candidate> {
        let all = teacher.model.config.layers.len();
        let kept = kept_layers(&teacher.model.config, layers);
        let model = with_layers(&teacher.model, &kept)?;
        // The teacher learns no more, so it needs no graph.
        teacher.model.freeze(all)?;
        let Candidate { model: teacher_model, tokenizer, examples } = teacher;
        let student = Candidate { model, tokenizer, examples };
        let problem_type = self.export_config.problem_type;
        let config = DistillConfig::default();
        let teacher = Teacher { model: &teacher_model, layers: kept, problem_type, config };
        let checkpoints = self.student_checkpoints(layers, student.model.config.vocab_size);
        let trained = self.train(&student, Some(&teacher), checkpoints.as_ref())?;
        match trained.training.stopped {
            Some(reason) => {
                self.tell_of_resume(&reason);
                Err(reason.into())
            }
            None => Ok(student),
        }
    }
}

fn too_small(bytes: usize) -> Error {
    let expected = format!("a size that one layer and {SMALLEST_VOCABULARY} words can have");
    Error::Setting { setting: "--target-size", expected, got: format!("{bytes} bytes") }
}

fn size(judged: &Judged, tokenizer_bytes: u64) -> usize {
    /// Report, metrics, manifest, model card and configuration.
    const REST: u64 = 100_000;
    (judged.shipped().bytes + tokenizer_bytes + REST) as usize
}

fn table() -> Table {
    let header = ["model", "vocabulary", "graph MB", "bundle MB", "fp32", "shipped", "ms a text"];
    Table { header: header.map(str::to_owned).to_vec(), rows: Vec::new(), chosen: None }
}

fn row(name: &str, judged: &Judged, vocabulary: usize, tokenizer_bytes: Option<u64>) -> Vec<String> {
    let shipped = judged.shipped();
    let share = |share: Option<f64>| share.map_or("–".to_owned(), |share| format!("{:.2} %", share * 100.0));
    vec![
        name.to_owned(),
        vocabulary.to_string(),
        format!("{:.2}", shipped.bytes as f64 / 1e6),
        tokenizer_bytes.map_or("–".to_owned(), |bytes| format!("{:.2}", size(judged, bytes) as f64 / 1e6)),
        share(judged.acceptance.fp32_accuracy),
        share(judged.acceptance.shipped_accuracy),
        format!("{:.1}", shipped.milliseconds),
    ]
}

/// The table as text, the chosen row marked.
fn show(table: &Table) -> String {
    let line = |cells: &[String], mark: &str| {
        let cells: String = cells.iter().map(|cell| format!("{cell:>12}")).collect();
        report::stage("", &format!("{cells} {mark}"))
    };
    let rows = table.rows.iter().enumerate();
    let rows = rows.map(|(index, row)| line(row, if table.chosen == Some(index) { "←" } else { "" }));
    line(&table.header, "") + &rows.collect::<String>()
}
