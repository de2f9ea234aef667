//! `nimbert-train bases`.

use std::io::{self, Write};

use nimbert_trainer::bases::{BASES, Base};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nimbert-train bases
  nimbert-train bases --json | jq -r '.[] | select(.licence == \"MIT\") | .names[]'")]
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
    // A list: a table of names such as these is wider than most terminals.
    for base in &BASES {
        let Base { names, licence, languages, tokens, tokenizer, good_for, .. } = base;
        writeln!(out, "{}\n    {good_for}", names.join("\n"))?;
        writeln!(out, "    {licence}; {languages}; {} million numbers; {tokens} tokens; {tokenizer}\n", base.sizes())?;
    }
    writeln!(
        out,
        "Numbers are those of the words' embeddings + all others: --trim-vocab keeps of the former what a task needs,"
    )?;
    writeln!(out, "the latter are what a text costs. Read a licence at its source before you ship.")?;
    Ok(())
}
