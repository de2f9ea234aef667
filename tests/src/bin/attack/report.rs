//! What is printed at the end.

use std::fmt::Write;

use crate::parent::{Attack, Tally};

/// A table in Markdown, a row for each kind.
pub(crate) fn table(tallies: &[Tally]) -> String {
    let mut table = String::from("| kind | cases | same answers | errors | other answers | failures |\n");
    table += "|---|--:|--:|---|--:|--:|\n";
    for Tally { kind, cases, same, other, errors, failures } in tallies {
        let errors: Vec<String> = errors.iter().map(|(variant, count)| format!("{variant} {count}")).collect();
        let (kind, errors) = (kind.name(), errors.join(", "));
        writeln!(table, "| {kind} | {cases} | {same} | {errors} | {other} | {} |", failures.len())
            .expect("a text takes any text");
    }
    table
}

/// What must not be, and how to see it again.
pub(crate) fn failures(tallies: &[Tally], attack: &Attack) -> String {
    let mut report = String::new();
    for (kind, failure) in tallies.iter().flat_map(|tally| tally.failures.iter().map(|failure| (tally.kind, failure))) {
        let (kind, bundle) = (kind.name(), attack.bundle.display());
        let repeat = format!("attack case {bundle} {kind} {} {}", attack.seed, failure.index);
        write!(report, "\n{repeat}\n  {}\n  {}\n", failure.what, failure.outcome).expect("a text takes any text");
    }
    report
}
