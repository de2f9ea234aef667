//! Charts of the report, drawn as SVG that takes its colours and its width from the style sheet: a plotting crate would write fixed ones,
//! which fit neither a dark page nor a narrow one.

use maud::{Markup, html};

use super::{EpochPoint, ReliabilityBin, TrialPoint, figure, percent};
use crate::suggest::CurvePoint;

/// Points of a line: more cannot be told apart on a screen.
const MAX_POINTS: usize = 400;

pub(super) fn loss(loss: &[(f64, f64)]) -> Option<Markup> {
    let points = finite(loss);
    let bucket = points.len().div_ceil(MAX_POINTS).max(1);
    let raw = downsample(&points, bucket);
    let name = if bucket == 1 { "each step".to_owned() } else { format!("mean of {bucket} steps") };
    let smoothed = Series { name: "smoothed".to_owned(), class: "smoothed", points: smooth(&raw) };
    // A run that diverged must not look well because its worst steps cannot be drawn.
    let note = match loss.len() - points.len() {
        0 => String::new(),
        missing => format!("{missing} of {} steps had no finite loss and are left out.", loss.len()),
    };
    lines("Loss by step", "step", Axis::from_zero, &[Series { name, class: "raw", points: raw }, smoothed], &note)
}

pub(super) fn learning_rate(learning_rate: &[(f64, f64)]) -> Option<Markup> {
    let points = finite(learning_rate);
    // Every n-th point, not means: they would cut the peak.
    let points = points.iter().step_by(points.len().div_ceil(MAX_POINTS).max(1)).copied().collect();
    let series = Series { name: "learning rate".to_owned(), class: "rate", points };
    lines("Learning rate by step", "step", Axis::from_zero, &[series], "")
}

pub(super) fn accuracy(epochs: &[EpochPoint]) -> Option<Markup> {
    let series = |name: &str, class, share: fn(&EpochPoint) -> Option<f64>| {
        let point = |epoch: &EpochPoint| share(epoch).map(|share| (epoch.epoch as f64, share * 100.0));
        let points: Vec<(f64, f64)> = epochs.iter().filter_map(point).collect();
        Series { name: name.to_owned(), class, points: finite(&points) }
    };
    let series = [
        series("train", "train", |epoch| Some(epoch.train)),
        series("validation", "validation", |epoch| epoch.validation),
        series("test", "test", |epoch| epoch.test),
    ];
    lines("Accuracy by epoch, %", "epoch", Axis::percent, &series, "")
}

pub(super) fn labelling(curve: &[CurvePoint]) -> Option<Markup> {
    let series = |name: &str, class, share: fn(&CurvePoint) -> f64| {
        let points = curve.iter().map(|point| (point.labels as f64, share(point) * 100.0)).collect();
        Series { name: name.to_owned(), class, points }
    };
    let series =
        [series("random", "train", |point| point.random), series("suggested", "validation", |point| point.suggested)];
    lines("Accuracy by labelled rows, %", "labelled rows", Axis::percent, &series, "")
}

/// Bars of bins in the order of their confidence, whose values are finite.
pub(super) fn reliability(bins: &[&ReliabilityBin]) -> Option<Markup> {
    let most = bins.iter().map(|bin| bin.count).max()? as f64;
    let plot = Plot { x: Axis::new(0.0, 100.0, 1.0), y: Axis::new(0.0, 100.0, 1.0) };
    // As wide as a tenth of the axis allows, and no wider than the neighbours leave room for.
    let edge = |index: usize, side: f64| {
        let bin = bins[index];
        let neighbours = bins[..index].last().into_iter().chain(bins.get(index + 1));
        let gap = neighbours.map(|other| (other.confidence - bin.confidence).abs() * 50.0).fold(4.0, f64::min);
        (bin.confidence * 100.0 + side * gap.max(0.4) * 0.95).clamp(0.0, 100.0)
    };
    let marks = html! {
        @for (index, bin) in bins.iter().enumerate() {
            @let (left, top) = plot.place((edge(index, -1.0), bin.accuracy * 100.0));
            @let (right, bottom) = plot.place((edge(index, 1.0), 0.0));
            @let opacity = format!("{:.2}", 0.35 + 0.65 * bin.count as f64 / most);
            rect.bar x=(at(left)) y=(at(top)) width=(at(right - left)) height=(at(bottom - top)) fill-opacity=(opacity) {
                title { (bin.count) " rows" }
            }
        }
        (line("diagonal", plot.place((0.0, 0.0)), plot.place((100.0, 100.0))))
    };
    let svg = plot.svg("Reliability diagram: accuracy by mean confidence", "mean confidence, %", &marks);
    let note = "Bars below the diagonal: more confident than correct. The stronger the colour, the more rows.";
    Some(figure("Accuracy by confidence, %", svg, note))
}

/// A dot for each trial that did not fail, which tells its settings.
pub(super) fn trials(trials: &[TrialPoint]) -> Option<Markup> {
    let trials: Vec<&TrialPoint> = trials.iter().filter(|trial| trial.accuracy.is_finite()).collect();
    let place = |trial: &TrialPoint| (trial.seconds, trial.accuracy * 100.0);
    let ((x_low, x_high), (y_low, y_high)) = ranges(trials.iter().map(|trial| place(trial)))?;
    let plot = Plot { x: Axis::from_zero(x_low, x_high), y: Axis::percent(y_low, y_high) };
    let marks = html! {
        @for trial in &trials {
            @let (x, y) = plot.place(place(trial));
            @let class = if trial.is_chosen { "trial taken" } else { "trial" };
            circle class=(class) cx=(at(x)) cy=(at(y)) r="5" {
                title { (trial.settings) ": " (percent(Some(trial.accuracy))) " on folds: " (trial.folds) }
            }
        }
    };
    let title = "Accuracy on folds by what one takes, %";
    let svg = plot.svg(title, "seconds", &marks);
    let note = "The other colour: what was taken. A dot that is pointed at tells its settings, and on how many folds they were \
                tried: on few, chance is in it.";
    Some(figure(title, svg, note))
}

/// A line of a chart.
struct Series {
    name: String,
    /// Its colour in the style sheet.
    class: &'static str,
    points: Vec<(f64, f64)>,
}

/// The series that have points, with a legend if they are several; nothing if none has.
fn lines(title: &str, x_name: &str, y: fn(f64, f64) -> Axis, series: &[Series], note: &str) -> Option<Markup> {
    let series: Vec<&Series> = series.iter().filter(|series| !series.points.is_empty()).collect();
    let all = series.iter().flat_map(|series| series.points.iter().copied());
    let ((x_low, x_high), (y_low, y_high)) = ranges(all)?;
    let plot = Plot { x: Axis::new(x_low, x_high, 1.0), y: y(y_low, y_high) };
    let value = |point: Option<&(f64, f64)>| point.map_or(String::new(), |point| plot.y.text(point.1, 2));
    let ends = series.iter().map(|Series { name, points, .. }| {
        format!("; {name} from {} to {}", value(points.first()), value(points.last()))
    });
    let label = std::iter::once(title.to_owned()).chain(ends).collect::<String>();
    let marks = html! { @for series in &series { (plot.line(series)) } };
    let body = html! {
        @if series.len() > 1 {
            ul.legend {
                @for Series { name, class, points } in &series {
                    li { span class={ "key " (class) } {} (name) " " b { (value(points.last())) } }
                }
            }
        }
        (plot.svg(&label, x_name, &marks))
    };
    Some(figure(title, body, note))
}

/// A chart's two axes within its `viewBox`, which the style sheet scales to the width of the page.
struct Plot {
    x: Axis,
    y: Axis,
}

impl Plot {
    const WIDTH: f64 = 480.0;
    const HEIGHT: f64 = 250.0;
    const LEFT: f64 = 54.0;
    const RIGHT: f64 = 466.0;
    const TOP: f64 = 12.0;
    const BOTTOM: f64 = 204.0;

    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let x = Self::LEFT + (Self::RIGHT - Self::LEFT) * self.x.share(x);
        (x, Self::BOTTOM - (Self::BOTTOM - Self::TOP) * self.y.share(y))
    }

    fn line(&self, Series { class, points, .. }: &Series) -> Markup {
        let places: Vec<(f64, f64)> = points.iter().map(|&point| self.place(point)).collect();
        let line: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        // A line of one point would be invisible.
        let dots = if places.len() <= 30 { places.as_slice() } else { &[] };
        html! {
            g class=(class) {
                polyline points=(line.join(" ")) {}
                @for &(x, y) in dots {
                    circle cx=(at(x)) cy=(at(y)) r="3" {}
                }
            }
        }
    }

    fn svg(&self, label: &str, x_name: &str, marks: &Markup) -> Markup {
        html! {
            svg viewBox={ "0 0 " (Self::WIDTH) " " (Self::HEIGHT) } role="img" aria-label=(label) {
                @for tick in self.y.ticks() {
                    @let (_, y) = self.place((self.x.low, tick));
                    (line("rule", (Self::LEFT, y), (Self::RIGHT, y)))
                    (name("end", (Self::LEFT - 8.0, y + 4.0), &self.y.text(tick, 0)))
                }
                @for tick in self.x.ticks() {
                    @let (x, _) = self.place((tick, self.y.low));
                    (name("middle", (x, Self::BOTTOM + 18.0), &self.x.text(tick, 0)))
                }
                (name("middle", ((Self::LEFT + Self::RIGHT) / 2.0, Self::HEIGHT - 8.0), x_name))
                (marks)
                (line("axis", (Self::LEFT, Self::BOTTOM), (Self::RIGHT, Self::BOTTOM)))
            }
        }
    }
}

fn line(class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) -> Markup {
    html! { line class=(class) x1=(at(x1)) y1=(at(y1)) x2=(at(x2)) y2=(at(y2)) {} }
}

fn name(anchor: &str, (x, y): (f64, f64), name: &str) -> Markup {
    html! { text x=(at(x)) y=(at(y)) text-anchor=(anchor) { (name) } }
}

/// The lowest and the highest values of points, nothing without points.
fn ranges(mut points: impl Iterator<Item = (f64, f64)>) -> Option<((f64, f64), (f64, f64))> {
    let (x, y) = points.next()?;
    let widened = |(low, high): (f64, f64), value: f64| (low.min(value), high.max(value));
    Some(points.fold(((x, x), (y, y)), |(of_x, of_y), (x, y)| (widened(of_x, x), widened(of_y, y))))
}

/// A coordinate.
fn at(place: f64) -> String {
    format!("{place:.1}")
}

/// A range of values with ticks at round ones.
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// Just the range, with about six ticks that lie `least` apart or more; a range without width is widened.
    fn new(low: f64, high: f64, least: f64) -> Self {
        let (low, high) = if high - low > 1e-9 * low.abs().max(high.abs()) {
            (low, high)
        } else if low == 0.0 {
            (0.0, 1.0)
        } else {
            (low - low.abs() * 0.1, low + low.abs() * 0.1)
        };
        let raw = (high - low) / 6.0;
        let power = 10f64.powf(raw.log10().floor());
        let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= raw * (1.0 - 1e-9));
        Self { low, high, step: (factor.unwrap_or(10.0) * power).max(least) }
    }

    /// The same with its ends moved out to ticks.
    fn rounded(self) -> Self {
        let Self { low, high, step } = self;
        Self { low: (low / step + 1e-9).floor() * step, high: (high / step - 1e-9).ceil() * step, step }
    }

    fn from_zero(low: f64, high: f64) -> Self {
        Self::new(low.min(0.0), high.max(0.0), 0.0).rounded()
    }

    /// Percents: half a point of range or more, so that noise does not fill the chart, and none above 100.
    fn percent(low: f64, high: f64) -> Self {
        let margin = ((1.0 - (high - low)) / 2.0).max(0.0);
        Self::new((low - margin).max(0.0), (high + margin).min(100.0), 0.0).rounded()
    }

    fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    fn ticks(&self) -> Vec<f64> {
        let [first, last] = [(self.low / self.step - 1e-9).ceil(), (self.high / self.step + 1e-9).floor()];
        (first as i64..=last as i64).map(|tick| tick as f64 * self.step).collect()
    }

    /// A tick, or another value to `digits` more decimals than the ticks need.
    fn text(&self, value: f64, digits: usize) -> String {
        let decimals = -(self.step.log10() + 1e-9).floor();
        match self.step {
            _ if value == 0.0 => "0".to_owned(),
            1e-3..1e6 => format!("{value:.*}", decimals.max(0.0) as usize + digits),
            _ => format!("{value:.1e}").replace(".0e", "e"),
        }
    }
}

/// The points that can be drawn; the bound keeps differences and steps finite too.
fn finite(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    points.iter().copied().filter(|(x, y)| x.abs() < 1e100 && y.abs() < 1e100).collect()
}

/// Means of each `bucket` points in a row.
fn downsample(points: &[(f64, f64)], bucket: usize) -> Vec<(f64, f64)> {
    let mean = |points: &[(f64, f64)]| {
        let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
        (x / points.len() as f64, y / points.len() as f64)
    };
    points.chunks(bucket).map(mean).collect()
}

/// Exponential moving average over about a fortieth of the points; divided by the weight so far, as the first values
/// would else be drawn to zero.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let decay = 1.0 - 2.0 / (points.len() as f64 / 40.0 + 2.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    let average = |&(x, y): &(f64, f64)| {
        sum = decay * sum + (1.0 - decay) * y;
        weight = decay * weight + (1.0 - decay);
        (x, sum / weight)
    };
    points.iter().map(average).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        let texts = |axis: Axis| axis.ticks().iter().map(|&tick| axis.text(tick, 0)).collect::<Vec<_>>().join(" ");
        assert_eq!(texts(Axis::from_zero(0.13, 0.93)), "0 0.2 0.4 0.6 0.8 1.0");
        assert_eq!(texts(Axis::from_zero(0.0, 5e-5)), "0 1e-5 2e-5 3e-5 4e-5 5e-5");
        assert_eq!(texts(Axis::new(1.0, 1170.0, 1.0)), "200 400 600 800 1000");
        assert_eq!(texts(Axis::new(1.0, 3.0, 1.0)), "1 2 3");
        assert_eq!(texts(Axis::percent(100.0, 100.0)), "99.5 99.6 99.7 99.8 99.9 100.0");
    }

    #[test]
    fn charts_cope_with_any_points() {
        let drawn = |points: &[(f64, f64)]| loss(points).unwrap().into_string();
        for points in [vec![], vec![(f64::NAN, 1.0)], vec![(1.0, f64::INFINITY), (2.0, 1e300)]] {
            assert!(loss(&points).is_none());
        }
        for points in [vec![(7.0, 0.0)], vec![(1.0, 2.0); 3], vec![(1.0, -1e99), (2.0, 1e99)], vec![(0.0, 1e-310)]] {
            let chart = drawn(&points);
            assert!(chart.contains("<circle") && !chart.contains("NaN") && !chart.contains("inf"), "{chart}");
        }
        assert!(drawn(&[(1.0, 0.5), (2.0, f64::NAN)]).contains("1 of 2 steps had no finite loss"));
        let points: Vec<(f64, f64)> = (0..1001).map(|step| (f64::from(step), 1.0)).collect();
        assert_eq!(downsample(&points, 3).len(), 334);
        assert!(smooth(&points).iter().all(|point| (point.1 - 1.0).abs() < 1e-12));
    }
}
