//! `--from`: going on with a trained model.

use nimbert::{ProblemType, bundle::MANIFEST, prediction::Answer};
use nimbert_trainer::{
    Error,
    evaluate::predict,
    export::Judged,
    html::Table,
    metrics::hits,
    model::{ModelFolder, SequenceClassifier},
    prepare::Examples,
    rehearsal::{GoingOn, Learned, table},
    train::undecided,
};

use super::{Args, Work};

impl Args {
    /// Checks that what is gone on from can be a saved model, and that nothing is asked for which its old rows are needed for.
    pub(super) fn check_from(&self) -> Result<(), Error> {
        let Some(folder) = &self.from else { return Ok(()) };
        let is_packed = folder.is_file() && folder.extension().is_some_and(|extension| extension == "nimbert");
        if is_packed || folder.join(MANIFEST).exists() {
            let got = format!("{}, a bundle, which has graphs", folder.display());
            return Err(Error::setting("--from", "the folder that --save-model kept, which has weights", got));
        }
        if self.columns.unknown_label.is_some() {
            let expected = "a model that begins: going on with strangers is not there yet";
            return Err(Error::setting("--unknown-label", expected, "--from"));
        }
        for (setting, is_given) in [
            ("--unknown-rate", self.unknown_rate.is_some()),
            ("--trim-vocab", self.trim_vocab.is_some()),
            ("--target-size", self.target_size.is_some()),
        ] {
            if is_given && self.rehearsal.is_empty() {
                let expected = "--rehearsal with it: what is known of texts is that of all rows";
                return Err(Error::setting(setting, expected, "none"));
            }
        }
        Ok(())
    }

    /// What is known by the model that is gone on from, if one is.
    pub(super) fn going_on(&self, folder: &ModelFolder) -> Result<Option<GoingOn>, Error> {
        let Some(from) = &self.from else { return Ok(None) };
        let problem_type = self.columns.problem_type();
        if folder.config.problem_type()?.is_some_and(|own| own != problem_type) {
            let expected = match problem_type {
                ProblemType::SingleLabel => "rows with any number of labels, as the model has them (--multi-label)",
                ProblemType::MultiLabel => "rows with one label each, as the model has them",
            };
            return Err(Error::setting("--from", expected, "the others"));
        }
        let labels = folder.config.own_labels()?;
        SequenceClassifier::load(&folder.weights, folder.config.clone(), &labels, 0)?.1.expect_trained()?;
        let learned = Learned::open(from)?;
        if let Some(Learned { max_length, stride, pairs, .. }) = learned {
            let as_before = |what: String| format!("{what}, as the model has learned");
            if max_length != self.max_length {
                return Err(Error::setting("--max-length", as_before(max_length.to_string()), self.max_length));
            }
            let own = self.stride()?;
            if stride != own {
                let shown = |stride: Option<usize>| match stride {
                    Some(stride) => format!("stride (--stride {stride})"),
                    None => "truncate".to_owned(),
                };
                return Err(Error::setting("--long-text", as_before(shown(stride)), shown(own)));
            }
            if pairs != self.columns.has_pairs() {
                let shown = |pairs: bool| if pairs { "pairs of texts" } else { "single texts" }.to_owned();
                return Err(Error::setting("--text-pair-column", as_before(shown(pairs)), shown(!pairs)));
            }
        }
        let rehearsal_rows = self.rehearsal_rows.map(|rows| rows as usize);
        Ok(Some(GoingOn { labels, learned, rehearsal: self.rehearsal.clone(), rehearsal_rows }))
    }
}

impl Work {
    /// Checks that the method forgets no label: a head that is solved anew knows those of its rows.
    pub(super) fn check_forgotten(&self) -> Result<(), Error> {
        if self.sources.unlearned.is_empty() || !self.args.has_linear_head(self.method) {
            return Ok(());
        }
        let got = format!("{} without {}", self.method.name(), self.sources.unlearned.join(", "));
        Err(Error::setting("--method", "finetune, or rows (--rehearsal) of each label that the model knows", got))
    }

    /// Which test rows the model that is gone on from answers rightly; nothing where a model begins, or there are none.
    pub(super) fn before(
        &self,
        folder: &ModelFolder,
        Examples { test, .. }: &Examples,
    ) -> Result<Option<Vec<bool>>, Error> {
        if self.args.from.is_none() || test.is_empty() {
            return Ok(None);
        }
        let labels = folder.config.own_labels()?;
        let (model, _) = SequenceClassifier::load(&folder.weights, folder.config.clone(), &labels, 0)?;
        let logits = predict(&model, test.iter().map(|example| example.windows.as_slice()), self.args.batch_size)?;
        Ok(Some(hits(&undecided(self.train_config.loss.problem_type), &logits, self.test_ids())))
    }

    /// What has become of them, by the same rule: each label of several from a score of 0.5 on.
    pub(super) fn rehearsed(&self, before: &[bool], judged: &Judged) -> Option<Table> {
        let logits: Vec<Vec<f32>> = judged.test_answers.iter().flatten().cloned().map(Answer::all_logits).collect();
        let after = hits(&undecided(self.train_config.loss.problem_type), &logits, self.test_ids());
        (after.len() == before.len()).then(|| table(&self.sources, before, &after))
    }

    fn test_ids(&self) -> impl Iterator<Item = &[u32]> {
        self.sources.test.iter().map(|source| source.target.ids.as_slice())
    }

    /// What a saved model says of its rows, those of the model before it too.
    pub(super) fn learned(&self) -> Learned {
        let of_from = self.going_on.as_ref().map(|going_on| going_on.learned.as_ref());
        let before = of_from.or(self.of_base.as_ref().map(Some));
        Learned::new(&self.sources, before, self.args.max_length, self.stride, self.args.columns.has_pairs())
    }
}
