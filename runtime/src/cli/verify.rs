//! `nimbert verify`: checksums of all files, then a load of every graph and one run of it.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use nimbert::{Bundle, Classifier, Options};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The bundle's folder
    bundle: PathBuf,
    #[command(flatten)]
    open: super::OpenArgs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let bundle = Bundle::open(&args.bundle)?;
    bundle.verify()?;
    let variants = &bundle.manifest.variants;
    let asked = |name: &str| args.open.variant.as_deref().is_none_or(|asked| asked == name);
    // As they are in the bundle, not as they were compiled before.
    let options = Options { cache: None, ..args.open.options() };
    if let Some(name) = &options.variant {
        bundle.variant(Some(name), options.session.device)?;
    }
    for variant in variants.iter().filter(|variant| asked(&variant.name)) {
        let options = Options { variant: Some(variant.name.clone()), ..options.clone() };
        Classifier::open(&args.bundle, &options)?.classify("verify")?;
    }
    let files = bundle.manifest.files.len();
    let graphs = if args.open.variant.is_some() { "the graph" } else { "every graph" };
    Ok(writeln!(io::stdout(), "{}: ok: {files} checksums, {graphs} loads and runs", args.bundle.display())?)
}
