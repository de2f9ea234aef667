//! The report of a training run as one HTML page that can be mailed or archived: styles and charts are inline, there is
//! no script and nothing to fetch, so it looks the same in ten years and offline. Every text from the data is escaped.
//! A section without data is left out.

use crate::suggest::CurvePoint;

/// Everything a report shows. Shares (accuracy, precision, ...) lie between 0 and 1.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Heading of the page.
    pub title: String,
    /// What was trained on what, in a line.
    pub subtitle: String,
    /// Headline figures: name and value.
    pub summary: Vec<(String, String)>,
    /// Training loss: step and value.
    pub loss: Vec<(f64, f64)>,
    /// Learning rate: step and value.
    pub learning_rate: Vec<(f64, f64)>,
    /// Loss and accuracy by epoch.
    pub epochs: Vec<EpochPoint>,
    /// What suggested labels are worth.
    pub labelling: Vec<CurvePoint>,
    /// Figures by label.
    pub labels: Vec<LabelRow>,
    /// Which label was taken for which, of each task whose rows have one.
    pub confusion: Vec<Confusion>,
    /// Accuracy by confidence, a bin each.
    pub reliability: Vec<ReliabilityBin>,
    /// Expected calibration error.
    pub ece: Option<f64>,
    /// Rows predicted wrongly, in the order they are shown.
    pub mistakes: Vec<Mistake>,
    /// Rows whose labels may be wrong, in the order they are shown; the score is how far their labels are believed.
    pub doubts: Vec<Mistake>,
    /// What the reader must not miss.
    pub warnings: Vec<String>,
    /// The exported graphs.
    pub variants: Vec<VariantRow>,
    /// The ways of learning that were compared, and which one was taken.
    pub methods: Option<Table>,
    /// Figures by cross-validation.
    pub cross_validation: Option<Table>,
    /// The candidates that were compared, and which one was taken.
    pub ladder: Option<Table>,
    /// Old and new test rows before and after a model went on.
    pub rehearsal: Option<Table>,
    /// Settings of the run: group, then name and value.
    pub settings: Vec<(String, Vec<(String, String)>)>,
}

/// An epoch's mean training loss, and the accuracy on each split after it.
#[derive(Debug, Clone, Default)]
pub struct EpochPoint {
    /// Its number, from 1.
    pub epoch: usize,
    /// Mean training loss.
    pub loss: f64,
    /// Training accuracy.
    pub train: f64,
    /// Validation accuracy.
    pub validation: Option<f64>,
    /// Test accuracy.
    pub test: Option<f64>,
}

/// Figures of one label.
#[derive(Debug, Clone, Default)]
pub struct LabelRow {
    /// Its name.
    pub label: String,
    /// Share of the rows predicted as this label that have it.
    pub precision: Option<f64>,
    /// Share of the rows with this label that were predicted so.
    pub recall: Option<f64>,
    /// Harmonic mean of precision and recall.
    pub f1: Option<f64>,
    /// Rows with this label.
    pub support: usize,
    /// Score from which the label is assigned.
    pub threshold: Option<f64>,
}

/// Confusion matrix.
#[derive(Debug, Clone, Default)]
pub struct Confusion {
    /// Names of the labels, in the order of the ids.
    pub labels: Vec<String>,
    /// `counts[expected][predicted]`: number of rows.
    pub counts: Vec<Vec<usize>>,
}

/// The rows whose confidence falls into one bin.
#[derive(Debug, Clone, Default)]
pub struct ReliabilityBin {
    /// Mean score of the predicted label.
    pub confidence: f64,
    /// Share of the rows predicted correctly.
    pub accuracy: f64,
    /// Number of rows.
    pub count: usize,
}

/// A row predicted wrongly.
#[derive(Debug, Clone, Default)]
pub struct Mistake {
    /// `file:line`.
    pub place: String,
    /// Its text.
    pub text: String,
    /// The label in the data.
    pub expected: String,
    /// The label of the model.
    pub predicted: String,
    /// Score of the predicted label.
    pub score: f64,
}

/// An exported graph.
#[derive(Debug, Clone, Default)]
pub struct VariantRow {
    /// Its precision or file.
    pub name: String,
    /// Size of the graph.
    pub bytes: u64,
    /// Accuracy on the held-out rows.
    pub accuracy: Option<f64>,
    /// Largest difference of a logit from the trained model's.
    pub max_logit_difference: Option<f64>,
    /// Mean time of a text.
    pub milliseconds: Option<f64>,
}

/// A table of texts.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// Names of the columns.
    pub header: Vec<String>,
    /// Cells by row.
    pub rows: Vec<Vec<String>>,
    /// Index of the row to mark.
    pub chosen: Option<usize>,
}

/// Points of a line: more cannot be told apart on a screen.
const MAX_POINTS: usize = 400;
/// Labels up to which a confusion matrix is readable.
const MAX_MATRIX_LABELS: usize = 20;
/// Confused pairs listed in place of a larger matrix.
const MAX_PAIRS: usize = 20;

/// The page as a complete HTML document.
pub fn render(page: &Page) -> String {
    let mut sections = vec![
        ("warnings", "Warnings", warnings(&page.warnings)),
        ("methods", "Methods", comparison("Methods", page.methods.as_ref())),
        ("training", "Training", training(page)),
        ("folds", "Cross-validation", comparison("Cross-validation", page.cross_validation.as_ref())),
        ("rehearsal", "Old and new rows", comparison("Old and new rows", page.rehearsal.as_ref())),
        ("labelling", "Labelling", labelling(&page.labelling)),
        ("labels", "Labels", labels(&page.labels)),
        ("confusion", "Confusion", concat(&page.confusion, confusion)),
        ("calibration", "Calibration", calibration(&page.reliability, page.ece)),
        ("mistakes", "Mistakes", mistakes("Mistakes", ["expected", "predicted", "score"], &page.mistakes)),
        ("doubts", "Doubtful labels", mistakes("Doubtful labels", ["label", "looks like", "belief"], &page.doubts)),
        ("variants", "Variants", variants(&page.variants)),
        ("candidates", "Candidates", comparison("Candidates", page.ladder.as_ref())),
        ("settings", "Settings", settings(&page.settings)),
    ];
    sections.retain(|(_, _, body)| !body.is_empty());
    let links = concat(&sections, |(id, name, _)| format!(r##"<a href="#{id}">{name}</a>"##));
    let body = concat(&sections, |(id, name, body)| {
        format!("<section id=\"{id}\" aria-labelledby=\"{id}-h\">\n<h2 id=\"{id}-h\">{name}</h2>\n{body}</section>\n")
    });
    let title = escape(if page.title.is_empty() { "Training report" } else { &page.title });
    let subtitle = wrap("<p>", &escape(&page.subtitle), "</p>\n");
    let navigation = wrap("<nav aria-label=\"Sections\">", &links, "</nav>\n");
    let summary = wrap("<dl class=\"summary\">", &definitions(&page.summary), "</dl>\n");
    format!(
        r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{subtitle}{navigation}</header>
<main>
{summary}{body}</main>
</body>
</html>
"#
    )
}

fn warnings(warnings: &[String]) -> String {
    let items = concat(warnings, |text| wrap("<li>", &escape(text), "</li>"));
    wrap("<ul class=\"warnings\">", &items, "</ul>\n")
}

fn training(page: &Page) -> String {
    let figures = [
        loss_chart(&page.loss),
        learning_rate_chart(&page.learning_rate),
        accuracy_chart(&page.epochs),
        epoch_table(&page.epochs),
    ];
    wrap("<div class=\"grid\">\n", &figures.concat(), "</div>\n")
}

fn loss_chart(loss: &[(f64, f64)]) -> String {
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
    line_chart("Loss by step", "step", Axis::from_zero, &[Series { name, class: "raw", points: raw }, smoothed], &note)
}

fn learning_rate_chart(learning_rate: &[(f64, f64)]) -> String {
    let points = finite(learning_rate);
    // Every n-th point, not means: they would cut the peak.
    let points = points.iter().step_by(points.len().div_ceil(MAX_POINTS).max(1)).copied().collect();
    let series = Series { name: "learning rate".to_owned(), class: "rate", points };
    line_chart("Learning rate by step", "step", Axis::from_zero, &[series], "")
}

fn accuracy_chart(epochs: &[EpochPoint]) -> String {
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
    line_chart("Accuracy by epoch, %", "epoch", Axis::percent, &series, "")
}

fn labelling(curve: &[CurvePoint]) -> String {
    let series = |name: &str, class, share: fn(&CurvePoint) -> f64| {
        let points = curve.iter().map(|point| (point.labels as f64, share(point) * 100.0)).collect();
        Series { name: name.to_owned(), class, points }
    };
    let series =
        [series("random", "train", |point| point.random), series("suggested", "validation", |point| point.suggested)];
    let chart = line_chart("Accuracy by labelled rows, %", "labelled rows", Axis::percent, &series, "");
    wrap("<div class=\"grid\">\n", &chart, "</div>\n")
}

fn epoch_table(epochs: &[EpochPoint]) -> String {
    let row = |epoch: &EpochPoint| {
        let shares = [Some(epoch.train), epoch.validation, epoch.test].map(percent);
        [vec![epoch.epoch.to_string(), decimals(Some(epoch.loss), 4)], shares.to_vec()].concat()
    };
    let header = ["epoch", "loss", "train", "validation", "test"];
    let rows: Vec<Vec<String>> = epochs.iter().map(row).collect();
    figure("Loss and accuracy by epoch", "", &table("Epochs", &header, &rows, |_| true, None), "")
}

fn labels(labels: &[LabelRow]) -> String {
    let thresholds = labels.iter().any(|label| label.threshold.is_some());
    let row = |label: &LabelRow| {
        let share = label.f1.unwrap_or(0.0).clamp(0.0, 1.0) * 100.0;
        let f1 = format!("{}<i style=\"--share:{share:.1}%\"></i>", percent(label.f1));
        let [precision, recall] = [label.precision, label.recall].map(percent);
        let mut cells = vec![escape(&label.label), precision, recall, f1, label.support.to_string()];
        cells.extend(thresholds.then(|| decimals(label.threshold, 3)));
        cells
    };
    let header = ["label", "precision", "recall", "F1", "rows", "threshold"];
    let header = &header[..if thresholds { 6 } else { 5 }];
    let rows: Vec<Vec<String>> = labels.iter().map(row).collect();
    table("Figures by label", header, &rows, |column| column > 0, None)
}

fn confusion(confusion: &Confusion) -> String {
    match confusion.labels.len() {
        0 => String::new(),
        1..=MAX_MATRIX_LABELS => confusion_matrix(confusion),
        _ => confused_pairs(confusion),
    }
}

fn confusion_matrix(Confusion { labels, counts }: &Confusion) -> String {
    let header =
        concat(labels, |label| format!("<th scope=\"col\" title=\"{0}\"><span>{0}</span></th>", escape(label)));
    let rows = concat(labels.iter().zip(counts).enumerate(), |(expected, (label, counts))| {
        let total = counts.iter().sum::<usize>().max(1) as f64;
        let cells = concat(counts.iter().enumerate(), |(predicted, &count)| {
            let class = if predicted == expected { "hit" } else { "miss" };
            let heat = count as f64 / total * 100.0;
            format!("<td class=\"{class}\" style=\"--heat:{heat:.0}%\" title=\"{heat:.1} %\">{count}</td>")
        });
        format!("<tr><th scope=\"row\">{}</th>{cells}</tr>", escape(label))
    });
    // Many names fit over their columns only if they stand upright.
    let class = if labels.len() > 6 { "matrix upright" } else { "matrix" };
    let header = format!("<thead><tr><td>expected ↓ predicted →</td>{header}</tr></thead>");
    let table = format!("<table class=\"{class}\">{header}<tbody>{rows}</tbody></table>");
    scroll_box("Confusion matrix", &table)
        + "<p class=\"note\">Colour: share of the rows with the expected label.</p>\n"
}

fn confused_pairs(Confusion { labels, counts }: &Confusion) -> String {
    let mut pairs: Vec<(usize, usize, usize)> = Vec::new();
    for (expected, row) in counts.iter().enumerate() {
        let wrong = row.iter().enumerate().filter(|&(predicted, &count)| predicted != expected && count > 0);
        pairs.extend(wrong.map(|(predicted, &count)| (count, expected, predicted)));
    }
    pairs.sort_by_key(|&(count, expected, predicted)| (std::cmp::Reverse(count), expected, predicted));
    let shown = &pairs[..pairs.len().min(MAX_PAIRS)];
    let name = |id: usize| labels.get(id).map_or(format!("label {id}"), |label| escape(label));
    let items = concat(shown, |&(count, expected, predicted)| {
        let total: usize = counts[expected].iter().sum();
        let (expected, predicted) = (name(expected), name(predicted));
        format!("<li><b>{expected}</b> taken for <b>{predicted}</b> <span>{count} of {total} rows</span></li>")
    });
    let note = format!("The {} most frequent of {} confused pairs of labels.", shown.len(), pairs.len());
    let note = if pairs.is_empty() { "No row was taken for another label." } else { &note };
    wrap("<ol class=\"pairs\">", &items, "</ol>\n") + &wrap("<p class=\"note\">", note, "</p>\n")
}

fn calibration(bins: &[ReliabilityBin], ece: Option<f64>) -> String {
    let mut bins: Vec<&ReliabilityBin> = bins.iter().filter(|bin| bin.count > 0).collect();
    bins.retain(|bin| bin.confidence.is_finite() && bin.accuracy.is_finite());
    bins.sort_by(|a, b| a.confidence.total_cmp(&b.confidence));
    let error = ece.map_or(String::new(), |ece| percent(Some(ece)));
    let error = wrap("<p>Expected calibration error: <b>", &error, "</b></p>\n");
    let row =
        |bin: &&ReliabilityBin| vec![percent(Some(bin.confidence)), percent(Some(bin.accuracy)), bin.count.to_string()];
    let rows: Vec<Vec<String>> = bins.iter().map(row).collect();
    let note = "Bars below the diagonal: more confident than correct. The stronger the colour, the more rows.";
    let figures = [
        figure("Accuracy by confidence, %", "", &reliability_diagram(&bins), note),
        figure("Bins", "", &table("Bins", &["mean confidence", "accuracy", "rows"], &rows, |_| true, None), ""),
    ];
    error + &wrap("<div class=\"grid\">\n", &figures.concat(), "</div>\n")
}

fn reliability_diagram(bins: &[&ReliabilityBin]) -> String {
    if bins.is_empty() {
        return String::new();
    }
    let plot = Plot { x: Axis::new(0.0, 100.0, 1.0), y: Axis::new(0.0, 100.0, 1.0) };
    let most = bins.iter().map(|bin| bin.count).max().unwrap_or(1) as f64;
    let bars = concat(bins.iter().enumerate(), |(index, bin)| {
        // As wide as a tenth of the axis allows, and no wider than the neighbours leave room for.
        let neighbours = bins[..index].last().into_iter().chain(bins.get(index + 1));
        let gap = neighbours.map(|other| (other.confidence - bin.confidence).abs() * 50.0).fold(4.0, f64::min);
        let edge = |side: f64| (bin.confidence * 100.0 + side * gap.max(0.4) * 0.95).clamp(0.0, 100.0);
        let ((left, top), (right, bottom)) =
            (plot.place((edge(-1.0), bin.accuracy * 100.0)), plot.place((edge(1.0), 0.0)));
        let (width, height, opacity) = (right - left, bottom - top, 0.35 + 0.65 * bin.count as f64 / most);
        let area = format!(r#"x="{left:.1}" y="{top:.1}" width="{width:.1}" height="{height:.1}""#);
        let title = format!("<title>{} rows</title>", bin.count);
        format!(r#"<rect class="bar" {area} fill-opacity="{opacity:.2}">{title}</rect>"#)
    });
    let ((x1, y1), (x2, y2)) = (plot.place((0.0, 0.0)), plot.place((100.0, 100.0)));
    let diagonal = format!(r#"<line class="diagonal" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#);
    plot.svg("Reliability diagram: accuracy by mean confidence", "mean confidence, %", &(bars + &diagonal))
}

fn mistakes(name: &str, [expected, predicted, score]: [&str; 3], mistakes: &[Mistake]) -> String {
    let row = |mistake: &Mistake| {
        let [text, place] = [&mistake.text, &mistake.place].map(|text| escape(text));
        // The focus, which a click gives, shows the whole text.
        let text = format!("<div class=\"text\" dir=\"auto\" tabindex=\"0\">{text}</div><small>{place}</small>");
        vec![text, escape(&mistake.expected), escape(&mistake.predicted), decimals(Some(mistake.score), 3)]
    };
    let header = ["text", expected, predicted, score];
    let rows: Vec<Vec<String>> = mistakes.iter().map(row).collect();
    let note = "<p class=\"note\">A text that is cut shows in full when clicked.</p>\n";
    wrap("", &table(name, &header, &rows, |column| column == 3, None), note)
}

fn variants(variants: &[VariantRow]) -> String {
    let row = |variant: &VariantRow| {
        vec![
            escape(&variant.name),
            format!("{:.1} MB", variant.bytes as f64 / 1e6),
            percent(variant.accuracy),
            variant
                .max_logit_difference
                .filter(|value| value.is_finite())
                .map_or("–".to_owned(), |v| format!("{v:.1e}")),
            decimals(variant.milliseconds, 2),
        ]
    };
    let header = ["variant", "size", "accuracy", "largest logit difference", "ms a text"];
    let rows: Vec<Vec<String>> = variants.iter().map(row).collect();
    table("Variants", &header, &rows, |column| column > 0, None)
}

fn comparison(name: &str, candidates: Option<&Table>) -> String {
    let Some(candidates) = candidates else { return String::new() };
    let header: Vec<&str> = candidates.header.iter().map(String::as_str).collect();
    let numeric = |column: usize| {
        let starts = |cell: &String| cell.starts_with(|first: char| first.is_ascii_digit() || "-+–−<~".contains(first));
        column > 0 && candidates.rows.iter().all(|row| row.get(column).is_none_or(starts))
    };
    let cells = |row: &Vec<String>| row.iter().map(|cell| escape(cell)).collect();
    let rows: Vec<Vec<String>> = candidates.rows.iter().map(cells).collect();
    table(name, &header, &rows, numeric, candidates.chosen)
}

fn settings(settings: &[(String, Vec<(String, String)>)]) -> String {
    let group = |(name, pairs): &(String, Vec<(String, String)>)| {
        format!("<figure><h3>{}</h3><dl class=\"settings\">{}</dl></figure>\n", escape(name), definitions(pairs))
    };
    wrap("<div class=\"grid\">\n", &concat(settings, group), "</div>\n")
}

fn definitions(pairs: &[(String, String)]) -> String {
    concat(pairs, |(name, value)| format!("<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(value)))
}

/// A table whose cells are HTML, nothing without rows; `numeric` columns are flush right, the `chosen` row is marked.
fn table(
    name: &str,
    header: &[&str],
    rows: &[Vec<String>],
    numeric: impl Fn(usize) -> bool,
    chosen: Option<usize>,
) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let class = |column| if numeric(column) { " class=\"n\"" } else { "" };
    let header = concat(header.iter().enumerate(), |(column, name)| {
        format!("<th scope=\"col\"{}>{}</th>", class(column), escape(name))
    });
    let row = |(index, cells): (usize, &Vec<String>)| {
        let cells = concat(cells.iter().enumerate(), |(column, cell)| format!("<td{}>{cell}</td>", class(column)));
        let mark = if chosen == Some(index) { " class=\"chosen\" aria-current=\"true\"" } else { "" };
        format!("<tr{mark}>{cells}</tr>\n")
    };
    let rows = concat(rows.iter().enumerate(), row);
    scroll_box(name, &format!("<table><thead><tr>{header}</tr></thead><tbody>\n{rows}</tbody></table>"))
}

/// A box that scrolls when its table is wider than the page; by keyboard too.
fn scroll_box(name: &str, table: &str) -> String {
    format!("<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{name}\">{table}</div>\n")
}

/// A chart or table under a heading, nothing if it is empty.
fn figure(title: &str, legend: &str, body: &str, note: &str) -> String {
    if body.is_empty() {
        return String::new();
    }
    let note = wrap("<figcaption class=\"note\">", note, "</figcaption>");
    format!("<figure><h3>{title}</h3>{legend}{body}{note}</figure>\n")
}

/// A line of a chart.
struct Series {
    name: String,
    /// Its colour in the style sheet.
    class: &'static str,
    points: Vec<(f64, f64)>,
}

/// The series that have points, with a legend if they are several; nothing if none has.
fn line_chart(title: &str, x_name: &str, y: fn(f64, f64) -> Axis, series: &[Series], note: &str) -> String {
    let series: Vec<&Series> = series.iter().filter(|series| !series.points.is_empty()).collect();
    if series.is_empty() {
        return String::new();
    }
    let range = |value: fn(&(f64, f64)) -> f64| {
        let values = series.iter().flat_map(|series| series.points.iter().map(value));
        values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)))
    };
    let ((x_low, x_high), (y_low, y_high)) = (range(|point| point.0), range(|point| point.1));
    let plot = Plot { x: Axis::new(x_low, x_high, 1.0), y: y(y_low, y_high) };
    let ends = concat(&series, |series| {
        let [first, last] = [0, series.points.len() - 1].map(|index| plot.y.text(series.points[index].1, 2));
        format!("; {} from {first} to {last}", series.name)
    });
    let legend = concat(&series, |Series { class, name, points }| {
        let last = plot.y.text(points[points.len() - 1].1, 2);
        format!("<li><span class=\"key {class}\"></span>{name} <b>{last}</b></li>")
    });
    let legend = if series.len() > 1 { wrap("<ul class=\"legend\">", &legend, "</ul>") } else { String::new() };
    let lines = concat(&series, |series| plot.line(series));
    figure(title, &legend, &plot.svg(&format!("{title}{ends}"), x_name, &lines), note)
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

    fn line(&self, Series { class, points, .. }: &Series) -> String {
        let places: Vec<(f64, f64)> = points.iter().map(|&point| self.place(point)).collect();
        let line = concat(&places, |(x, y)| format!("{x:.1},{y:.1} "));
        // A line of one point would be invisible.
        let dots = if places.len() <= 30 { places.as_slice() } else { &[] };
        let dots = concat(dots, |(x, y)| format!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="3"/>"#));
        format!(r#"<g class="{class}"><polyline points="{}"/>{dots}</g>"#, line.trim_end())
    }

    fn svg(&self, label: &str, x_name: &str, marks: &str) -> String {
        let (left, right, bottom, height) = (Self::LEFT, Self::RIGHT, Self::BOTTOM, Self::HEIGHT);
        let rows = concat(&self.y.ticks(), |&tick| {
            let (_, y) = self.place((self.x.low, tick));
            let text = format!(
                r#"<text x="{}" y="{:.1}" text-anchor="end">{}</text>"#,
                left - 8.0,
                y + 4.0,
                self.y.text(tick, 0)
            );
            format!(r#"<line class="rule" x1="{left}" y1="{y:.1}" x2="{right}" y2="{y:.1}"/>{text}"#)
        });
        let columns = concat(&self.x.ticks(), |&tick| {
            let (x, _) = self.place((tick, self.y.low));
            format!(r#"<text x="{x:.1}" y="{}" text-anchor="middle">{}</text>"#, bottom + 18.0, self.x.text(tick, 0))
        });
        let name =
            format!(r#"<text x="{}" y="{}" text-anchor="middle">{x_name}</text>"#, (left + right) / 2.0, height - 8.0);
        let axis = format!(r#"<line class="axis" x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>"#);
        let (width, label) = (Self::WIDTH, escape(label));
        let attributes = format!(r#"viewBox="0 0 {width} {height}" role="img" aria-label="{label}""#);
        format!("<svg {attributes}>{rows}{columns}{name}{marks}{axis}</svg>")
    }
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

fn percent(share: Option<f64>) -> String {
    share.filter(|share| share.is_finite()).map_or("–".to_owned(), |share| format!("{:.2} %", share * 100.0))
}

/// A number with so many digits; a dash where there is none.
pub(crate) fn decimals(value: Option<f64>, digits: usize) -> String {
    value.filter(|value| value.is_finite()).map_or("–".to_owned(), |value| format!("{value:.digits$}"))
}

fn concat<I: IntoIterator>(items: I, html: impl FnMut(I::Item) -> String) -> String {
    items.into_iter().map(html).collect()
}

/// The body between its tags; nothing if it is empty.
fn wrap(open: &str, body: &str, close: &str) -> String {
    if body.is_empty() { String::new() } else { format!("{open}{body}{close}") }
}

/// The text as content or as the value of an attribute; control characters, which HTML forbids, are replaced.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\r' | '\t' => escaped.push(character),
            _ if character.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// Colours meet 4.5 : 1 against their ground for text; the lines of a chart also differ without colour.
const STYLE: &str = "
:root{--ground:#f5f6f8;--paper:#fff;--text:#1a2230;--muted:#5a6577;--rule:#e2e6ec;--axis:#9aa4b2;--blue:#1f5fd0;
--orange:#c2500a;--green:#0b7a5c;--red:#cc3344;--amber:#fff4d9;--amber-rule:#e0a516;--shade:#1a223026}
@media(prefers-color-scheme:dark){:root{--ground:#10141b;--paper:#181e27;--text:#e4e9f0;--muted:#9aa7b8;--rule:#2b3441;
--axis:#66738a;--blue:#6ea6ff;--orange:#f5924e;--green:#46c5a0;--red:#f0707d;--amber:#332a12;--amber-rule:#c4921f;
--shade:#0008}}
*{box-sizing:border-box}
html{color-scheme:light dark;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--text);font:15px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
header,main{max-width:1120px;margin:0 auto;padding:32px 16px 0}
main{padding:0 16px 48px}
h1{font-size:1.75rem;line-height:1.2;margin:0}
h2{font-size:1.2rem;margin:36px 0 12px}
h3{font-size:.95rem;margin:0 0 8px}
header p{color:var(--muted);margin:6px 0 0}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin-top:14px;padding-bottom:12px;border-bottom:1px solid var(--rule)}
a{color:var(--blue);text-decoration:none}
a:hover{text-decoration:underline}
:focus-visible{outline:2px solid var(--blue);outline-offset:1px}
.summary div,figure,section>.scroll,.pairs{background-color:var(--paper);border:1px solid var(--rule);border-radius:8px}
.summary{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:20px 0 0}
.summary div{padding:12px 16px}
.summary dd{font-size:1.4rem;font-weight:650;line-height:1.25}
dt,.note,th,.legend,small{color:var(--muted);font-size:.82rem}
dd{margin:0}
dd,.n,.legend b,svg text,.matrix td{font-variant-numeric:tabular-nums}
.warnings{margin:0;padding:12px 16px 12px 36px;background:var(--amber);border-left:4px solid var(--amber-rule);
border-radius:4px}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,420px),1fr));gap:16px}
figure{margin:0;padding:16px;min-width:0}
.note{margin:8px 0 0}

.legend{display:flex;flex-wrap:wrap;gap:2px 18px;list-style:none;margin:0 0 6px;padding:0}
.legend b{color:var(--text)}
.key{display:inline-block;width:20px;border-top:3px solid;margin-right:6px;vertical-align:middle}
svg{display:block;width:100%;height:auto;font-size:11.5px}
svg text{fill:var(--muted)}
polyline{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round}
circle{fill:currentColor}
.rule{stroke:var(--rule)}
.axis{stroke:var(--axis)}
.raw{color:var(--axis)}
.raw polyline{stroke-width:1}
.key.raw{border-top-width:1px}
.smoothed,.rate,.train{color:var(--blue)}
.validation{color:var(--orange)}
.validation polyline{stroke-dasharray:7 4}
.key.validation{border-top-style:dashed}
.test{color:var(--green)}
.test polyline{stroke-dasharray:2 3}
.key.test{border-top-style:dotted}
.bar{fill:var(--blue)}
.diagonal{stroke:var(--orange);stroke-width:1.5;stroke-dasharray:5 4}

.scroll{overflow:auto;max-height:560px;--cover:linear-gradient(var(--paper),var(--paper));
background:var(--cover) 0 100%/100% 14px no-repeat local,
linear-gradient(0deg,var(--shade),transparent) 0 100%/100% 14px no-repeat,
var(--cover) 100% 0/14px 100% no-repeat local,
linear-gradient(270deg,var(--shade),transparent) 100% 0/14px 100% no-repeat,var(--paper)}
figure .scroll{max-height:330px;font-size:.9rem}
table{border-collapse:collapse;width:100%}
th,td{padding:7px 14px;text-align:left;vertical-align:top;border-bottom:1px solid var(--rule)}
figure th,figure td{padding:5px 8px}
tbody tr:last-child>*{border-bottom:0}
thead th{position:sticky;top:0;background:var(--paper);font-weight:600;white-space:nowrap;z-index:1}
td{min-width:8rem}
td:last-child{min-width:14rem}
td.n{min-width:0}
.n{text-align:right;white-space:nowrap}
td i{display:block;width:5rem;height:4px;margin:3px 0 0 auto;border-radius:2px;
background:linear-gradient(90deg,var(--blue) var(--share),var(--rule) 0)}
.chosen td{background:color-mix(in srgb,var(--blue) 14%,transparent);font-weight:600}
.text{min-width:15rem;white-space:pre-line;display:-webkit-box;-webkit-box-orient:vertical;-webkit-line-clamp:3;
line-clamp:3;overflow:hidden}
.text:focus{-webkit-line-clamp:unset;line-clamp:unset}
.scroll:has(.matrix){width:fit-content;max-width:100%}
.matrix tbody tr>*{vertical-align:middle}
.matrix tbody td,.matrix thead th{text-align:center;min-width:5.5rem;white-space:nowrap}
.matrix thead td{font-size:.75rem;color:var(--muted);overflow-wrap:normal}
.matrix tbody th{position:sticky;left:0;background:var(--paper);min-width:8rem;max-width:14rem}
.matrix .hit{background:color-mix(in srgb,var(--blue) calc(var(--heat)*.5),transparent)}
.matrix .miss{background:color-mix(in srgb,var(--red) min(50%,var(--heat)*2),transparent)}
.matrix thead span{display:inline-block;max-width:9rem;overflow:hidden;text-overflow:ellipsis}
.matrix.upright tbody td,.matrix.upright thead th{min-width:2.8rem;padding:7px 6px}
.upright thead th{vertical-align:bottom}
.upright thead span{writing-mode:vertical-rl;transform:rotate(180deg);max-height:9rem}
.pairs{margin:0;padding:12px 16px 12px 44px}
.pairs span{color:var(--muted);margin-left:8px}
.settings{margin:0}
.settings div{display:flex;gap:16px;justify-content:space-between;padding:4px 0;border-top:1px solid var(--rule)}
.settings dt{flex:none;max-width:50%}
.settings dd{text-align:right;min-width:0}

@media(max-width:600px){header{padding-top:20px}h1{font-size:1.4rem}svg{font-size:15px}figure{padding:12px}
.summary{grid-template-columns:1fr 1fr}th,td{padding:6px 10px}figure th,figure td{padding:5px}
.matrix tbody th{min-width:5rem;max-width:7rem}}
@media print{.scroll{max-height:none;overflow:visible}figure,tr{break-inside:avoid}nav{display:none}}
";

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Page {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let label =
            |label: &str| LabelRow { label: label.to_owned(), f1: Some(0.9), support: 10, ..LabelRow::default() };
        let epoch = |epoch| EpochPoint { epoch, loss: 0.5, train: 0.8, validation: Some(0.7), test: Some(f64::NAN) };
        Page {
            labelling: vec![
                CurvePoint { labels: 10, random: 0.5, suggested: 0.6 },
                CurvePoint { labels: 20, random: 0.6, suggested: 0.7 },
            ],
            title: "Sentiment".to_owned(),
            subtitle: "bert-tiny on reviews".to_owned(),
            summary: vec![pair("accuracy", "88.1 %")],
            loss: (0..1000).map(|step| (f64::from(step), 1.0 / f64::from(step + 1))).collect(),
            learning_rate: vec![(0.0, 0.0), (1.0, 5e-5), (2.0, f64::NAN)],
            epochs: (1..4).map(epoch).collect(),
            labels: ["good", "bad"].map(label).to_vec(),
            confusion: vec![Confusion {
                labels: ["good", "bad"].map(String::from).to_vec(),
                counts: vec![vec![9, 1], vec![2, 8]],
            }],
            reliability: vec![ReliabilityBin { confidence: 0.9, accuracy: 0.8, count: 20 }],
            ece: Some(0.1),
            mistakes: vec![Mistake { text: "<script>alert('x')</script>\0".to_owned(), ..Mistake::default() }],
            doubts: Vec::new(),
            warnings: vec!["few rows".to_owned()],
            variants: vec![VariantRow { name: "int8".to_owned(), bytes: 4_400_000, ..VariantRow::default() }],
            methods: None,
            cross_validation: None,
            rehearsal: None,
            ladder: Some(Table {
                header: vec!["model".to_owned()],
                rows: vec![vec!["tiny".to_owned()]],
                chosen: Some(0),
            }),
            settings: vec![("optimizer".to_owned(), vec![pair("learning rate", "5e-5")])],
        }
    }

    #[test]
    fn texts_are_escaped() {
        assert_eq!(
            escape("<a b=\"c\" d='e'>&\0\u{85}\n"),
            "&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;\u{fffd}\u{fffd}\n"
        );
        assert!(render(&full()).contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;\u{fffd}"));
    }

    #[test]
    fn nothing_is_fetched_or_run() {
        let html = render(&full());
        for forbidden in ["http", "<script", "src=", "url(", "@import", "NaN", "inf"] {
            assert!(!html.contains(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn sections_follow_the_data() {
        let (full, empty) = (render(&full()), render(&Page::default()));
        for id in
            "warnings training labelling labels confusion calibration mistakes variants candidates settings".split(' ')
        {
            assert!(full.contains(&format!("<section id=\"{id}\"")), "{id}");
        }
        assert_eq!(full.matches("<svg").count(), 5);
        assert!(empty.contains("<h1>Training report</h1>") && !empty.contains("<section") && !empty.contains("<nav"));
    }

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
        for points in [vec![], vec![(f64::NAN, 1.0)], vec![(1.0, f64::INFINITY), (2.0, 1e300)]] {
            assert_eq!(loss_chart(&points), "");
        }
        for points in [vec![(7.0, 0.0)], vec![(1.0, 2.0); 3], vec![(1.0, -1e99), (2.0, 1e99)], vec![(0.0, 1e-310)]] {
            let chart = loss_chart(&points);
            assert!(chart.contains("<circle") && !chart.contains("NaN") && !chart.contains("inf"), "{chart}");
        }
        assert!(loss_chart(&[(1.0, 0.5), (2.0, f64::NAN)]).contains("1 of 2 steps had no finite loss"));
        let points: Vec<(f64, f64)> = (0..1001).map(|step| (f64::from(step), 1.0)).collect();
        assert_eq!(downsample(&points, 3).len(), 334);
        assert!(smooth(&points).iter().all(|point| (point.1 - 1.0).abs() < 1e-12));
    }

    #[test]
    fn many_labels_are_listed_by_pairs() {
        let mut counts = vec![vec![0; 30]; 30];
        (counts[3][4], counts[3][3], counts[5][6]) = (2, 8, 1);
        let html = confusion(&Confusion { labels: (0..30).map(|id| format!("l{id}")).collect(), counts });
        assert!(!html.contains("<table") && html.contains("<b>l3</b> taken for <b>l4</b> <span>2 of 10 rows</span>"));
    }
}
