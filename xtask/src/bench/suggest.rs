//! `cargo xtask bench suggest`: labels that `suggest` saves, beside rows drawn at random.

use anyhow::Result;

use super::{
    datasets::{Labelled, label_counts},
    few::{BASE, rows_of},
    machine, write_csv,
};
use crate::{build, command, release_program, run, setup};

const ROWS: usize = 3000;

pub(crate) fn suggest() -> Result<()> {
    setup::setup()?;
    build()?;
    println!("{}; base all-MiniLM-L6-v2, five repetitions\n", machine());
    for name in ["movies", "amazon", "20newsgroups", "r52"] {
        let (mut rows, _) = rows_of(name)?;
        rows.truncate(ROWS);
        // `suggest` refuses a label of one row, as `fit` does.
        let counts = label_counts(&rows);
        rows.retain(|row| counts[&row.label] > 1);
        let cells: Vec<Vec<String>> = rows.into_iter().map(Labelled::into_cells).collect();
        let data = write_csv("suggest.csv", "text,label", &cells)?;
        println!("{name}, {} rows", cells.len());
        let simulate = ["suggest", "--simulate", "--base", BASE, "--data", &data, "--no-cache"];
        run(&mut command(release_program("nimbert-train"), &simulate))?;
    }
    Ok(())
}
