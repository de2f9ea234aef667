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
    session: super::SessionArgs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let bundle = Bundle::open(&args.bundle)?;
    bundle.verify()?;
    for variant in &bundle.manifest.variants {
        let options =
            Options { session: args.session.options(), variant: Some(variant.name.clone()), ..Options::default() };
        Classifier::open(&args.bundle, &options)?.classify("verify")?;
    }
    let files = bundle.manifest.files.len();
    Ok(writeln!(io::stdout(), "{}: ok: {files} checksums, every graph loads and runs", args.bundle.display())?)
}
