//! `nimbert verify`: signature, checksums of all files, then a load of every graph and one run of it.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::bail;
use nimbert::{Bundle, Classifier, Device, Options, TextInput, Verify, bundle::Variant, prediction::escaped};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nimbert verify reviews-bundle
  nimbert verify reviews-bundle --public-key nimbert.pub
  nimbert verify reviews-bundle --public-key 2025.pub --public-key 2026.pub")]
pub(super) struct Args {
    /// The bundle: a folder, or a .nimbert file
    bundle: PathBuf,
    /// A key with which the bundle must have been signed: a file of nimbert-train keygen or minisign, or its line of base64.
    /// Of several, one must have signed
    #[arg(long, value_name = "KEY", conflicts_with = "require_signature")]
    public_key: Vec<super::KeyArg>,
    #[command(flatten)]
    open: super::OpenArgs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    if args.open.trust.verify == Verify::Never {
        bail!("--verify: expected always or once, since every file is compared, found never");
    }
    let device = args.open.device;
    if device == Device::Auto {
        bail!("--device: expected cpu, cuda or tensorrt, found auto");
    }
    // As they are in the bundle, not as they were compiled or compared before.
    let mut options = Options { cache: None, verify: Verify::Always, ..args.open.options()? };
    options.require_signature.extend(super::keys(&args.public_key));
    let bundle = Bundle::open_signed(&args.bundle, &options.require_signature)?;
    bundle.verify()?;
    let variants = &bundle.manifest.variants;
    bundle.reference()?;
    // On the CPU every graph runs; another device runs those that were made for it.
    let asked = |variant: &&Variant| match &args.open.variant {
        Some(name) => *name == variant.name,
        None => device == Device::Cpu || device.execution_provider() == Some(&variant.execution_provider),
    };
    if let Some(name) = &options.variant {
        bundle.variant(Some(name), options.session.device)?;
    }
    let (runnable, foreign): (Vec<&Variant>, _) =
        variants.iter().filter(asked).partition(|variant| variant.is_for_processor());
    if runnable.is_empty() && foreign.is_empty() {
        bail!("{}: expected a graph for {device}, found none", args.bundle.display());
    }
    let pair = bundle.manifest.pairs.unwrap_or(false).then_some("verify");
    for variant in &runnable {
        let options = Options { variant: Some(variant.name.clone()), ..options.clone() };
        Classifier::open(&args.bundle, &options)?.classify(TextInput { text: "verify", pair })?;
    }
    let files = bundle.manifest.files.len();
    let graphs = match (&args.open.variant, device) {
        _ if runnable.is_empty() => String::new(),
        (Some(name), _) => format!(", {} loads and runs", escaped(name)),
        (None, Device::Cpu) if foreign.is_empty() => ", every graph loads and runs".to_owned(),
        (None, Device::Cpu) => ", every other graph loads and runs".to_owned(),
        (None, device) => format!(", every graph for {device} loads and runs"),
    };
    let foreign = foreign.iter().filter_map(|variant| Some((&variant.name, variant.requires?)));
    let left: String =
        foreign.map(|(name, what)| format!("; {} was not run: it requires {what}", escaped(name))).collect();
    let signed = match (options.require_signature.is_empty(), bundle.signature_comment()) {
        (false, comment) => format!(", signed ({})", super::on_one_line(&comment.unwrap_or_default())),
        (true, Some(_)) => "; its signature was not looked at: --public-key".to_owned(),
        (true, None) => String::new(),
    };
    Ok(writeln!(io::stdout(), "{}: ok: {files} checksums{graphs}{left}{signed}", args.bundle.display())?)
}
