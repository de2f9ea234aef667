//! What is in the programs, and what must not be.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, bail};

use crate::{cargo, command, output, run, workspace};

/// What the runtime's tree must not have.
const FORBIDDEN: [&str; 12] = [
    "candle",
    "prost",
    "rustls",
    "native-tls",
    "openssl",
    "hyper",
    "reqwest",
    "ureq",
    "hf-hub",
    "tokio",
    "ndarray",
    "onig",
];

/// The folders of the workspace's packages, beside whose manifests a tool writes.
const MEMBERS: [&str; 8] =
    ["runtime", "runtime/capi", "trainer", "bindings/node", "bindings/python", "tests", "benches", "xtask"];
/// The files that may have unsafe code; the compiler refuses it elsewhere.
const UNSAFE: [&str; 22] = [
    "benches/src/bin/opened.rs",
    "bindings/node/src/bytes.rs",
    "bindings/python/src/classifier.rs",
    "bindings/python/src/column.rs",
    "runtime/capi/src/arguments.rs",
    "runtime/capi/src/call.rs",
    "runtime/capi/src/classifier.rs",
    "runtime/capi/src/lib.rs",
    "runtime/capi/src/load.rs",
    "runtime/capi/src/results.rs",
    "runtime/src/exchange.rs",
    "runtime/src/external.rs",
    "runtime/src/fused/attention/pair_products.rs",
    "runtime/src/library.rs",
    "runtime/src/main.rs",
    "runtime/src/map.rs",
    "runtime/src/math.rs",
    "runtime/src/own.rs",
    "trainer/src/main.rs",
    "trainer/src/ops/bf16.rs",
    "trainer/src/ops/matmul.rs",
    "trainer/src/ops/parts.rs",
];

/// Programs of the audit, built into `.setup`: their versions are fixed, so that the same is said everywhere.
const CARGO_DENY: (&str, &str) = ("cargo-deny", "0.20.2");
const CARGO_CYCLONEDX: (&str, &str) = ("cargo-cyclonedx", "0.5.9");

/// Checks the runtime's tree, and where there is unsafe code.
pub(crate) fn guard() -> Result<()> {
    let tree = output(&mut cargo(&["tree", "-p", "nimbert", "-e", "normal", "--prefix", "none"]))?;
    let found: Vec<&str> = tree.lines().filter(|line| FORBIDDEN.iter().any(|name| line.starts_with(name))).collect();
    if !found.is_empty() {
        bail!("the runtime must stay lean, but depends on {}", found.join(", "));
    }
    let crates: BTreeSet<_> = tree.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    println!("guard: the runtime depends on {} crates, none of them forbidden", crates.len() - 1);
    let mut allowing = BTreeSet::new();
    for folder in ["runtime", "bindings", "trainer", "tests", "benches", "xtask", "fuzz"] {
        find_unsafe(&workspace(folder), &mut allowing)?;
    }
    // This file names it, and has none.
    allowing.remove("xtask/src/guard.rs");
    if allowing != UNSAFE.map(str::to_owned).into() {
        bail!("expected unsafe code to be allowed in {UNSAFE:?}, found {allowing:?}");
    }
    println!("guard: unsafe code in {} files: {}", UNSAFE.len(), UNSAFE.join(", "));
    Ok(())
}

/// Adds the files below `folder` that allow unsafe code.
fn find_unsafe(folder: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !["target", "node_modules"].contains(&name.as_str()) {
            find_unsafe(&path, found)?;
        } else if name.ends_with(".rs") && fs::read_to_string(&path)?.contains("unsafe_code") {
            let relative = path.strip_prefix(workspace(".").components().as_path()).unwrap_or(&path);
            found.insert(relative.to_string_lossy().replace('\\', "/"));
        }
    }
    Ok(())
}

/// Licences, sources and bans; and advisories, where their database can be had.
pub(crate) fn audit() -> Result<()> {
    let deny = install(CARGO_DENY, "")?;
    run(command(&deny, &["--all-features", "check", "licenses", "bans", "sources"]).env("CARGO", cargo_program()))?;
    let advisories =
        command(&deny, &["--all-features", "check", "advisories"]).env("CARGO", cargo_program()).output()?;
    let said = String::from_utf8_lossy(&advisories.stderr);
    if advisories.status.success() {
        println!("audit: no advisories");
        return Ok(());
    }
    if said.contains("failed to fetch advisory database") {
        println!("audit: advisories were not checked: their database cannot be had here");
        return Ok(());
    }
    bail!("advisories:\n{said}")
}

/// Writes what each program is made of.
pub(crate) fn sbom() -> Result<()> {
    let cyclonedx = install(CARGO_CYCLONEDX, "")?;
    let folder = workspace("target/sbom");
    fs::create_dir_all(&folder)?;
    for (package, manifest) in [("nimbert", "runtime/Cargo.toml"), ("nimbert-train", "trainer/Cargo.toml")] {
        let arguments = ["cyclonedx", "--format", "json", "--spec-version", "1.5", "--no-build-deps"];
        let file = format!("{package}.cdx");
        run(command(&cyclonedx, &arguments)
            .args(["--manifest-path", manifest, "--override-filename", &file])
            .env("CARGO", cargo_program()))?;
        let written = workspace(manifest).with_file_name(format!("{file}.json"));
        let path = folder.join(format!("{package}.cdx.json"));
        fs::rename(&written, &path).with_context(|| written.display().to_string())?;
        // It writes one beside every manifest of the workspace.
        for member in MEMBERS {
            let _ = fs::remove_file(workspace(member).join(format!("{file}.json")));
        }
        println!("sbom: {}", path.display());
    }
    Ok(())
}

pub(crate) fn cargo_program() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Builds a program into `.setup`, unless it is there.
pub(crate) fn install((name, version): (&str, &str), features: &str) -> Result<std::path::PathBuf> {
    let root = workspace(".setup/tools").join(format!("{name}-{version}"));
    let program = root.join("bin").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if !program.exists() {
        let root = root.to_str().context("a path in UTF-8")?;
        run(&mut cargo(&["install", "--locked", "--version", version, "--root", root, "--features", features, name]))?;
    }
    Ok(program)
}
