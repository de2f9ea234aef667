//! What is in the programs, and what must not be.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{cargo, command, dist::FEATURES, output, run, workspace};

/// What the runtime's tree must not have: the names of crates begin so.
const FORBIDDEN: [&str; 20] = [
    "candle",
    "prost",
    "rustls",
    "native-tls",
    "openssl",
    "boring",
    "aws-lc",
    "schannel",
    "security-framework",
    "reqwest",
    "ureq",
    "curl",
    "isahc",
    "attohttpc",
    "minreq",
    "hf-hub",
    "ndarray",
    "onig",
    "async-std",
    "actix",
];
/// And what it has for its server alone.
const OF_SERVER: [&str; 6] = ["hyper", "axum", "tokio", "h2", "tower", "tiny_http"];
/// All of its cargo features that bring crates.
const ALL_FEATURES: [&str; 2] = ["--features", "serve,parquet,tracing"];

/// On every system that there are crates for.
const ANYWHERE: [&str; 2] = ["--target", "all"];

/// The folders of the workspace's packages, beside whose manifests a tool writes.
const MEMBERS: [&str; 8] =
    ["runtime", "runtime/capi", "trainer", "bindings/node", "bindings/python", "tests", "benches", "xtask"];
/// The files that may have unsafe code; the compiler refuses it elsewhere.
const UNSAFE: [&str; 26] = [
    "benches/src/bin/opened.rs",
    "bindings/node/src/bytes.rs",
    "bindings/python/src/classifier.rs",
    "bindings/python/src/column.rs",
    "examples/desktop/src/main.rs",
    "runtime/capi/src/arguments.rs",
    "runtime/capi/src/call.rs",
    "runtime/capi/src/classifier.rs",
    "runtime/capi/src/lib.rs",
    "runtime/capi/src/load.rs",
    "runtime/capi/src/results.rs",
    "runtime/src/exchange.rs",
    "runtime/src/external.rs",
    "runtime/src/fused/attention/pair_products.rs",
    "runtime/src/hangup.rs",
    "runtime/src/library.rs",
    "runtime/src/main.rs",
    "runtime/src/map.rs",
    "runtime/src/math.rs",
    "runtime/src/own.rs",
    "trainer/src/main.rs",
    "trainer/src/ops/bf16.rs",
    "trainer/src/ops/bf16/amx.rs",
    "trainer/src/ops/bf16/avx512.rs",
    "trainer/src/ops/matmul.rs",
    "trainer/src/ops/parts.rs",
];

/// Programs of the audit, built into `.setup`: their versions are fixed, so that the same is said everywhere.
const CARGO_DENY: (&str, &str) = ("cargo-deny", "0.20.2");
const CARGO_CYCLONEDX: (&str, &str) = ("cargo-cyclonedx", "0.5.9");

/// Checks the runtime's tree, and where there is unsafe code.
pub(crate) fn guard() -> Result<()> {
    let lean = [&FORBIDDEN[..], &OF_SERVER].concat();
    for (features, forbidden) in [(&[][..], &lean[..]), (&ALL_FEATURES, &FORBIDDEN)] {
        let crates = crates("nimbert", &[features, &ANYWHERE].concat())?;
        let found: Vec<&String> =
            crates.iter().filter(|name| forbidden.iter().any(|forbidden| name.starts_with(forbidden))).collect();
        let shown = if features.is_empty() { "the runtime" } else { "with all features it" };
        if !found.is_empty() {
            bail!("the runtime must stay lean, but {shown} depends on {found:?}");
        }
        println!("guard: {shown} depends on {} crates on any system, none of them forbidden", crates.len() - 1);
    }
    for member in MEMBERS {
        let manifest = fs::read_to_string(workspace(member).join("Cargo.toml")).with_context(|| member.to_owned())?;
        if !manifest.contains("[lints]\nworkspace = true") {
            bail!("{member}/Cargo.toml: expected the workspace's lints, which refuse unsafe code");
        }
    }
    let mut allowing = BTreeSet::new();
    for folder in ["runtime", "bindings", "trainer", "tests", "benches", "xtask", "fuzz", "examples"] {
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

/// Writes what each program is made of, on any system: the runtime's with the cargo features that ship.
pub(crate) fn sbom() -> Result<()> {
    let cyclonedx = install(CARGO_CYCLONEDX, "")?;
    let folder = workspace("target/sbom");
    fs::create_dir_all(&folder)?;
    let programs = [
        ("nimbert", "nimbert", "runtime/Cargo.toml", &["--features", FEATURES][..]),
        ("nimbert-train", "nimbert-trainer", "trainer/Cargo.toml", &[]),
    ];
    for (program, package, manifest, features) in programs {
        let arguments =
            ["cyclonedx", "--format", "json", "--spec-version", "1.5", "--no-build-deps", "--target", "all"];
        let file = format!("{program}.cdx");
        run(command(&cyclonedx, &arguments)
            .args(features)
            .args(["--manifest-path", manifest, "--override-filename", &file])
            .env("CARGO", cargo_program()))?;
        let written = workspace(manifest).with_file_name(format!("{file}.json"));
        let path = folder.join(format!("{program}.cdx.json"));
        let mut sbom: Value = serde_json::from_slice(&fs::read(&written)?)?;
        keep(&mut sbom, &crates(package, &[features, &ANYWHERE].concat())?)
            .with_context(|| written.display().to_string())?;
        fs::write(&path, serde_json::to_string_pretty(&sbom)?)?;
        // It writes one beside every manifest of the workspace.
        for member in MEMBERS {
            let _ = fs::remove_file(workspace(member).join(format!("{file}.json")));
        }
        println!("sbom: {}", path.display());
    }
    Ok(())
}

/// Leaves of an SBOM the crates that are in the program: it is made of the whole workspace, whose other packages bring features.
fn keep(sbom: &mut Value, crates: &BTreeSet<String>) -> Result<()> {
    let list = |sbom: &mut Value, name: &str| -> Result<Vec<Value>> {
        sbom.get_mut(name).and_then(Value::as_array_mut).map(std::mem::take).with_context(|| format!("no {name}"))
    };
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let mut components = list(sbom, "components")?;
    components.retain(|of| crates.contains(&format!("{} v{}", text(of, "name"), text(of, "version"))));
    let mut kept: BTreeSet<String> = components.iter().map(|component| text(component, "bom-ref")).collect();
    kept.insert(text(&sbom["metadata"]["component"], "bom-ref"));
    let mut dependencies = list(sbom, "dependencies")?;
    dependencies.retain(|of| kept.contains(&text(of, "ref")));
    for of in &mut dependencies {
        if let Some(on) = of.get_mut("dependsOn").and_then(Value::as_array_mut) {
            on.retain(|on| on.as_str().is_some_and(|on| kept.contains(on)));
        }
    }
    sbom["components"] = components.into();
    sbom["dependencies"] = dependencies.into();
    Ok(())
}

/// What a package depends on, on this system unless the options of cargo say otherwise, each as `name v1.2.3`; itself among them.
pub(crate) fn crates(package: &str, options: &[&str]) -> Result<BTreeSet<String>> {
    let tree = ["tree", "-p", package, "-e", "normal", "--prefix", "none"];
    let tree = output(cargo(&tree).args(options))?;
    // Behind them stand the folder, and whether they were there before.
    let named = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    Ok(tree.lines().map(named).collect())
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
