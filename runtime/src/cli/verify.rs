//! `nimbert verify`: checksums of all files, then a load of every graph and one run of it.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use nimbert::{Bundle, Classifier, Device, Options, bundle::Variant};

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
    // On the CPU every graph runs; another device runs those that were made for it.
    let device = args.open.device;
    let asked = |variant: &&Variant| match &args.open.variant {
        Some(name) => *name == variant.name,
        None => device == Device::Cpu || device.execution_provider() == Some(&variant.execution_provider),
    };
    // As they are in the bundle, not as they were compiled before.
    let options = Options { cache: None, ..args.open.options() };
    if let Some(name) = &options.variant {
        bundle.variant(Some(name), options.session.device)?;
    }
    for variant in variants.iter().filter(asked) {
        let options = Options { variant: Some(variant.name.clone()), ..options.clone() };
        Classifier::open(&args.bundle, &options)?.classify("verify")?;
    }
    let files = bundle.manifest.files.len();
    let graphs = match (&args.open.variant, device) {
        (Some(name), _) => name.clone(),
        (None, Device::Cpu) => "every graph".to_owned(),
        (None, device) => format!("every graph for {device}"),
    };
    Ok(writeln!(io::stdout(), "{}: ok: {files} checksums, {graphs} loads and runs", args.bundle.display())?)
}
