//! What Prometheus reads of a server.

use std::sync::{Mutex, PoisonError, atomic::AtomicU64};

use nimbert::{
    Classifier, Prediction, TextInput, Timing,
    summary::{SCORE_BINS, Summary, characters},
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode_registry},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::super::message;

/// Upper bounds in seconds: from a tenth of a millisecond to ten seconds.
const BUCKETS: [f64; 16] = [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Status {
    status: u16,
}

/// Which task's label; the former is empty where there is one without a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    task: String,
    label: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTask {
    task: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Figure {
    figure: String,
}

/// What was answered since the start.
struct Answers {
    labels: Family<Label, Counter>,
    scores: Family<OfTask, Histogram, fn() -> Histogram>,
    unsure: Family<OfTask, Counter>,
    unknown: Counter,
    characters: Histogram,
    drift: Family<Figure, Gauge<f64, AtomicU64>>,
    chance: Family<Figure, Gauge<f64, AtomicU64>>,
    summary: Mutex<Summary>,
    /// What the drift is from; none where the bundle does not say it.
    reference: Option<Summary>,
}

impl Answers {
    fn new(classifier: &Classifier) -> Self {
        let tasks = classifier.tasks();
        // What is no summary keeps nobody from serving.
        let reference = classifier.bundle().reference().unwrap_or_else(|error| {
            message(&format!("warning: no drift is shown: {error}"));
            None
        });
        let bins = || Histogram::new((1..=SCORE_BINS).map(|bin| bin as f64 / SCORE_BINS as f64));
        Self {
            labels: Family::default(),
            scores: Family::new_with_constructor(bins as fn() -> Histogram),
            unsure: Family::default(),
            unknown: Counter::default(),
            characters: Histogram::new((0..16).map(|power| f64::from(1 << power))),
            drift: Family::default(),
            chance: Family::default(),
            summary: Mutex::new(Summary::new(tasks)),
            reference: reference.map(|reference| reference.summary),
        }
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("labels", "Texts by their labels", self.labels.clone());
        registry.register("scores", "The best label's score", self.scores.clone());
        registry.register("unsure", "Texts whose score is under the bundle's threshold", self.unsure.clone());
        registry.register("unknown", "Texts that are like nothing in training", self.unknown.clone());
        registry.register("text_characters", "Characters of a text", self.characters.clone());
        let help =
            "Population stability index of the texts since the start against those that the bundle was tested on";
        registry.register("drift", help, self.drift.clone());
        let help = "What that index is at most in 95 of 100 cases in which nothing has changed";
        registry.register("drift_by_chance", help, self.chance.clone());
    }

    fn add(&self, input: TextInput<'_>, prediction: &Prediction) {
        let characters = characters(input);
        self.characters.observe(characters as f64);
        self.unknown.inc_by(u64::from(prediction.unknown));
        for answer in prediction.tasks() {
            let task = answer.task.as_deref().map(quotable).unwrap_or_default();
            for label in &answer.labels {
                self.labels.get_or_create(&Label { task: task.clone(), label: quotable(label) }).inc();
            }
            let of_task = OfTask { task };
            self.scores.get_or_create(&of_task).observe(answer.score.into());
            self.unsure.get_or_create(&of_task).inc_by(u64::from(answer.abstained));
        }
        self.summary.lock().unwrap_or_else(PoisonError::into_inner).add(characters, prediction);
    }

    fn update_drift(&self) {
        let Some(reference) = &self.reference else { return };
        let summary = self.summary.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for drift in reference.drift(&summary) {
            let figure = Figure { figure: quotable(&drift.name()) };
            self.drift.get_or_create(&figure).set(drift.psi);
            self.chance.get_or_create(&figure).set(drift.chance);
        }
    }
}

/// A name as Prometheus reads it between quotes, which the library writes as it is.
fn quotable(name: &str) -> String {
    name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Counters and histograms, registered under the names that `GET /metrics` shows.
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<Status, Counter>,
    texts: Counter,
    in_flight: Gauge,
    tokenization: Histogram,
    queue: Histogram,
    inference: Histogram,
    answers: Answers,
}

impl Metrics {
    /// Of a classifier that has answered nothing yet.
    pub(super) fn new(classifier: &Classifier) -> Self {
        let histogram = || Histogram::new(BUCKETS);
        let metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            texts: Counter::default(),
            in_flight: Gauge::default(),
            tokenization: histogram(),
            queue: histogram(),
            inference: histogram(),
            answers: Answers::new(classifier),
        };
        let mut registry = Registry::with_prefix("nimbert");
        registry.register(
            "requests",
            "Requests to /predict, / and /classify, by the status of the answer",
            metrics.requests.clone(),
        );
        registry.register("texts", "Texts that were classified", metrics.texts.clone());
        registry.register("requests_in_flight", "Requests that are being answered", metrics.in_flight.clone());
        let parts = [
            ("tokenization", "Text to token ids", &metrics.tokenization),
            ("queue", "Until the first text of a request is run", &metrics.queue),
            ("inference", "From then until its last text was run", &metrics.inference),
        ];
        for (name, help, histogram) in parts {
            registry.register(format!("{name}_seconds"), help, histogram.clone());
        }
        metrics.answers.register(&mut registry);
        Self { registry, ..metrics }
    }

    /// A request has come; it is in flight until what is returned is dropped.
    pub(super) fn begin(&self) -> InFlight<'_> {
        self.in_flight.inc();
        InFlight(&self.in_flight)
    }

    /// Requests that are being answered.
    pub(super) fn in_flight(&self) -> i64 {
        self.in_flight.get()
    }

    pub(super) fn answered(&self, status: u16) {
        self.requests.get_or_create(&Status { status }).inc();
    }

    pub(super) fn classified<'a>(
        &self,
        inputs: impl Iterator<Item = TextInput<'a>>,
        predictions: &[Prediction],
        timing: &Timing,
    ) {
        self.texts.inc_by(predictions.len() as u64);
        inputs.zip(predictions).for_each(|(input, prediction)| self.answers.add(input, prediction));
        self.tokenization.observe(timing.tokenization.as_secs_f64());
        self.queue.observe(timing.queue.as_secs_f64());
        self.inference.observe(timing.inference.as_secs_f64());
    }

    /// In Prometheus' text format.
    pub(super) fn text(&self) -> String {
        self.answers.update_drift();
        let mut text = String::new();
        encode_registry(&mut text, &self.registry).expect("a String takes all text");
        // OpenMetrics names a counter without the ending that its values have; the older format knows one name.
        let counters: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
            .map(str::to_owned)
            .collect();
        for counter in counters {
            for word in ["HELP", "TYPE"] {
                text = text.replace(&format!("# {word} {counter} "), &format!("# {word} {counter}_total "));
            }
        }
        text
    }
}

pub(super) struct InFlight<'a>(&'a Gauge);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_ends_where_its_quotes_do() {
        assert_eq!(quotable("a\"} 1\n\\b"), "a\\\"} 1\\n\\\\b");
    }
}
