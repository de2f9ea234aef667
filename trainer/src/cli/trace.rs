//! `nimbert-train trace`: what each stage makes of one text.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use nimbert::prediction::escaped_lines;

#[derive(clap::Args)]
#[command(after_help = "\
Example:
  nimbert-train trace reviews-bundle \"I love this movie!\"")]
pub(super) struct Args {
    /// A bundle, or the Hugging Face folder of a trained model
    model: PathBuf,
    /// The text
    text: String,
    /// ONNX Runtime's library [default: $ORT_DYLIB_PATH, else beside this program, in ../lib/nimbert or ../lib, its Python
    /// environment, the setup's folder, the system]
    #[arg(long, value_name = "FILE")]
    ort_lib: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let trace = nimbert_trainer::trace::trace(&args.model, &args.text, args.ort_lib.clone())?;
    Ok(write!(io::stdout(), "{}", escaped_lines(&trace.to_string()))?)
}
