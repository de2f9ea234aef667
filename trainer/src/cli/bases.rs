//! `nimbert-train bases`.

use std::io::{self, Write};

use nimbert_trainer::bases::{BASES, Base};

/// The longest word of the list, such as a series of names, is longer than most terminals are wide: it is a list, no table.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nimbert-train bases
  nimbert-train bases --json | jq -r '.[] | select(.licence == \"MIT\") | .name'")]
pub(super) struct Args {
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if args.json {
        return Ok(writeln!(out, "{}", serde_json::to_string(&BASES)?)?);
    }
    for Base { name, licence, languages, size, tokens, tokenizer, good_for } in &BASES {
        writeln!(out, "{name}\n    {good_for}")?;
        writeln!(out, "    {licence}; {languages}; {size} million numbers; {tokens} tokens; {tokenizer}\n")?;
    }
    writeln!(
        out,
        "Numbers are those of the words' embeddings + all others: --trim-vocab keeps of the former what a task needs,"
    )?;
    writeln!(out, "the latter are what a text costs. Read a licence at its source before you ship.")?;
    Ok(())
}
