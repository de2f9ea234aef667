//! `--unknown-rate`, `--coverage` and `--abstain-precision`: what a bundle says of its answers.

use nimbert::{ProblemType, prediction::Answer};
use nimbert_trainer::{
    Error,
    calibrate::{Certainty, Found, least_rows},
    dataloader::Example,
    export::Judged,
    loss::Target,
    mahalanobis::Mahalanobis,
    model::SequenceClassifier,
    prepare::Sources,
    tasks::TaskLabels,
};

use super::{Args, Work};

impl Args {
    /// What the bundle is to say of its answers.
    pub(super) fn certainty(&self) -> Result<Certainty, Error> {
        let shares = [
            ("--abstain-precision", self.abstain_precision, true),
            ("--coverage", self.coverage, false),
            ("--unknown-rate", self.unknown_rate, false),
        ];
        let is_blind = self.validation_size == Some(0.0) && self.validation_data.is_empty();
        let is_blind = is_blind && (self.cross_validate.is_none() || self.is_smaller());
        for (setting, share, may_be_all) in shares {
            let Some(share) = share else { continue };
            let refuse =
                |expected: &str, got: String| Err(Error::Setting { setting, expected: expected.to_owned(), got });
            match may_be_all {
                true if !(0.0..=1.0).contains(&share) => refuse("a share from 0 to 1", share.to_string())?,
                false if !(share > 0.0 && share < 1.0) => refuse("a share between 0 and 1", share.to_string())?,
                _ => {}
            }
            if is_blind {
                let expected = "rows to find it by (--validation-size, --validation-data or --cross-validate)";
                refuse(expected, "none".to_owned())?;
            }
        }
        if self.coverage.is_some() && self.columns.problem_type() == ProblemType::MultiLabel {
            let (setting, expected) = ("--coverage", "rows of one label".to_owned());
            return Err(Error::Setting { setting, expected, got: "--multi-label".to_owned() });
        }
        if self.columns.unknown_label.is_some() && self.unknown_rate.is_none() {
            let expected = "--unknown-rate with it: the share of other texts that may be taken for unknown";
            return Err(Error::setting("--unknown-label", expected, "none"));
        }
        Ok(Certainty {
            abstain_precision: self.abstain_precision,
            coverage: self.coverage,
            coverage_by_label: self.coverage_by_label,
            unknown_rate: self.unknown_rate,
        })
    }
}

impl Work {
    /// Checks that there are rows enough to find by them what a small share of texts exceeds. Where there are no validation rows,
    /// those with the targets that are `cross_validated` have answers, or may come to have them; none: there are no folds.
    pub(super) fn check_rows(&self, cross_validated: Option<Vec<&Target>>) -> Result<(), Error> {
        let Certainty { abstain_precision, coverage, unknown_rate, .. } = self.export_config.certainty;
        let Sources { validation, tasks, .. } = &self.sources;
        // What folds answer is said of the model with all its layers.
        let cross_validated = cross_validated.filter(|_| !self.args.is_smaller());
        let validated = (!validation.is_empty()).then(|| validation.iter().map(|source| &source.target).collect());
        let rows: Option<Vec<&Target>> = validated.or(cross_validated);
        let of_task = |task: &TaskLabels| {
            let answered = rows.as_ref().map(|rows| task.targets(rows.iter().copied()).0.len());
            (answered, task.name.as_ref().map_or(String::new(), |name| format!(" with a label of the task {name}")))
        };
        // A text is unknown to all tasks, or to none; of all else the task counts that has the fewest rows.
        let shares = [
            ("--abstain-precision", abstain_precision.map(|_| 1.0), false),
            ("--coverage", coverage.map(|share| 1.0 - share), false),
            ("--unknown-rate", unknown_rate, true),
        ];
        for (setting, share, is_of_all) in shares {
            let Some(least) = share.map(least_rows) else { continue };
            let (rows, of) = match is_of_all {
                true => (rows.as_ref().map(Vec::len), String::new()),
                false => tasks.iter().map(of_task).min_by_key(|(rows, _)| *rows).expect("a classifier has a task"),
            };
            if rows.is_some_and(|rows| rows >= least) {
                continue;
            }
            let expected = format!("at least {least} rows{of} to find it by (--validation-size, --cross-validate)");
            let got = rows.map_or("none, and no folds".to_owned(), |rows| rows.to_string());
            return Err(Error::Setting { setting, expected, got });
        }
        Ok(())
    }

    /// How far a text is from the rows that the model has learned from, also by what tells `strangers` from them, if there are any;
    /// none: that is not asked for.
    pub(super) fn distance<'a>(
        &self,
        model: &SequenceClassifier,
        rows: impl Iterator<Item = &'a Example>,
        strangers: &[Example],
    ) -> Result<Option<Mahalanobis>, Error> {
        if self.export_config.certainty.unknown_rate.is_none() {
            return Ok(None);
        }
        // Each window for itself, as the graph has them. A row without a weight was not learned from.
        let windows = learned_windows(rows);
        // Of several tasks, the one that tells the most texts apart; those that it knows nothing of are alike.
        let task = self.sources.tasks.iter().max_by_key(|task| task.ids.len()).expect("a classifier has a task");
        let class = |window: &Example| match self.export_config.problem_type {
            ProblemType::SingleLabel => {
                let of_task = window.target.ids.iter().map(|id| *id as usize).find(|id| task.ids.contains(id));
                of_task.map_or(0, |id| 1 + id - task.ids.start)
            }
            ProblemType::MultiLabel => 0,
        };
        let classes: Vec<usize> = windows.iter().map(class).collect();
        let features = self.features(model, &windows)?;
        let distance = Mahalanobis::fit(&features, &classes)?;
        let strangers = learned_windows(strangers.iter());
        if strangers.is_empty() {
            return Ok(Some(distance));
        }
        let strangers = self.features(model, &strangers)?;
        let on_step = || self.check_stop("the regression that tells strangers");
        Ok(Some(distance.told_from(&features, &strangers, self.args.seed, on_step)?))
    }

    /// How many strangers the bundle finds that it has not learned from.
    pub(super) fn found(&self, judged: &Judged) -> Option<Found> {
        let distances = |answers: &[Answer]| answers.iter().map(|answer| answer.distance).collect::<Vec<_>>();
        let known = judged.test_answers.as_deref().map(distances).unwrap_or_default();
        Found::of(judged.decision(), &known, &distances(&judged.stranger_answers))
    }

    /// That of each of `rows`: the mean of its windows'.
    pub(super) fn distances<'a>(
        &self,
        distance: &Mahalanobis,
        model: &SequenceClassifier,
        rows: impl Iterator<Item = &'a Example> + Clone,
    ) -> Result<Vec<f32>, Error> {
        let mut of_windows = distance.distances(&self.features(model, &windows(rows.clone()))?)?.into_iter();
        let mean = |row: &Example| {
            let count = row.windows.len();
            of_windows.by_ref().take(count).sum::<f32>() / count as f32
        };
        Ok(rows.map(mean).collect())
    }
}

/// Those of rows that are learned from.
fn learned_windows<'a>(rows: impl Iterator<Item = &'a Example>) -> Vec<Example> {
    windows(rows.filter(|row| row.target.weight > 0.0))
}

/// Each window as a row of its own.
fn windows<'a>(rows: impl Iterator<Item = &'a Example>) -> Vec<Example> {
    let alone = |row: &'a Example| {
        row.windows.iter().map(|window| Example { windows: vec![window.clone()], target: row.target.clone() })
    };
    rows.flat_map(alone).collect()
}
