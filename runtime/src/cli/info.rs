//! `nimbert info`: what a bundle holds, from its manifest; no graph is loaded.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use nimbert::Bundle;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The bundle's folder
    bundle: PathBuf,
    /// Print the manifest as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
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
    writeln!(out, "model        {} from {}", config.model_type, manifest.provenance.base_model)?;
    writeln!(out, "made by      {}", manifest.provenance.producer)?;
    writeln!(out, "labels       {}", config.labels.join(", "))?;
    writeln!(out, "max length   {} tokens", manifest.max_length)?;
    writeln!(out, "size         {:.1} MB in {} files", bytes as f64 / 1e6, manifest.files.len() + 1)?;
    for variant in &manifest.variants {
        let size = bundle.graph_bytes(variant) as f64 / 1e6;
        writeln!(
            out,
            "graph        {} for {}, {}: {} ({size:.1} MB)",
            variant.name, variant.execution_provider, variant.precision, variant.file
        )?;
    }
    let acceptance = &manifest.acceptance;
    writeln!(out, "tested on    {} rows ({})", acceptance.rows, acceptance.split)?;
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
    Ok(())
}
