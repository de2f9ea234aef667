//! A sample of the attack on a bundle; `cargo xtask attack` is all of it.

use nimbert_tests::{Dir, finish, program, tiny_bundle};

/// Cases of each kind: some seconds.
const SAMPLE: &str = "150";

#[test]
fn a_changed_bundle_gives_an_error_or_the_same_answers() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    let table = finish(program("attack").arg(bundle).args(["--sample", SAMPLE])).success();
    // Nothing was attacked if nothing noticed it.
    for kind in ["manifest", "config", "files", "compiled", "sealed", "graph", "tokenizer"] {
        let row = table.lines().find(|line| line.starts_with(&format!("| {kind} | ")));
        let cases = row.and_then(|row| row.split(" | ").nth(1)).and_then(|cases| cases.parse::<u32>().ok());
        assert!(cases.is_some_and(|cases| cases > 100), "{kind}: {table}");
    }
    for (kind, error) in [("manifest", "Checksum"), ("files", "Checksum"), ("graph", "Format")] {
        let row = table.lines().find(|line| line.starts_with(&format!("| {kind} | ")));
        assert!(row.is_some_and(|row| row.contains(error)), "{kind}: {table}");
    }
}
