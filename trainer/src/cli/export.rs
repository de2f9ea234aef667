//! `nimbert-train export`: a trained Hugging Face folder as a bundle.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use nimbert::{
    Encoding,
    bundle::{CONFIG, Provenance, TOKENIZER},
};
use nimbert_trainer::{
    dataset::Dataset,
    export::{Contents, Evidence, export},
    model::{EncoderConfig, SequenceClassifier},
    prepare::{encode_all, open_tokenizer},
    report,
};

#[derive(clap::Args)]
#[command(after_help = "\
Example:
  nimbert-train export my-fine-tuned-bert --data reviews.csv --out bundle

Without --data the graph is compared with the model on synthetic texts, and no accuracy is measured.")]
pub(super) struct Args {
    /// A Hugging Face folder with a trained classifier: config.json, model.safetensors, tokenizer.json
    model: PathBuf,
    /// Labelled text to judge the graph by
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    #[command(flatten)]
    columns: super::ColumnArgs,
    /// Texts are cut to this many tokens, special ones included
    #[arg(long, default_value_t = 128, value_name = "TOKENS")]
    max_length: usize,
    #[command(flatten)]
    export: super::ExportArgs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let export_config = args.export.config()?;
    let stop = super::stop_on_interrupt()?;
    let config_path = args.model.join(CONFIG);
    let encoder_config = EncoderConfig::open(&config_path)?;
    let labels = encoder_config.own_labels()?;
    let tokenizer = open_tokenizer(&args.model, args.max_length, &encoder_config)?;
    let vocab_size = encoder_config.vocab_size;
    let (model, load_report) =
        SequenceClassifier::load(&args.model.join("model.safetensors"), encoder_config, &labels, 0)?;
    load_report.expect_trained()?;
    let (encodings, label_ids) = match &args.data {
        Some(path) => {
            let dataset = Dataset::open(path, &args.columns.columns())?;
            (encode_all(&tokenizer, &dataset)?, Some(dataset.label_ids(&labels)?))
        }
        None => (synthetic(vocab_size, args.max_length), None),
    };
    let evidence = Evidence {
        split: if label_ids.is_some() { "test" } else { "synthetic" },
        encodings: encodings.iter().collect(),
        labels: label_ids,
    };
    let contents = Contents {
        tokenizer: args.model.join(TOKENIZER),
        max_length: args.max_length,
        provenance: Provenance {
            base_model: super::folder_name(&args.model),
            data_sha256: None,
            seed: None,
            producer: super::producer(),
        },
        files: Vec::new(),
    };
    let bundle = export(&model, &contents, &evidence, &export_config, &args.export.out, &stop)?;
    Ok(write!(io::stdout(), "{}", report::bundle_stages(&bundle))?)
}

/// Rows of token ids of all lengths, spread over the whole vocabulary: they reach every embedding region and position.
fn synthetic(vocab_size: usize, max_length: usize) -> Vec<Encoding> {
    const ROWS: usize = 64;
    let length = |row: usize| 3 + row * (max_length.saturating_sub(3)) / (ROWS - 1);
    // A multiplier that shares no divisor with usual vocabulary sizes, so that neighbours are unrelated.
    let id = |row: usize, place: usize| ((row * 7919 + place * 104_729) % vocab_size) as u32;
    let encoding = |row| Encoding {
        input_ids: (0..length(row)).map(|place| id(row, place)).collect(),
        token_type_ids: vec![0; length(row)],
        truncated: false,
    };
    (0..ROWS).map(encoding).collect()
}
