//! The report of a training run as one HTML page that can be mailed or archived: styles and charts are inline, there is
//! no script and nothing to fetch, so it looks the same in ten years and offline. Every text from the data is escaped.
//! A section without data is left out.

mod chart;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::{
    metrics::{self, MAX_MATRIX_LABELS, MAX_PAIRS},
    suggest::CurvePoint,
};

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
    /// What settings were worth that were tried.
    pub trials: Vec<TrialPoint>,
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

/// Settings that were tried.
#[derive(Debug, Clone, Default)]
pub struct TrialPoint {
    /// They.
    pub settings: String,
    /// On how many folds.
    pub folds: usize,
    /// How long a fold took.
    pub seconds: f64,
    /// Share of the rows of folds that were answered correctly.
    pub accuracy: f64,
    /// Whether they were taken.
    pub is_chosen: bool,
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
    /// Score of the predicted label; where a row may have any number, what the wrong one that is surest has, or lacks of 1.
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
    /// Largest difference of a logit from fp32's, and of fp32's from the trained model's.
    pub max_logit_difference: Option<f64>,
    /// Median time of a text.
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

const STYLE: &str = include_str!("style.css");

/// The page as a complete HTML document. Control characters, which HTML forbids, are replaced.
pub fn render(page: &Page) -> String {
    let is_printable = |character: char| !character.is_control() || matches!(character, '\n' | '\r' | '\t');
    let replaced = |character| if is_printable(character) { character } else { char::REPLACEMENT_CHARACTER };
    document(page).into_string().chars().map(replaced).collect()
}

fn document(page: &Page) -> Markup {
    let sections = [
        ("warnings", "Warnings", warnings(&page.warnings)),
        ("methods", "Methods", comparison("Methods", page.methods.as_ref())),
        ("training", "Training", training(page)),
        ("folds", "Cross-validation", comparison("Cross-validation", page.cross_validation.as_ref())),
        ("rehearsal", "Old and new rows", comparison("Old and new rows", page.rehearsal.as_ref())),
        ("labelling", "Labelling", labelling(&page.labelling)),
        ("labels", "Labels", labels(&page.labels)),
        ("confusion", "Confusion", all(page.confusion.iter().map(confusion))),
        ("calibration", "Calibration", calibration(&page.reliability, page.ece)),
        ("mistakes", "Mistakes", mistakes("Mistakes", ["expected", "predicted", "score"], &page.mistakes)),
        ("doubts", "Doubtful labels", mistakes("Doubtful labels", ["label", "looks like", "belief"], &page.doubts)),
        ("variants", "Variants", variants(&page.variants)),
        ("trials", "Trials", grid([chart::trials(&page.trials)])),
        ("candidates", "Candidates", comparison("Candidates", page.ladder.as_ref())),
        ("settings", "Settings", settings(&page.settings)),
    ];
    let sections: Vec<_> = sections.into_iter().filter_map(|(id, name, body)| Some((id, name, body?))).collect();
    let title = if page.title.is_empty() { "Training report" } else { &page.title };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (title) }
                    @if !page.subtitle.is_empty() {
                        p { (page.subtitle) }
                    }
                    @if !sections.is_empty() {
                        nav aria-label="Sections" {
                            @for (id, name, _) in &sections {
                                a href={ "#" (id) } { (name) }
                            }
                        }
                    }
                }
                main {
                    @if !page.summary.is_empty() {
                        dl.summary { (definitions(&page.summary)) }
                    }
                    @for (id, name, body) in &sections {
                        section id=(id) aria-labelledby={ (id) "-h" } {
                            h2 id={ (id) "-h" } { (name) }
                            (body)
                        }
                    }
                }
            }
        }
    }
}

fn warnings(warnings: &[String]) -> Option<Markup> {
    let items = html! {
        ul.warnings {
            @for warning in warnings {
                li { (warning) }
            }
        }
    };
    (!warnings.is_empty()).then_some(items)
}

fn training(page: &Page) -> Option<Markup> {
    grid([
        chart::loss(&page.loss),
        chart::learning_rate(&page.learning_rate),
        chart::accuracy(&page.epochs),
        epoch_table(&page.epochs),
    ])
}

fn labelling(curve: &[CurvePoint]) -> Option<Markup> {
    grid([chart::labelling(curve)])
}

fn epoch_table(epochs: &[EpochPoint]) -> Option<Markup> {
    let row = |epoch: &EpochPoint| {
        let shares = [Some(epoch.train), epoch.validation, epoch.test].map(percent);
        let cells = [epoch.epoch.to_string(), decimals(Some(epoch.loss), 4)].into_iter().chain(shares);
        cells.map(text).collect()
    };
    let header = ["epoch", "loss", "train", "validation", "test"];
    let rows: Vec<Vec<Markup>> = epochs.iter().map(row).collect();
    Some(figure("Loss and accuracy by epoch", table("Epochs", &header, &rows, |_| true, None)?, ""))
}

fn labels(labels: &[LabelRow]) -> Option<Markup> {
    let thresholds = labels.iter().any(|label| label.threshold.is_some());
    let row = |label: &LabelRow| {
        let share = label.f1.unwrap_or(0.0).clamp(0.0, 1.0) * 100.0;
        let f1 = html! { (percent(label.f1)) i style={ "--share:" (decimals(Some(share), 1)) "%" } {} };
        let [precision, recall] = [label.precision, label.recall].map(|share| text(percent(share)));
        let threshold = thresholds.then(|| text(decimals(label.threshold, 3)));
        let cells = [text(&label.label), precision, recall, f1, text(label.support)];
        cells.into_iter().chain(threshold).collect()
    };
    let header = ["label", "precision", "recall", "F1", "rows", "threshold"];
    let header = &header[..if thresholds { 6 } else { 5 }];
    let rows: Vec<Vec<Markup>> = labels.iter().map(row).collect();
    table("Figures by label", header, &rows, |column| column > 0, None)
}

fn confusion(confusion: &Confusion) -> Option<Markup> {
    match confusion.labels.len() {
        0 => None,
        1..=MAX_MATRIX_LABELS => Some(confusion_matrix(confusion)),
        _ => Some(confused_pairs(confusion)),
    }
}

fn confusion_matrix(Confusion { labels, counts }: &Confusion) -> Markup {
    let share = |count: usize, row: &[usize]| count as f64 / row.iter().sum::<usize>().max(1) as f64 * 100.0;
    // Many names fit over their columns only if they stand upright.
    let class = if labels.len() > 6 { "matrix upright" } else { "matrix" };
    let matrix = html! {
        table class=(class) {
            thead {
                tr {
                    td { "expected ↓ predicted →" }
                    @for label in labels {
                        th scope="col" title=(label) { span { (label) } }
                    }
                }
            }
            tbody {
                @for (expected, (label, row)) in labels.iter().zip(counts).enumerate() {
                    tr {
                        th scope="row" { (label) }
                        @for (predicted, &count) in row.iter().enumerate() {
                            @let heat = share(count, row);
                            @let class = if predicted == expected { "hit" } else { "miss" };
                            td class=(class) style=(format!("--heat:{heat:.0}%")) title=(format!("{heat:.1} %")) { (count) }
                        }
                    }
                }
            }
        }
    };
    html! {
        (scroll_box("Confusion matrix", &matrix))
        p.note { "Colour: share of the rows with the expected label." }
    }
}

fn confused_pairs(Confusion { labels, counts }: &Confusion) -> Markup {
    let pairs = metrics::confused_pairs(counts);
    let shown = &pairs[..pairs.len().min(MAX_PAIRS)];
    let name = |id: usize| labels.get(id).map_or(format!("label {id}"), String::clone);
    html! {
        @if pairs.is_empty() {
            p.note { "No row was taken for another label." }
        } @else {
            ol.pairs {
                @for &(count, expected, predicted) in shown {
                    li {
                        b { (name(expected)) } " taken for " b { (name(predicted)) } " "
                        span { (count) " of " (counts[expected].iter().sum::<usize>()) " rows" }
                    }
                }
            }
            p.note { "The " (shown.len()) " most frequent of " (pairs.len()) " confused pairs of labels." }
        }
    }
}

fn calibration(bins: &[ReliabilityBin], ece: Option<f64>) -> Option<Markup> {
    let mut bins: Vec<&ReliabilityBin> = bins.iter().filter(|bin| bin.count > 0).collect();
    bins.retain(|bin| bin.confidence.is_finite() && bin.accuracy.is_finite());
    bins.sort_by(|a, b| a.confidence.total_cmp(&b.confidence));
    let row = |bin: &&ReliabilityBin| {
        vec![text(percent(Some(bin.confidence))), text(percent(Some(bin.accuracy))), text(bin.count)]
    };
    let rows: Vec<Vec<Markup>> = bins.iter().map(row).collect();
    let table = table("Bins", &["mean confidence", "accuracy", "rows"], &rows, |_| true, None);
    let error = ece.map(|ece| html! { p { "Expected calibration error: " b { (percent(Some(ece))) } } });
    all([error, grid([chart::reliability(&bins), table.map(|table| figure("Bins", table, ""))])])
}

fn mistakes(name: &str, [expected, predicted, score]: [&str; 3], mistakes: &[Mistake]) -> Option<Markup> {
    let row = |mistake: &Mistake| {
        // The focus, which a click gives, shows the whole text.
        let shown = html! {
            div.text dir="auto" tabindex="0" { (mistake.text) }
            small { (mistake.place) }
        };
        let [expected, predicted] = [&mistake.expected, &mistake.predicted].map(text);
        vec![shown, expected, predicted, text(decimals(Some(mistake.score), 3))]
    };
    let header = ["text", expected, predicted, score];
    let rows: Vec<Vec<Markup>> = mistakes.iter().map(row).collect();
    let table = table(name, &header, &rows, |column| column == 3, None)?;
    Some(html! { (table) p.note { "A text that is cut shows in full when clicked." } })
}

fn variants(variants: &[VariantRow]) -> Option<Markup> {
    let row = |variant: &VariantRow| {
        let difference = variant.max_logit_difference.filter(|value| value.is_finite());
        let cells = [
            variant.name.clone(),
            format!("{:.1} MB", variant.bytes as f64 / 1e6),
            percent(variant.accuracy),
            difference.map_or("–".to_owned(), |difference| format!("{difference:.1e}")),
            decimals(variant.milliseconds, 2),
        ];
        cells.map(text).to_vec()
    };
    let header = ["variant", "size", "accuracy", "largest logit difference", "ms a text"];
    let rows: Vec<Vec<Markup>> = variants.iter().map(row).collect();
    table("Variants", &header, &rows, |column| column > 0, None)
}

fn comparison(name: &str, candidates: Option<&Table>) -> Option<Markup> {
    let Table { header, rows, chosen } = candidates?;
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let starts = |cell: &String| cell.starts_with(|first: char| first.is_ascii_digit() || "-+–−<~".contains(first));
    let numeric = |column: usize| column > 0 && rows.iter().all(|row| row.get(column).is_none_or(starts));
    let cells: Vec<Vec<Markup>> = rows.iter().map(|row| row.iter().map(text).collect()).collect();
    table(name, &header, &cells, numeric, *chosen)
}

fn settings(settings: &[(String, Vec<(String, String)>)]) -> Option<Markup> {
    grid(settings.iter().map(|(name, pairs)| Some(figure(name, html! { dl.settings { (definitions(pairs)) } }, ""))))
}

fn definitions(pairs: &[(String, String)]) -> Markup {
    html! {
        @for (name, value) in pairs {
            div { dt { (name) } dd { (value) } }
        }
    }
}

/// A table, nothing without rows; `numeric` columns are flush right, the `chosen` row is marked.
fn table(
    name: &str,
    header: &[&str],
    rows: &[Vec<Markup>],
    numeric: impl Fn(usize) -> bool,
    chosen: Option<usize>,
) -> Option<Markup> {
    let class = |column| numeric(column).then_some("n");
    let table = html! {
        table {
            thead {
                tr {
                    @for (column, name) in header.iter().enumerate() {
                        th scope="col" class=[class(column)] { (name) }
                    }
                }
            }
            tbody {
                @for (index, cells) in rows.iter().enumerate() {
                    @let is_chosen = (chosen == Some(index)).then_some(());
                    tr class=[is_chosen.map(|()| "chosen")] aria-current=[is_chosen.map(|()| "true")] {
                        @for (column, cell) in cells.iter().enumerate() {
                            td class=[class(column)] { (cell) }
                        }
                    }
                }
            }
        }
    };
    (!rows.is_empty()).then(|| scroll_box(name, &table))
}

/// A box that scrolls when its table is wider than the page; by keyboard too.
fn scroll_box(name: &str, table: &Markup) -> Markup {
    html! { div.scroll role="region" tabindex="0" aria-label=(name) { (table) } }
}

/// A chart or table under a heading.
fn figure(title: &str, body: Markup, note: &str) -> Markup {
    html! {
        figure {
            h3 { (title) }
            (body)
            @if !note.is_empty() {
                figcaption.note { (note) }
            }
        }
    }
}

/// Figures beside each other, as many as fit.
fn grid(figures: impl IntoIterator<Item = Option<Markup>>) -> Option<Markup> {
    all(figures).map(|figures| html! { div.grid { (figures) } })
}

/// One after the other, nothing if there is none.
fn all(parts: impl IntoIterator<Item = Option<Markup>>) -> Option<Markup> {
    let parts: Vec<Markup> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| html! { @for part in &parts { (part) } })
}

fn text(text: impl maud::Render) -> Markup {
    text.render()
}

fn percent(share: Option<f64>) -> String {
    share.filter(|share| share.is_finite()).map_or("–".to_owned(), |share| format!("{:.2} %", share * 100.0))
}

/// A number with so many digits; a dash where there is none.
pub(crate) fn decimals(value: Option<f64>, digits: usize) -> String {
    value.filter(|value| value.is_finite()).map_or("–".to_owned(), |value| format!("{value:.digits$}"))
}

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
            trials: vec![
                TrialPoint { settings: "frozen".to_owned(), folds: 2, seconds: 1.0, accuracy: 0.8, is_chosen: true },
                TrialPoint {
                    settings: "failed".to_owned(),
                    folds: 1,
                    seconds: 2.0,
                    accuracy: f64::NAN,
                    is_chosen: false,
                },
            ],
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
        let page = render(&Page { title: "<a b=\"c\">&\0\u{85}\n".to_owned(), ..full() });
        assert!(page.contains("<h1>&lt;a b=&quot;c&quot;&gt;&amp;\u{fffd}\u{fffd}\n</h1>"), "{page}");
        assert!(page.contains("&lt;script&gt;alert('x')&lt;/script&gt;\u{fffd}"), "{page}");
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
            "warnings training labelling labels confusion calibration mistakes variants trials candidates settings"
                .split(' ')
        {
            assert!(full.contains(&format!("<section id=\"{id}\"")), "{id}");
        }
        assert_eq!((full.matches("<svg").count(), full.matches("<title>frozen: 80.00 % on folds: 2").count()), (6, 1));
        assert!(!full.contains("<title>failed"));
        assert!(empty.contains("<h1>Training report</h1>") && !empty.contains("<section") && !empty.contains("<nav"));
    }

    #[test]
    fn many_labels_are_listed_by_pairs() {
        let mut counts = vec![vec![0; 30]; 30];
        (counts[3][4], counts[3][3], counts[5][6]) = (2, 8, 1);
        let labels = (0..30).map(|id| format!("l{id}")).collect();
        let html = confusion(&Confusion { labels, counts }).unwrap().into_string();
        assert!(!html.contains("<table") && html.contains("<b>l3</b> taken for <b>l4</b> <span>2 of 10 rows</span>"));
    }
}
