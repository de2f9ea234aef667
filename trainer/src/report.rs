//! What is told about a run: each stage with the shapes that go in and out, one row followed through, a table by epoch,
//! a chart, and a sentence computed from the numbers.

use std::path::PathBuf;

use nimbert::{
    Batch, Bundle, Encoding, Manifest, Task, Tokenizer,
    bundle::{FurtherTask, Unknown},
    prediction::Coverage,
};

use crate::{
    calibrate::{Found, Kept},
    dataloader::Example,
    dataset::Dataset,
    export::{Judged, Sensitivity},
    html::{Table, decimals},
    metrics::percent,
    model::{HeadKind, LoadReport, Pooling, SequenceClassifier},
    onnx::Range,
    prepare::{DataConfig, Examples, Sources},
    record::{EpochRecord, StepRecord},
    schedule::Curve,
    train::TrainConfig,
};

/// A line of the pipeline: the stage's name in a column of its own.
pub fn stage(name: &str, text: &str) -> String {
    format!("{name:<12}{text}\n")
}

/// What stands before what is said of a task: nothing where there is one only.
pub fn of_task(name: Option<&str>) -> String {
    name.map_or(String::new(), |name| format!("{name}: "))
}

/// The stages before the model.
pub fn data_stages(sources: &Sources, examples: &Examples, config: &DataConfig, max_length: usize) -> String {
    let Examples { train, validation, test, strangers: _ } = examples;
    let labels = &sources.labels;
    let learned_from: Vec<&Dataset> = sources.learned_from().collect();
    let rows: usize = learned_from.iter().map(|dataset| dataset.rows.len()).sum();
    let of_label =
        |label: &String, dataset: &&Dataset| dataset.rows.iter().filter(|row| row.labels.contains(label)).count();
    let count = |label: &String| learned_from.iter().map(|dataset| of_label(label, dataset)).sum::<usize>();
    let files =
        |dataset: &&Dataset| format!("{}: {} rows × {} columns", dataset.name(), dataset.rows.len(), dataset.columns);
    let counts: Vec<String> = labels.iter().map(|label| format!("{label} {}", count(label))).collect();
    let origin = |files: &[PathBuf]| match files {
        [] => String::new(),
        files => {
            format!(" from {}", files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))
        }
    };
    let all = || train.iter().chain(validation).chain(test);
    let windows = || all().flat_map(|example| &example.windows);
    let tokens: usize = all().map(Example::tokens).sum();
    let texts = all().count();
    let longest = all().map(Example::tokens).max().unwrap_or(0);
    let mean = tokens as f64 / texts as f64;
    let long = match windows().count() {
        windows if windows > texts => format!("{windows} windows of at most {max_length}"),
        _ => format!("{} cut at {max_length}", windows().filter(|window| window.truncated).count()),
    };
    [
        stage("dataset", &learned_from.iter().map(files).collect::<Vec<_>>().join("; ")),
        stage("", &format!("{} labels: {}", labels.len(), counts.join(", "))),
        stage(
            "split",
            &format!(
                "{rows} rows → train {}, validation {}{}, test {}{} (stratified, seed {})",
                train.len(),
                validation.len(),
                origin(&config.validation_data),
                test.len(),
                origin(&config.test_data),
                config.seed
            ),
        ),
        sources.notes.iter().map(|note| stage("", note)).collect(),
        stage("tokenizer", &format!("{texts} texts → {tokens} tokens: {mean:.1} a text, longest {longest}; {long}")),
    ]
    .concat()
}

/// One training row, the shortest of the first eight, followed from text to mask as the runtime pads it beside the others.
pub fn example(sources: &Sources, examples: &Examples, tokenizer: &Tokenizer, pad_token_id: u32) -> String {
    let encodings: Vec<&Encoding> = examples.train.iter().take(8).map(|example| &example.windows[0]).collect();
    let row = (0..encodings.len()).min_by_key(|&row| encodings[row].input_ids.len()).unwrap_or(0);
    let batch = Batch::pad(encodings.iter().copied(), pad_token_id);
    let source = sources.row(&sources.train[row]);
    let columns = row * batch.columns..(row + 1) * batch.columns;
    let ids = &batch.input_ids[columns.clone()];
    let join = |values: &[i64]| runs(&values.iter().map(i64::to_string).collect::<Vec<_>>());
    let tokens: Vec<String> = ids.iter().map(|&id| tokenizer.token(id as u32)).collect();
    let pair = source.pair.as_ref().map_or(String::new(), |pair| format!(" and {pair:?}"));
    let text = format!("line {}, {:?}{pair} → {}", source.line, source.text, source.labels.join(", "));
    let lines = [
        stage("  text", &text),
        stage("  tokens", &runs(&tokens)),
        stage("  ids", &join(ids)),
        stage("  mask", &join(&batch.attention_mask[columns])),
    ];
    let shape = format!("{} texts padded to the longest: ids and mask {} × {}", batch.rows, batch.rows, batch.columns);
    stage("batch", &shape) + &lines.map(|line| shorten(&line, 160)).concat()
}

/// The words in a line; a word that comes three times or more in a row once, with its number.
fn runs(words: &[String]) -> String {
    let shown = words.chunk_by(|a, b| a == b).map(|run| match run.len() {
        1 | 2 => run.join(" "),
        count => format!("{} × {count}", run[0]),
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// The stages of the model, with the tokens of an average training batch.
pub fn model_stages(model: &SequenceClassifier, report: &LoadReport, examples: &Examples, batch_size: usize) -> String {
    let (layers, hidden) = (model.config.layers.len(), model.config.hidden_size);
    let pooling = match model.config.pooling {
        Pooling::First => "[CLS]",
        Pooling::Mean => "mean",
    };
    let head = match model.config.head {
        HeadKind::Layers => "dense",
        HeadKind::Linear => "scaled",
    };
    let tokens: usize = examples.train.iter().map(Example::tokens).sum();
    let tokens = tokens * batch_size.min(examples.train.len()) / examples.train.len();
    let rows = batch_size.min(examples.train.len());
    let names = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    [
        stage(
            "encoder",
            &format!(
                "{rows} texts, packed without padding: about {tokens} ids → {tokens} × {hidden} → {layers} layers → {rows} × {hidden} ({pooling})"
            ),
        ),
        stage("head", &format!("{rows} × {hidden} → {head} {rows} × {hidden} → logits {rows} × {}", model.labels.len())),
        stage("weights", &weights(model)),
        stage("", &format!("made anew: {}; unused: {}", names(&report.initialized), names(&report.unused))),
    ]
    .concat()
}

fn weights(model: &SequenceClassifier) -> String {
    let parameters = model.parameters();
    let trainable: usize = parameters.trainable().map(|(_, var)| var.elem_count()).sum();
    match parameters.count() - trainable {
        0 => format!("{trainable} numbers in {} tensors", parameters.iter().count()),
        frozen => format!("{trainable} numbers to be trained, {frozen} frozen"),
    }
}

/// How the head of a task was found where the encoder stays as it is, or before it learns: by which C, how many folds found it, and the share
/// of the rows that were answered rightly by a head that had not seen them.
pub fn head_stage(task: Option<&str>, strength: f64, folds: Option<(usize, f64)>, rows: usize, seconds: f64) -> String {
    let of = of_task(task);
    let how = match folds {
        Some((folds, accuracy)) => {
            format!("C {strength} by {folds} folds: {} of the rows that were left out", percent(Some(accuracy)))
        }
        None => format!("C {strength}: too few rows to choose it by"),
    };
    stage("regression", &format!("{of}logistic, on what the encoder says of {rows} rows, in {seconds:.1} s; {how}"))
}

/// How the last layer of the head was found, before all learns.
pub fn probing_stage(strength: f64, rows: usize, seconds: f64) -> String {
    let of = "the head's last layer, on what it reads of";
    stage("regression", &format!("logistic, C {strength}: {of} {rows} rows, in {seconds:.1} s; then all of it learns"))
}

/// How the head was found when the encoder had learned.
pub fn settling_stage(strength: f64, rows: usize, seconds: f64) -> String {
    let of = "the head anew, on what the encoder says by now of";
    let before = "figures by epoch are of the head before";
    stage("regression", &format!("logistic, C {strength}: {of} {rows} rows, in {seconds:.1} s; {before}"))
}

/// What training is about to do.
pub fn training_stage(config: &TrainConfig, rows: usize) -> String {
    let schedule = config.schedule(rows);
    stage(
        "training",
        &format!(
            "{} epochs × {} steps of {} rows; AdamW, learning rate up to {} in {} steps, then {}",
            config.epochs,
            rows.div_ceil(config.step_rows()),
            config.step_rows().min(rows),
            config.learning_rate,
            schedule.warmup_steps,
            match schedule.curve {
                Curve::Linear => "in a line to 0",
                Curve::Cosine => "along a cosine to 0",
                Curve::Constant => "constant",
            }
        ),
    )
}

/// The head of the table by epoch.
pub fn epoch_header() -> String {
    let columns = ["epoch", "loss", "train acc", "val acc", "test acc", "test F1", "learn rate", "rows/s"];
    columns.map(|column| format!("{column:>11}")).concat() + "\n"
}

/// A row of the table by epoch.
pub fn epoch_row(record: &EpochRecord) -> String {
    let share = |share: Option<f64>| share.map_or("–".to_owned(), |share| format!("{share:.4}"));
    let cells = [
        record.epoch.to_string(),
        format!("{:.4}", record.loss),
        share(Some(record.train_accuracy)),
        share(record.validation_accuracy),
        share(record.test_accuracy),
        share(record.test_macro_f1),
        format!("{:.2e}", record.learning_rate),
        format!("{:.1}", record.rows_per_second),
    ];
    cells.map(|cell| format!("{cell:>11}")).concat() + "\n"
}

/// The loss from the first step to the last, each column the mean of a few steps.
pub fn loss_chart(steps: &[StepRecord]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const COLUMNS: usize = 60;
    let means: Vec<f32> = steps
        .chunks(steps.len().div_ceil(COLUMNS).max(1))
        .map(|steps| steps.iter().map(|step| step.loss).sum::<f32>() / steps.len() as f32)
        .collect();
    let highest = means.iter().copied().fold(f32::MIN, f32::max);
    let bar = |mean: &f32| BARS[((mean / highest * 8.0).ceil() as usize).clamp(1, 8) - 1];
    let (Some(first), Some(last)) = (means.first(), means.last()) else { return String::new() };
    let chart: String = means.iter().map(bar).collect();
    stage("loss", &format!("{first:.3} {chart} {last:.3}"))
}

/// One sentence on how training went.
pub fn observation(epochs: &[EpochRecord]) -> String {
    /// A change of the held-out accuracy below this is noise.
    const POINT: f64 = 0.01;
    let [.., previous, last] = epochs else {
        return "one epoch: too little to see where it goes".to_owned();
    };
    let loss_change = last.loss / previous.loss - 1.0;
    let held_out = |record: &EpochRecord| record.validation_accuracy.or(record.test_accuracy);
    let name = if last.validation_accuracy.is_some() { "validation" } else { "test" };
    let best = epochs.iter().max_by(|a, b| held_out(a).partial_cmp(&held_out(b)).unwrap_or(std::cmp::Ordering::Equal));
    let accuracy = held_out(last).zip(held_out(previous)).zip(best.and_then(held_out));
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let loss = format!("the training loss went from {:.3} to {:.3} in the last epoch", previous.loss, last.loss);
    match accuracy {
        Some(((last_accuracy, _), best)) if best - last_accuracy >= POINT && loss_change < 0.0 => format!(
            "overfitting: {loss} while {name} accuracy is {} after {} at its best",
            percent(last_accuracy),
            percent(best)
        ),
        _ if loss_change > 0.05 => format!("unstable: {loss}; a lower --learning-rate may help"),
        Some(((last_accuracy, before), _)) if last_accuracy - before >= POINT => {
            format!(
                "improving: {name} accuracy rose from {} to {}; more epochs may help",
                percent(before),
                percent(last_accuracy)
            )
        }
        Some(((last_accuracy, before), _)) if before - last_accuracy >= POINT => {
            format!("unstable: {name} accuracy fell from {} to {}; {loss}", percent(before), percent(last_accuracy))
        }
        Some(((last_accuracy, before), _)) => format!(
            "converged: {name} accuracy moved by {:.1} points in the last epoch ({}); {loss}",
            (last_accuracy - before).abs() * 100.0,
            percent(last_accuracy)
        ),
        None if loss_change < -0.1 => format!("improving: {loss}; more epochs may help"),
        None => format!("converged: {loss}"),
    }
}

fn extremes(values: &[f32]) -> (f32, f32) {
    values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(least, most), value| (least.min(*value), most.max(*value)))
}

/// How far what the bundle says of its answers holds of test rows; `task` is named where there are several.
pub fn kept_stage(task: Option<&str>, kept: Kept) -> String {
    let Kept { rows, right, .. } = kept;
    let unsure = kept.unsure.map(|(unsure, of_others)| {
        let of_others =
            of_others.map_or(String::new(), |share| format!(", of the others {} right", percent(Some(share))));
        format!("unsure of {unsure}{of_others}")
    });
    let sets = kept.coverage.map(|(share, size)| {
        format!("{} of sets have the right label, {size:.2} labels each on average", percent(Some(share)))
    });
    let unknown = kept.unknown.map(|share| format!("{} taken for unknown", percent(Some(share))));
    let right = format!("{} right", percent(Some(right)));
    let all: Vec<String> = std::iter::once(right).chain(unsure).chain(sets).chain(unknown).collect();
    let of_task = task.map_or(String::new(), |task| format!("{task}, "));
    match rows {
        0 => String::new(),
        _ => stage("tested", &format!("{of_task}of {rows} test rows: {}", all.join("; "))),
    }
}

/// How many texts that are like no label were found.
pub fn of_found(Found { rows, share, roc_auc }: &Found) -> String {
    let auroc = roc_auc.map_or(String::new(), |auroc| format!("; AUROC {auroc:.4}"));
    format!("of {rows} texts that are like no label: {} taken for unknown{auroc}", percent(Some(*share)))
}

/// What was measured before packing, and what was packed.
pub fn bundle_stages(bundle: &Bundle) -> String {
    let acceptance = &bundle.manifest.acceptance;
    let precision = bundle.manifest.variants[0].precision;
    let bytes: u64 = bundle.manifest.files.values().map(|file| file.bytes).sum();
    let graph_bytes = bundle.graph_bytes(&bundle.manifest.variants[0]);
    let rows = format!("{} rows ({})", acceptance.rows, acceptance.split);
    let Manifest { folded_temperature, abstain_threshold, label_thresholds, .. } = &bundle.manifest;
    let temperature = folded_temperature.unwrap_or(1.0);
    let thresholds = bundle.config.labels.iter().zip(label_thresholds.iter().flatten());
    let thresholds: Vec<String> = thresholds.map(|(label, threshold)| format!("{label} {threshold:.3}")).collect();
    let abstain = abstains(*abstain_threshold);
    let is_calibrated = acceptance.split == "validation" || folded_temperature.is_some() || label_thresholds.is_some();
    let calibrated = match is_calibrated {
        true => stage(
            "calibrated",
            &[vec![format!("temperature {temperature:.3}"), abstain], thresholds].concat().join(", "),
        ),
        false => String::new(),
    };
    let further = bundle.manifest.further_tasks.iter().filter(|_| is_calibrated);
    let further: String = further.map(calibrated_stage).collect();
    let unknown = &bundle.manifest.unknown;
    let sets = bundle.tasks().into_iter().filter_map(|Task { name, labels, decision }| {
        let Coverage { share, thresholds } = decision.coverage?;
        let (least, most) = extremes(&thresholds);
        let scores = if least == most { format!("{least:.3}") } else { format!("{least:.3} to {most:.3}") };
        let always = labels.iter().zip(&thresholds).filter(|(_, threshold)| **threshold == 0.0);
        let always: Vec<&str> = always.map(|(label, _)| label.as_str()).collect();
        let always = match always.is_empty() {
            true => String::new(),
            false => format!("; too few rows to leave them out of any set: {}", always.join(", ")),
        };
        let of = of_task(name.as_deref());
        let share = percent(Some(share));
        Some(stage("sets", &format!("{of}labels with a score from {scores}, for {share} of cases{always}")))
    });
    let unknown = unknown.iter().map(|Unknown { rate, threshold }| {
        let how = format!("distances above {threshold:.3}, as {} of texts like these have", percent(Some(*rate)));
        stage("unknown", &how)
    });
    let certainty: String = sets.chain(unknown).collect();
    [
        stage(
            "export",
            &format!(
                "fp32: accuracy {} on {rows}, logits within {:.1e} of the trained model",
                percent(acceptance.fp32_accuracy),
                acceptance.fp32_max_logit_difference
            ),
        ),
        stage(
            "",
            &format!(
                "{precision}: accuracy {}, logits within {:.1e} of fp32, same label for {:.2} %",
                percent(acceptance.shipped_accuracy),
                acceptance.shipped_max_logit_difference,
                acceptance.label_agreement * 100.0
            ),
        ),
        calibrated,
        further,
        certainty,
        stage(
            "bundle",
            &format!(
                "{}: {:.1} MB, of which the {precision} graph {:.1} MB",
                bundle.path.display(),
                bytes as f64 / 1e6,
                graph_bytes as f64 / 1e6
            ),
        ),
    ]
    .concat()
}

/// Under which score a bundle is unsure.
fn abstains(threshold: Option<f32>) -> String {
    match threshold {
        None => "never abstains".to_owned(),
        Some(score) if score > 1.0 => {
            "unsure of all texts: from no score on as many answers are right as was asked".to_owned()
        }
        Some(score) => format!("unsure under {score:.3}"),
    }
}

/// What is said of a task beside the first one.
fn calibrated_stage(FurtherTask { name, folded_temperature, abstain_threshold, .. }: &FurtherTask) -> String {
    let temperature = folded_temperature.unwrap_or(1.0);
    let abstain = abstains(*abstain_threshold);
    stage("", &format!("{name}: temperature {temperature:.3}, {abstain}"))
}

/// A figure with four digits; a dash where it is not defined.
pub fn figure(figure: Option<f64>) -> String {
    decimals(figure, 4)
}

/// The table as text, each column as wide as its longest cell, the chosen row marked.
pub fn table(table: &Table) -> String {
    let lines = || std::iter::once(&table.header).chain(&table.rows);
    let widths: Vec<usize> = (0..table.header.len())
        .map(|column| lines().map(|cells| cells[column].chars().count()).max().unwrap_or(0).max(10))
        .collect();
    let line = |cells: &[String], mark: &str| {
        let cells = cells.iter().zip(&widths).map(|(cell, &width)| format!("  {cell:>width$}"));
        stage("", format!("{}{mark}", cells.collect::<String>()).trim_end())
    };
    let rows = table.rows.iter().enumerate();
    let rows = rows.map(|(index, row)| line(row, if table.chosen == Some(index) { " ←" } else { "" }));
    line(&table.header, "") + &rows.collect::<String>()
}

/// The line, cut to `width` characters.
fn shorten(line: &str, width: usize) -> String {
    match line.trim_end_matches('\n').char_indices().nth(width - 1) {
        Some((end, _)) => format!("{}…\n", &line[..end]),
        None => line.to_owned(),
    }
}

/// What stayed in fp32, and with `all` how activations are quantized and what that costs for each.
pub fn quantization_stages(judged: &Judged, all: bool) -> String {
    let mut text = String::new();
    if let (true, Some(calibration)) = (all, judged.calibration) {
        text += &stage("int8", &format!("ranges of activations by {calibration}"));
    }
    if all && !judged.sensitivity.is_empty() {
        text += &stage("", "what quantizing each activation alone does to the logits (relative root mean square)");
        for Sensitivity { activation, range, relative_error } in &judged.sensitivity {
            let Range { min, max } = range;
            text +=
                &stage("", &format!("{activation:<22} {min:>9.3} to {max:>9.3}   {:>8.4} %", relative_error * 100.0));
        }
    }
    if !judged.in_fp32.is_empty() {
        text += &stage("int8", &format!("in fp32, since int8 would cost too much: {}", judged.in_fp32.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(figures: &[(f64, f64)]) -> Vec<EpochRecord> {
        let record = |(index, &(loss, test_accuracy)): (usize, &(f64, f64))| EpochRecord {
            epoch: index + 1,
            step: 0,
            loss,
            train_accuracy: 0.0,
            validation_accuracy: None,
            validation_macro_f1: None,
            validation_micro_f1: None,
            test_accuracy: Some(test_accuracy),
            test_macro_f1: None,
            test_micro_f1: None,
            learning_rate: 0.0,
            rows_per_second: 0.0,
            tokens_per_second: 0.0,
        };
        figures.iter().enumerate().map(record).collect()
    }

    #[test]
    fn observations_follow_from_the_numbers() {
        let first_word = |figures: &[(f64, f64)]| observation(&epochs(figures)).split(':').next().unwrap().to_owned();
        assert_eq!(first_word(&[(0.6, 0.7), (0.4, 0.8)]), "improving");
        assert_eq!(first_word(&[(0.6, 0.7), (0.4, 0.8), (0.39, 0.802)]), "converged");
        assert_eq!(first_word(&[(0.6, 0.9), (0.61, 0.7)]), "unstable");
        assert_eq!(first_word(&[(0.6, 0.7), (0.4, 0.8), (0.1, 0.77)]), "overfitting");
        assert_eq!(first_word(&[(0.6, 0.7), (0.9, 0.5)]), "unstable");
        assert_eq!(first_word(&[(0.6, 0.7)]), "one epoch");
    }

    #[test]
    fn chart_falls_with_the_loss() {
        let steps: Vec<StepRecord> = (0..4)
            .map(|step| StepRecord {
                step,
                epoch: 1,
                loss: 0.8 - 0.2 * step as f32,
                learning_rate: 0.0,
                grad_norm: 0.0,
            })
            .collect();
        assert_eq!(loss_chart(&steps), "loss        0.800 █▆▄▂ 0.200\n");
    }

    #[test]
    fn runs_are_counted() {
        let words = |text: &str| runs(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(words("a a b [PAD] [PAD] [PAD]"), "a a b [PAD] × 3");
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        assert_eq!(shorten("ééééé\n", 4), "ééé…\n");
        assert_eq!(shorten("éé\n", 4), "éé\n");
    }
}
