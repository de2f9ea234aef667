//! `nimbert-train pack`: a bundle's folder as one file.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use nimbert::Bundle;

#[derive(clap::Args)]
#[command(after_help = "\
The file is a ZIP whose members are not compressed; what opens a bundle takes it in place of the folder. It is as fast, and \
nobody can forget a file. A signature comes along. Any program for ZIP shows what is in it, and makes a folder of it again:
  unzip -l reviews.nimbert
  unzip reviews.nimbert -d reviews-bundle

Examples:
  nimbert-train pack reviews-bundle --out reviews.nimbert
  nimbert classify reviews.nimbert \"I love this movie!\"
  nimbert-train fit --base models/minilm --data reviews.csv --out reviews.nimbert")]
pub(super) struct Args {
    /// The bundle: a folder, or a .nimbert file
    bundle: PathBuf,
    /// The file to be made; its name ends with .nimbert
    #[arg(long, value_name = "FILE.nimbert")]
    out: PathBuf,
    /// Replace a bundle that is already there
    #[arg(long)]
    overwrite: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let bundle = Bundle::open(&args.bundle)?;
    bundle.verify()?;
    bundle.pack(&args.out, args.overwrite)?;
    let bytes = std::fs::metadata(&args.out)?.len();
    let files = bundle.manifest.files.len();
    let size = bytes as f64 / 1e6;
    Ok(writeln!(io::stdout(), "{}: {files} files, {size:.1} MB", args.out.display())?)
}
