//! `nimbert info`: what a bundle holds, from its manifest; with `--device`, where its graph is computed.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use nimbert::{
    Batch, Bundle, Device, Session, SessionOptions, Task, TruncationSide,
    bundle::Unknown,
    prediction::{Coverage, escaped},
};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The bundle: a folder, or a .nimbert file
    bundle: PathBuf,
    /// Print the manifest as JSON
    #[arg(long)]
    json: bool,
    /// Load the graph for that device, run it, and show which execution provider computes what
    #[arg(long, conflicts_with = "json")]
    device: Option<Device>,
    /// The graph of that name, for --device [default: the first that was made for it and this processor]
    #[arg(long, value_name = "NAME", requires = "device", conflicts_with = "json")]
    variant: Option<String>,
    /// ONNX Runtime's library, for --device
    #[arg(long, value_name = "FILE", requires = "device", conflicts_with = "json")]
    ort_lib: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    if args.device == Some(Device::Auto) {
        anyhow::bail!("expected --device cpu, cuda or tensorrt, found auto");
    }
    let bundle = Bundle::open(&args.bundle)?;
    let Bundle { manifest, config, .. } = &bundle;
    let mut out = io::stdout().lock();
    if args.json {
        return Ok(writeln!(out, "{}", serde_json::to_string_pretty(&manifest)?)?);
    }
    let percent =
        |share: Option<f64>| share.map_or("not measured".to_owned(), |share| format!("{:.2} %", share * 100.0));
    let bytes: u64 = manifest.files.values().map(|file| file.bytes).sum();
    writeln!(out, "bundle       {} (format {})", args.bundle.display(), manifest.format_version)?;
    let (model_type, base) = (escaped(&config.model_type), escaped(&manifest.provenance.base_model));
    writeln!(out, "model        {model_type} from {base}")?;
    writeln!(out, "made by      {}", escaped(&manifest.provenance.producer))?;
    for (index, task) in bundle.tasks().iter().enumerate() {
        let name = task.name.as_ref().map_or(String::new(), |name| format!("{name}: "));
        writeln!(out, "{:<13}{name}{}", if index == 0 { "labels" } else { "" }, shown(&task.labels))?;
    }
    let long = match (manifest.stride, manifest.truncation_side) {
        (Some(_), _) => "longer texts are read in windows",
        (None, TruncationSide::Right) => "longer texts are cut at the end",
        (None, TruncationSide::Left) => "longer texts are cut at the beginning",
    };
    writeln!(out, "max length   {} tokens; {long}", manifest.max_length)?;
    if let Some(pairs) = manifest.pairs {
        writeln!(out, "reads        {}", if pairs { "pairs of texts" } else { "single texts" })?;
    }
    writeln!(out, "size         {:.1} MB in {} files", bytes as f64 / 1e6, manifest.files.len() + 1)?;
    for variant in &manifest.variants {
        let size = bundle.graph_bytes(variant) as f64 / 1e6;
        let requires = variant.requires.map(|what| format!("; requires {what}")).unwrap_or_default();
        let [name, provider, file] =
            [&variant.name, &variant.execution_provider, &variant.file].map(|text| escaped(text));
        let precision = variant.precision;
        writeln!(out, "graph        {name} for {provider}, {precision}: {file} ({size:.1} MB){requires}")?;
    }
    if let Some(comment) = bundle.signature_comment() {
        writeln!(out, "signature    {} (not verified here)", super::on_one_line(&comment))?;
    }
    let acceptance = &manifest.acceptance;
    writeln!(out, "judged by    {} rows ({})", acceptance.rows, escaped(&acceptance.split))?;
    writeln!(
        out,
        "fp32         accuracy {}, logits within {:.1e} of the trained model",
        percent(acceptance.fp32_accuracy),
        acceptance.fp32_max_logit_difference
    )?;
    writeln!(
        out,
        "shipped      accuracy {}, logits within {:.1e} of fp32, same label for {:.2} %",
        percent(acceptance.shipped_accuracy),
        acceptance.shipped_max_logit_difference,
        acceptance.label_agreement * 100.0
    )?;
    for Task { name, decision, .. } in bundle.tasks() {
        if let Some(threshold) = decision.abstain_threshold {
            let of_task = name.map_or(String::new(), |name| format!("{name}: "));
            let what =
                if threshold > 1.0 { "of all texts".to_owned() } else { format!("under a score of {threshold:.3}") };
            writeln!(out, "unsure       {of_task}{what}")?;
        }
    }
    if let Some(Unknown { rate, threshold }) = &manifest.unknown {
        writeln!(
            out,
            "unknown      distances above {threshold:.3}, as {} of texts like those of training have",
            percent(Some(*rate))
        )?;
    }
    // One share was asked for, of all tasks.
    if let Some(Coverage { share, .. }) = &manifest.coverage {
        writeln!(out, "sets         of labels, which have the right one in {} of cases", percent(Some(*share)))?;
    }
    match args.device {
        None => Ok(()),
        Some(device) => placement(args, &bundle, device, &mut out),
    }
}

/// Labels on one line; one that would be taken for several, or for another, in quotes.
fn shown(labels: &[String]) -> String {
    let show = |label: &String| match label.contains([',', '"']) || label.trim() != label || label.is_empty() {
        true => format!("{label:?}"),
        false => escaped(label),
    };
    labels.iter().map(show).collect::<Vec<_>>().join(", ")
}

/// Runs a text and shows what was computed where.
fn placement(args: &Args, bundle: &Bundle, device: Device, out: &mut impl Write) -> anyhow::Result<()> {
    let variant = bundle.variant(args.variant.as_deref(), device)?;
    let options = SessionOptions { ort_lib: args.ort_lib.clone(), device, ..SessionOptions::default() };
    let encoding = bundle.tokenizer()?.encode("where is it computed?")?;
    let batch = Batch::pad([&encoding].into_iter(), bundle.config.pad_token_id);
    let (_, placement) = Session::open_and_place(bundle, variant, &options, &batch)?;
    writeln!(out, "device       {device}, graph {}", escaped(&variant.name))?;
    for (provider, operators) in &placement.counts {
        let operators: Vec<String> = operators.iter().map(|(name, count)| format!("{count} {name}")).collect();
        writeln!(out, "  {provider}: {}", operators.join(", "))?;
    }
    let left = placement.left_on_cpu();
    if device != Device::Cpu && !left.is_empty() {
        writeln!(out, "  left to the processor: {}", left.join(", "))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_would_be_taken_for_others_stand_in_quotes() {
        let labels = ["a", "a, b", "x\ty", "say \"b\"", " c"].map(str::to_owned);
        assert_eq!(shown(&labels), r#"a, "a, b", x\ty, "say \"b\"", " c""#);
    }
}
