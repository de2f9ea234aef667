//! `nimbert-train keygen` and `sign`: who made a bundle, for those who ask `--require-signature`.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    path::PathBuf,
};

use anyhow::{Context, bail};
use nimbert_trainer::sign::{SigningKey, generate, sign};

#[derive(clap::Args)]
#[command(after_help = "\
Keep the secret key where bundles are made, and nowhere else; the public one goes to every place that opens them.

Examples:
  nimbert-train keygen
  nimbert-train keygen --key release.key --public-key release.pub --password-file password.txt
  nimbert-train sign reviews-bundle --key nimbert.key
  nimbert verify reviews-bundle --public-key nimbert.pub")]
pub(super) struct KeygenArgs {
    /// The secret key's file, to be made
    #[arg(long, default_value = "nimbert.key", value_name = "FILE")]
    key: PathBuf,
    /// The public key's file, to be made
    #[arg(long, default_value = "nimbert.pub", value_name = "FILE")]
    public_key: PathBuf,
    /// Leave the secret key without a password: for a machine that signs alone
    #[arg(long, conflicts_with = "password_file")]
    no_password: bool,
    /// A file whose first line is the password [default: it is asked for]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

#[derive(clap::Args)]
#[command(after_help = "\
Every file is compared with its digest first. The signature is nimbert.json.minisig in the bundle; minisign reads it too:
  minisign -Vm reviews-bundle/nimbert.json -p nimbert.pub

Example:
  nimbert-train sign reviews-bundle --key nimbert.key")]
pub(super) struct SignArgs {
    /// The bundle: a folder, or a .nimbert file
    bundle: PathBuf,
    /// The secret key's file
    #[arg(long, default_value = "nimbert.key", value_name = "FILE")]
    key: PathBuf,
    /// A file whose first line is the key's password [default: it is asked for, if the key has one]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

pub(super) fn keygen(args: &KeygenArgs) -> anyhow::Result<()> {
    for file in [&args.key, &args.public_key] {
        if file.exists() {
            bail!("{}: expected no file, found one: a key is never replaced", file.display());
        }
    }
    let password = match args.no_password {
        true => None,
        false => Some(password(args.password_file.as_ref(), true)?),
    };
    let public = generate(&args.key, &args.public_key, password)?;
    let mut out = io::stdout();
    writeln!(out, "secret key   {} (only this user can read it)", args.key.display())?;
    Ok(writeln!(out, "public key   {}: {public}", args.public_key.display())?)
}

pub(super) fn run(args: &SignArgs) -> anyhow::Result<()> {
    let key = SigningKey::open(&args.key)?;
    let password = match key.is_encrypted() {
        true => Some(password(args.password_file.as_ref(), false)?),
        false if args.password_file.is_some() => bail!("--password-file: the key has no password"),
        false => None,
    };
    sign(&args.bundle, key, password)?;
    Ok(writeln!(io::stdout(), "{}: signed with {}", args.bundle.display(), args.key.display())?)
}

/// A password, from a file's first line or the terminal, where it is asked for twice if it is a new one.
fn password(file: Option<&PathBuf>, is_new: bool) -> anyhow::Result<String> {
    if let Some(file) = file {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        return match text.lines().next().unwrap_or_default() {
            "" => bail!("{}: expected a password in the first line, found none", file.display()),
            password => Ok(password.to_owned()),
        };
    }
    if !io::stdin().is_terminal() {
        bail!(
            "expected a terminal to ask for the password, or --password-file{}",
            if is_new { ", or --no-password" } else { "" }
        );
    }
    let password = rpassword::prompt_password("Password of the secret key: ")?;
    if is_new {
        if password.is_empty() {
            bail!("expected a password, found none; --no-password leaves the key without one");
        }
        if rpassword::prompt_password("The same again: ")? != password {
            bail!("expected the same password twice, found two");
        }
    }
    Ok(password)
}
