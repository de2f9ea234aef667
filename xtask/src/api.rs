//! The public interface of the crate `nimbert`, a line an item: a change of it is seen in `runtime/api.txt`.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, bail};

use crate::{cargo, run, workspace};

const LISTING: &str = "runtime/api.txt";
/// Its own folder: a compiler that is told to be a nightly one compiles everything anew.
const TARGET: &str = "target/api";

/// Whether the listing is compared, or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listing {
    Compare,
    Write,
}

pub(crate) fn api(listing: Listing) -> Result<()> {
    // The description of an interface as JSON is a form that may change, and so is not in stable releases.
    let mut rustdoc = cargo(&["rustdoc", "--quiet", "--package", "nimbert", "--lib", "--no-default-features"]);
    rustdoc.args(["--features", "rows", "--target-dir", TARGET, "--", "-Z", "unstable-options"]);
    run(rustdoc.args(["--output-format", "json", "--cap-lints", "allow"]).env("RUSTC_BOOTSTRAP", "1"))?;
    let api = public_api::Builder::from_rustdoc_json(workspace(TARGET).join("doc/nimbert.json"))
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()
        .context("rustdoc's JSON: another version of the crate public-api may read it")?;
    let now: BTreeSet<String> = api.items().map(ToString::to_string).collect();
    if listing == Listing::Write {
        fs::write(workspace(LISTING), now.iter().map(|item| format!("{item}\n")).collect::<String>())?;
        println!("api: {LISTING}: {} items", now.len());
        return Ok(());
    }
    let before: BTreeSet<String> = fs::read_to_string(workspace(LISTING))?.lines().map(str::to_owned).collect();
    let changes: Vec<String> = (before.difference(&now).map(|item| format!("- {item}")))
        .chain(now.difference(&before).map(|item| format!("+ {item}")))
        .collect();
    if !changes.is_empty() {
        bail!(
            "the public interface is not that of {LISTING}:\n{}\nif that is meant, `cargo xtask api write` writes it anew, and \
             CHANGELOG.md says so",
            changes.join("\n")
        );
    }
    println!("api: {} items, as in {LISTING}", now.len());
    Ok(())
}
