//! `nimbert-train export`: a trained Hugging Face folder as a bundle.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use nimbert::{Encoding, ProblemType, TruncationSide, bundle::Provenance, prediction::escaped_lines};
use nimbert_trainer::{
    Error,
    dataloader::Example,
    dataset::Dataset,
    export::{Contents, Evidence, ExportData, TRITON_MODEL_NAME, check_triton_labels, judge, pack, pack_triton},
    model::{ModelFolder, SequenceClassifier},
    prepare::encode_all,
    report,
};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nimbert-train export my-fine-tuned-bert --data reviews.csv --out bundle
  nimbert-train export my-fine-tuned-bert --data reviews.csv --out bundle \\
      --variants cpu-int8,gpu-fp16,tensorrt-int8
  nimbert-train export my-fine-tuned-bert --data reviews.csv --out repository \\
      --variants gpu-fp16 --layout triton

Without --data the graphs are compared with the model on synthetic texts, no accuracy is measured, and int8 graphs have \
int8 weights but compute in fp32: the ranges of activations come from text.")]
pub(super) struct Args {
    /// A trained classifier: a Hugging Face folder (config.json, model.safetensors, tokenizer.json), or a name on the hub
    model: String,
    /// Labelled text to judge the graph by
    #[arg(long, value_name = "FILE", num_args = 1..)]
    data: Vec<PathBuf>,
    #[command(flatten)]
    columns: super::ColumnArgs,
    /// Texts are cut to this many tokens, special ones included [default: what the folder says, else the model's positions;
    /// 512 at most]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
    /// What is written: a bundle, or a model repository for Triton with the first graph
    #[arg(long, value_enum, default_value_t = Layout::Bundle)]
    layout: Layout,
    #[command(flatten)]
    export: super::ExportArgs,
}

/// The most tokens of a text, where nobody says how many: what BERT has positions for.
const USUAL_MAX_LENGTH: usize = 512;

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Layout {
    Bundle,
    Triton,
}

/// What says how `--data` is read, or what is made of it.
const OF_DATA: [&str; 15] = [
    "--text-column",
    "--label-column",
    "--label-columns",
    "--label-separator",
    "--unknown-label",
    "--weight-column",
    "--on-missing",
    "--format",
    "--encoding",
    "--quoting",
    "--delimiter",
    "--calibration",
    "--max-accuracy-drop",
    "--max-label-changes",
    "--verbose",
];

pub(super) fn run(args: &Args, given: &super::Given) -> anyhow::Result<()> {
    given.refuse(&OF_DATA, !args.data.is_empty(), "--data with it")?;
    given.refuse(&["--overwrite"], args.layout != Layout::Triton, "--layout bundle")?;
    if let (Layout::Triton, [_, further, ..]) = (args.layout, &args.export.variants[..]) {
        return Err(Error::setting("--variants", "one graph, for --layout triton", format!("{further} besides")).into());
    }
    if args.layout == Layout::Triton && args.export.out.extension().is_some_and(|extension| extension == "nimbert") {
        let got = args.export.out.display();
        return Err(Error::setting("--out", "the name of a folder, for a repository of Triton", got).into());
    }

    // Before interrupts are caught: one during a download ends it.
    let folder = super::base_folder(&args.model, None).map_err(|error| match error {
        Error::Setting { setting: "--base", expected, got } => Error::Setting { setting: "MODEL", expected, got },
        error => error,
    })?;
    let stop = super::stop_on_interrupt()?;
    let folder = ModelFolder::open(&folder)?;
    let encoder_config = folder.config.clone();
    let own = encoder_config.problem_type()?;
    let problem_type = match (args.columns.multi_label, own) {
        (true, _) => ProblemType::MultiLabel,
        (false, own) => own.unwrap_or_default(),
    };
    let max_length = args.max_length.unwrap_or_else(|| {
        let positions = encoder_config.max_tokens().min(USUAL_MAX_LENGTH);
        folder.max_length.unwrap_or(positions).min(positions)
    });
    let export_config = args.export.config(given, problem_type, max_length, false)?;
    let labels = encoder_config.own_labels()?;
    if args.layout == Layout::Triton {
        check_triton_labels(&labels)?;
    }
    args.columns.check_strangers(&labels, "a label that the model does not have")?;
    let separates = problem_type == ProblemType::MultiLabel;
    given.refuse(&["--label-separator"], separates, "a model whose texts may have several labels")?;
    let tokenizer = folder.open_tokenizer(max_length, None)?;
    let mut out = io::stdout();
    let side = if folder.truncation_side == TruncationSide::Left { "the beginning" } else { "the end" };
    write!(out, "{}", report::stage("tokenizer", &format!("longer texts are cut at {side}, to {max_length} tokens")))?;
    if own.is_some_and(|own| own != problem_type) {
        write!(out, "{}", report::stage("labels", "any number a text, as --multi-label says; config.json says one"))?;
    }
    let vocab_size = encoder_config.vocab_size;
    let (model, load_report) = SequenceClassifier::load(&folder.weights, encoder_config, &labels, 0)?;
    load_report.expect_trained()?;
    let examples: Vec<Example> = match args.data.is_empty() {
        true => synthetic(vocab_size, max_length),
        false => {
            let dataset = Dataset::open(&args.data, &args.columns.columns_of(problem_type))?;
            super::remark(&dataset);
            let rows = encode_all(&tokenizer, &dataset.rows, &model.config)?.into_iter().zip(dataset.targets(&labels)?);
            rows.map(|(windows, target)| Example { windows, target }).collect()
        }
    };
    let data = match args.data.is_empty() {
        true => ExportData {
            evidence: Evidence { labels: None, ..Evidence::new("synthetic", &examples) },
            unseen: None,
            test: None,
            strangers: Vec::new(),
            calibration_texts: Vec::new(),
        },
        false => ExportData {
            evidence: Evidence::new("test", &examples),
            unseen: None,
            test: None,
            strangers: Vec::new(),
            calibration_texts: examples.iter().map(|example| example.windows.as_slice()).collect(),
        },
    };
    let contents = Contents {
        tokenizer: folder.tokenizer.clone(),
        max_length,
        stride: None,
        truncation_side: folder.truncation_side,
        // Without rows that is only known if it is said.
        pairs: (args.columns.has_pairs() || !args.data.is_empty()).then_some(args.columns.has_pairs()),
        provenance: Provenance {
            base_model: super::model_name(args.model.as_ref()),
            data_sha256: None,
            seed: None,
            producer: super::producer(),
        },
        reference: None,
    };
    let cut = examples.iter().filter(|example| example.windows.iter().any(|window| window.truncated)).count();
    if cut > 0 {
        write!(out, "{}", report::stage("", &format!("{cut} of {} rows are cut", examples.len())))?;
    }
    let _lean = crate::LeanMemory::begin();
    let judged = judge(&model, &data, &export_config, &stop)?;
    write!(io::stdout(), "{}", report::quantization_stages(&judged, export_config.sensitivity))?;
    if args.layout == Layout::Triton {
        pack_triton(&model, judged, &contents, &args.export.out, &stop)?;
        let text = format!("{}: {TRITON_MODEL_NAME}/config.pbtxt and its graph", args.export.out.display());
        return Ok(write!(io::stdout(), "{}", report::stage("repository", &text))?);
    }
    let bundle = pack(&model, judged, &contents, &export_config, &args.export.out, &stop)?;
    Ok(write!(io::stdout(), "{}", escaped_lines(&report::bundle_stages(&bundle)))?)
}

/// Rows of token ids of all lengths, spread over the whole vocabulary: they reach every embedding region and position.
fn synthetic(vocab_size: usize, max_length: usize) -> Vec<Example> {
    const ROWS: usize = 64;
    let length = |row: usize| max_length.min(3) + row * max_length.saturating_sub(3) / (ROWS - 1);
    // A multiplier that shares no divisor with usual vocabulary sizes, so that neighbours are unrelated.
    let id = |row: usize, place: usize| ((row * 7919 + place * 104_729) % vocab_size) as u32;
    let encoding = |row| Encoding {
        input_ids: (0..length(row)).map(|place| id(row, place)).collect(),
        token_type_ids: vec![0; length(row)],
        truncated: false,
    };
    (0..ROWS).map(|row| Example { windows: vec![encoding(row)], target: [].into() }).collect()
}
