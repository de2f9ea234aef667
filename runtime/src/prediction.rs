//! What a classifier answers.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::ProblemType;

/// The answer for one text.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The label with the highest score.
    pub label: String,
    /// Its score, between 0 and 1.
    pub score: f32,
    /// Score of every label, in the order of the labels' ids. Where a text has one label they are probabilities that sum
    /// to 1; where it has any number, each is a probability of its own.
    pub scores: Vec<(String, f32)>,
    /// What the graph gave for each label, in the order of the labels' ids, the mean of the windows of a long text: scores
    /// before temperature and softmax, or sigmoid.
    pub logits: Vec<f32>,
    /// The labels that hold: `label` alone, or, where a text has any number, those whose score reaches their threshold.
    pub labels: Vec<String>,
    /// Whether the score is under the bundle's threshold: the classifier is unsure, and `label` a guess.
    pub abstained: bool,
    /// The labels among which the right one is in as many cases as the bundle says ([`Decision::coverage`]), in the order of
    /// their ids; `label` is always one of them. None where the bundle says nothing of it.
    pub set: Option<Vec<String>>,
    /// How far the text is from those of training, 1 being the mean of theirs; none where the bundle says nothing of it.
    pub distance: Option<f32>,
    /// Whether that is more than the bundle's threshold: the text is like nothing in training, and `label` means nothing.
    pub unknown: bool,
    /// What the task is called that this is the answer to, where the bundle has several.
    pub task: Option<String>,
    /// The answers to the bundle's other tasks, in its order; of an explanation, none.
    pub further: Vec<Prediction>,
    problem_type: ProblemType,
    label_id: usize,
    label_ids: Vec<usize>,
    set_ids: Option<Vec<usize>>,
}

/// What a classifier decides of each text. Most have one task; several share one encoder and one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// What it is called, where there are several.
    pub name: Option<String>,
    /// Label names in the order of their ids.
    pub labels: Vec<String>,
    /// How its logits become an answer.
    pub decision: Decision,
}

/// What a graph gives for a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// One a label of the first task.
    pub logits: Vec<f32>,
    /// Those of each further task.
    pub further: Vec<Vec<f32>>,
    /// How far the text is from those of training, if the graph says it.
    pub distance: Option<f32>,
}

impl Answer {
    /// A text's answer from those to its windows: the mean.
    ///
    /// # Panics
    /// If there is no window.
    pub fn mean(windows: impl IntoIterator<Item = Self>) -> Self {
        let mut windows = windows.into_iter();
        let mut mean = windows.next().expect("a text has a window at least");
        let mut count = 1.0;
        for mut window in windows {
            mean.values().zip(window.values()).for_each(|(sum, value)| *sum += *value);
            count += 1.0;
        }
        mean.values().for_each(|value| *value /= count);
        mean
    }

    /// The logits of all tasks, one task after the other.
    pub fn all_logits(self) -> Vec<f32> {
        let Self { logits, further, .. } = self;
        if further.is_empty() { logits } else { [logits, further.concat()].concat() }
    }

    fn values(&mut self) -> impl Iterator<Item = &mut f32> {
        self.logits.iter_mut().chain(self.further.iter_mut().flatten()).chain(&mut self.distance)
    }
}

/// How logits become an answer. A bundle's is [`crate::Bundle::decision`].
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Softmax over the labels, or a sigmoid for each.
    pub problem_type: ProblemType,
    /// Logits are divided by it.
    pub temperature: f32,
    /// The classifier abstains under this score.
    pub abstain_threshold: Option<f32>,
    /// The score from which on each label holds; none: 0.5. For [`ProblemType::MultiLabel`] only.
    pub label_thresholds: Option<Vec<f32>>,
    /// Which labels are in [`Prediction::set`]. For [`ProblemType::SingleLabel`] only.
    pub coverage: Option<Coverage>,
    /// The distance above which a text is [`Prediction::unknown`].
    pub unknown_threshold: Option<f32>,
}

/// Sets of labels of which a share has the right one among them (Sadinle et al., "Least ambiguous set-valued classifiers with
/// bounded error levels", 2019).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// That share, between 0 and 1.
    pub share: f64,
    /// The score from which on each label is in the set, in the order of the ids.
    pub thresholds: Vec<f32>,
}

/// The score from which on a label holds, where none was tuned.
pub const DEFAULT_THRESHOLD: f32 = 0.5;

impl Decision {
    /// Scores from one text's logits.
    pub fn scores(&self, logits: &[f32]) -> Vec<f32> {
        match self.problem_type {
            ProblemType::SingleLabel => softmax(logits, self.temperature),
            ProblemType::MultiLabel => logits.iter().map(|logit| sigmoid(logit / self.temperature)).collect(),
        }
    }

    /// The ids of the labels that hold under `scores`, ascending.
    pub fn label_ids(&self, scores: &[f32]) -> Vec<usize> {
        let threshold =
            |id: usize| self.label_thresholds.as_ref().map_or(DEFAULT_THRESHOLD, |thresholds| thresholds[id]);
        match self.problem_type {
            ProblemType::SingleLabel => vec![best(scores)],
            ProblemType::MultiLabel => (0..scores.len()).filter(|&id| scores[id] >= threshold(id)).collect(),
        }
    }

    /// The ids of the labels that are in [`Prediction::set`] under `scores`, ascending: the best, and all that reach their
    /// threshold.
    pub fn set_ids(&self, scores: &[f32]) -> Option<Vec<usize>> {
        let Coverage { thresholds, .. } = self.coverage.as_ref()?;
        let best = best(scores);
        Some((0..scores.len()).filter(|&id| id == best || scores[id] >= thresholds[id]).collect())
    }

    /// Whether a text at that distance is [`Prediction::unknown`].
    pub fn is_unknown(&self, distance: Option<f32>) -> bool {
        distance.zip(self.unknown_threshold).is_some_and(|(distance, threshold)| distance > threshold)
    }
}

impl Prediction {
    /// What each task makes of an answer, with a logit for each of its labels: the first one's prediction, which has the others'.
    ///
    /// # Panics
    /// If there is no task.
    pub fn new(answer: Answer, tasks: &[Task]) -> Self {
        let Answer { logits, further, distance } = answer;
        let mut predictions = tasks
            .iter()
            .zip(std::iter::once(logits).chain(further))
            .map(|(task, logits)| Self::of(task, logits, distance));
        let first = predictions.next().expect("a classifier has a task");
        Self { further: predictions.collect(), ..first }
    }

    fn of(task: &Task, logits: Vec<f32>, distance: Option<f32>) -> Self {
        let Task { name, labels, decision } = task;
        let distance = distance.filter(|_| decision.unknown_threshold.is_some());
        let scores = decision.scores(&logits);
        let best = best(&scores);
        let label_ids = decision.label_ids(&scores);
        let set_ids = decision.set_ids(&scores);
        let names = |ids: &[usize]| ids.iter().map(|&id| labels[id].clone()).collect();
        Self {
            label: labels[best].clone(),
            score: scores[best],
            labels: names(&label_ids),
            set: set_ids.as_deref().map(names),
            distance,
            unknown: decision.is_unknown(distance),
            abstained: decision.abstain_threshold.is_some_and(|threshold| scores[best] < threshold),
            scores: labels.iter().cloned().zip(scores).collect(),
            logits,
            task: name.clone(),
            further: Vec::new(),
            problem_type: decision.problem_type,
            label_id: best,
            label_ids,
            set_ids,
        }
    }

    /// The id of [`Prediction::label`].
    pub fn label_id(&self) -> usize {
        self.label_id
    }

    /// The ids of [`Prediction::labels`], ascending.
    pub fn label_ids(&self) -> &[usize] {
        &self.label_ids
    }

    /// The ids of [`Prediction::set`], ascending.
    pub fn set_ids(&self) -> Option<&[usize]> {
        self.set_ids.as_deref()
    }

    /// This answer, and those to the other tasks.
    pub fn tasks(&self) -> impl Iterator<Item = &Prediction> {
        std::iter::once(self).chain(&self.further)
    }

    /// The answer to the task of that name, be it the first one or a further one.
    pub fn of_task(&self, name: &str) -> Option<&Prediction> {
        self.tasks().find(|prediction| prediction.task.as_deref() == Some(name))
    }

    /// All labels' ids, the one with the highest score first.
    pub fn ranking(&self) -> Vec<usize> {
        let mut ids: Vec<usize> = (0..self.scores.len()).collect();
        ids.sort_by(|&a, &b| self.scores[b].1.total_cmp(&self.scores[a].1));
        ids
    }

    /// `{"label": …, "score": …, "scores": {…}}`, the form of `nimbert classify --json`. Where a text has any number of
    /// labels, `labels` holds those that apply; `abstained` is there if the classifier is unsure, `unknown` if the text is like
    /// nothing in training; `set` and `distance` where the bundle says so. With `top_k`, `scores` holds the k most likely labels
    /// only, best first. Of a bundle with several tasks, `task` is the first one's name, and `further` has such an object for each
    /// other one, by its name.
    pub fn to_json(&self, top_k: Option<usize>) -> Value {
        // Six digits are what a 32-bit probability carries; written as 64 bits it would show noise behind them.
        let round = |score: f32| json!((f64::from(score) * 1e6).round() / 1e6);
        let scores: Map<_, _> = match top_k {
            None => self.scores.iter().map(|(label, score)| (label.clone(), round(*score))).collect(),
            Some(k) => self.top(k).into_iter().map(|(label, score)| (label.to_owned(), round(score))).collect(),
        };
        let mut json = Map::new();
        json.extend(self.task.iter().map(|task| ("task".to_owned(), json!(task))));
        json.insert("label".to_owned(), json!(self.label));
        json.insert("score".to_owned(), round(self.score));
        if self.problem_type == ProblemType::MultiLabel {
            json.insert("labels".to_owned(), json!(self.labels));
        }
        if let Some(set) = &self.set {
            json.insert("set".to_owned(), json!(set));
        }
        if let Some(distance) = self.distance {
            json.insert("distance".to_owned(), round(distance));
        }
        for (name, is_so) in [("unknown", self.unknown), ("abstained", self.abstained)] {
            if is_so {
                json.insert(name.to_owned(), json!(true));
            }
        }
        json.insert("scores".to_owned(), Value::Object(scores));
        if !self.further.is_empty() {
            let of_task = |prediction: &Self| Some((prediction.task.clone()?, prediction.to_json(top_k)));
            json.insert("further".to_owned(), Value::Object(self.further.iter().filter_map(of_task).collect()));
        }
        Value::Object(json)
    }

    /// What a person reads first: the label, all labels that hold (`none` if none does), `unsure` or `unknown`. A label that
    /// is called like one of these stands in quotes, and control characters are escaped.
    pub fn summary(&self) -> String {
        let show = |label: &String| match label.as_str() {
            "none" | "unsure" | "unknown" | "error" => format!("{label:?}"),
            label if label.starts_with('"') => format!("{label:?}"),
            label => escaped(label),
        };
        match (self.unknown, self.abstained, self.labels.is_empty()) {
            (true, ..) => "unknown".to_owned(),
            (_, true, _) => "unsure".to_owned(),
            (.., true) => "none".to_owned(),
            (.., false) => self.labels.iter().map(show).collect::<Vec<_>>().join(", "),
        }
    }

    /// The `k` most likely labels, best first.
    pub fn top(&self, k: usize) -> Vec<(&str, f32)> {
        let of = |id: usize| (self.scores[id].0.as_str(), self.scores[id].1);
        self.ranking().into_iter().take(k).map(of).collect()
    }
}

/// A text on one line: control characters, line breaks and tabs among them, as escapes such as `\n`.
pub fn escaped(text: &str) -> String {
    let escape = |c: char| match c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(escape).collect()
}

/// The same of a message, whose lines stay: what a file has put into it must not command a terminal.
pub fn escaped_lines(message: &str) -> String {
    message.split('\n').map(escaped).collect::<Vec<_>>().join("\n")
}

/// The id of the highest score; of equals, the first.
fn best(scores: &[f32]) -> usize {
    (0..scores.len()).fold(0, |best, id| if scores[id] > scores[best] { id } else { best })
}

/// 1 / (1 + e^-x)
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Probabilities from logits, stable for large ones: the largest is subtracted first.
pub fn softmax(logits: &[f32], temperature: f32) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f32> = logits.iter().map(|logit| ((logit - max) / temperature).exp()).collect();
    let sum: f32 = exponentials.iter().sum();
    exponentials.into_iter().map(|value| value / sum).collect()
}

/// A text's logits from those of its windows: the mean.
///
/// # Panics
/// If there is no window.
pub fn mean_logits(windows: impl IntoIterator<Item = Vec<f32>>) -> Vec<f32> {
    let answer = |logits| Answer { logits, further: Vec::new(), distance: None };
    Answer::mean(windows.into_iter().map(answer)).logits
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn softmax_survives_large_logits_and_sums_to_one() {
        let scores = softmax(&[1000.0, 999.0], 1.0);
        assert!((scores[0] - 0.731_058_6).abs() < 1e-6);
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }

    pub(crate) const SINGLE: Decision = Decision {
        problem_type: ProblemType::SingleLabel,
        temperature: 1.0,
        abstain_threshold: None,
        label_thresholds: None,
        coverage: None,
        unknown_threshold: None,
    };

    fn task(labels: &[String], decision: &Decision) -> Task {
        Task { name: None, labels: labels.to_vec(), decision: decision.clone() }
    }

    fn predict(logits: &[f32], labels: &[String], decision: &Decision) -> Prediction {
        let answer = Answer { logits: logits.to_vec(), further: Vec::new(), distance: None };
        Prediction::new(answer, &[task(labels, decision)])
    }

    #[test]
    fn several_tasks_have_an_answer_each() {
        let [topic, tone] = [("topic", ["sport", "music"]), ("tone", ["calm", "angry"])]
            .map(|(name, labels)| Task { name: Some(name.to_owned()), ..task(&labels.map(String::from), &SINGLE) });
        // Of two windows: 1, 0 and 0, 2.
        let window = |first: f32, further: f32| Answer {
            logits: vec![first, 0.0],
            further: vec![vec![0.0, further]],
            distance: None,
        };
        let answer = Answer::mean([window(2.0, 1.0), window(0.0, 3.0)]);
        assert_eq!(answer.clone().all_logits(), [1.0, 0.0, 0.0, 2.0]);
        let prediction = Prediction::new(answer, &[topic, tone]);
        assert_eq!((prediction.label.as_str(), prediction.further[0].label.as_str()), ("sport", "angry"));
        assert_eq!(prediction.of_task("tone"), Some(&prediction.further[0]));
        assert_eq!((prediction.of_task("topic"), prediction.of_task("age")), (Some(&prediction), None));
        let json = prediction.to_json(None);
        assert_eq!(
            (&json["task"], &json["label"], &json["further"]["tone"]["label"]),
            (&"topic".into(), &"sport".into(), &"angry".into())
        );
    }

    #[test]
    fn a_set_has_the_best_label_and_those_that_reach_their_thresholds() {
        let labels = ["a", "b", "c"].map(String::from);
        // Of the logits 2, 1, 0: 0.665, 0.245, 0.090
        let set = |thresholds: [f32; 3]| {
            let coverage = Some(Coverage { share: 0.9, thresholds: thresholds.to_vec() });
            let prediction = predict(&[2.0, 1.0, 0.0], &labels, &Decision { coverage, ..SINGLE });
            assert_eq!(prediction.to_json(None)["set"], json!(prediction.set));
            prediction.set_ids().unwrap().to_vec()
        };
        assert_eq!(set([0.2; 3]), [0, 1]);
        assert_eq!(set([0.9, 0.9, 0.05]), [0, 2]);
        assert_eq!(predict(&[2.0, 1.0, 0.0], &labels, &SINGLE).set, None);
    }

    #[test]
    fn a_distant_text_is_unknown() {
        let labels = ["unknown", "b"].map(String::from);
        let decision = Decision { unknown_threshold: Some(1.5), abstain_threshold: Some(0.9), ..SINGLE };
        let answer = |distances: [f32; 2]| {
            let windows = distances.map(|distance| Answer {
                logits: vec![5.0, 0.0],
                further: Vec::new(),
                distance: Some(distance),
            });
            Prediction::new(Answer::mean(windows), &[task(&labels, &decision)])
        };
        assert_eq!(answer([1.0, 2.1]).summary(), "unknown");
        assert_eq!(answer([1.0, 2.1]).to_json(None)["unknown"], true);
        let near = answer([1.0, 2.0]);
        assert_eq!((near.summary().as_str(), near.distance), ("\"unknown\"", Some(1.5)));
        assert_eq!((near.to_json(None)["distance"].as_f64(), near.to_json(None).get("unknown")), (Some(1.5), None));
    }

    #[test]
    fn unsure_under_the_threshold() {
        let labels = ["a", "b"].map(String::from);
        let decision = Decision { abstain_threshold: Some(0.8), ..SINGLE };
        let predict = |logits: &[f32]| predict(logits, &labels, &decision);
        assert_eq!(predict(&[0.0, 1.0]).summary(), "unsure");
        assert_eq!(predict(&[0.0, 1.0]).to_json(None)["abstained"], true);
        assert_eq!(predict(&[0.0, 2.0]).summary(), "b");
    }

    #[test]
    fn any_number_of_labels_holds_each_by_its_threshold() {
        let labels = ["a", "b", "c"].map(String::from);
        let decision =
            Decision { problem_type: ProblemType::MultiLabel, label_thresholds: Some(vec![0.5, 0.9, 0.2]), ..SINGLE };
        // sigmoid(1) = 0.731, sigmoid(-1) = 0.269
        let prediction = predict(&[1.0, 1.0, -1.0], &labels, &decision);
        assert_eq!((prediction.labels.as_slice(), prediction.label.as_str()), (&["a".into(), "c".into()][..], "a"));
        assert_eq!(prediction.to_json(None)["labels"], json!(["a", "c"]));
        assert_eq!(predict(&[-9.0, -9.0, -9.0], &labels, &decision).summary(), "none");
    }

    #[test]
    fn labels_are_told_from_answers_and_control_characters_are_escaped() {
        let labels = ["none", "a\u{1b}[31m\tb"].map(String::from);
        let summary = |logits: &[f32]| predict(logits, &labels, &SINGLE).summary();
        assert_eq!((summary(&[1.0, 0.0]).as_str(), summary(&[0.0, 1.0]).as_str()), ("\"none\"", "a\\u{1b}[31m\\tb"));
    }

    #[test]
    fn json_has_scores_by_label_and_top_k_sorts() {
        let labels = ["a", "b", "c"].map(String::from);
        let prediction = predict(&[0.0, 2.0, 1.0], &labels, &SINGLE);
        assert_eq!(prediction.label, "b");
        let json = prediction.to_json(Some(2));
        assert_eq!(json["scores"].as_object().unwrap().keys().collect::<Vec<_>>(), ["b", "c"]);
    }
}
