//! What Prometheus reads of a server.

use nimbert::Timing;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode_registry},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Upper bounds in seconds: from a tenth of a millisecond to ten seconds.
const BUCKETS: [f64; 16] = [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Status {
    status: u16,
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
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram = || Histogram::new(BUCKETS);
        let metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            texts: Counter::default(),
            in_flight: Gauge::default(),
            tokenization: histogram(),
            queue: histogram(),
            inference: histogram(),
        };
        let mut registry = Registry::with_prefix("nimbert");
        registry.register("requests", "Texts to be predicted, by the status of the answer", metrics.requests.clone());
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
        Self { registry, ..metrics }
    }
}

impl Metrics {
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

    pub(super) fn classified(&self, texts: usize, timing: &Timing) {
        self.texts.inc_by(texts as u64);
        self.tokenization.observe(timing.tokenization.as_secs_f64());
        self.queue.observe(timing.queue.as_secs_f64());
        self.inference.observe(timing.inference.as_secs_f64());
    }

    /// In Prometheus' text format.
    pub(super) fn text(&self) -> String {
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
