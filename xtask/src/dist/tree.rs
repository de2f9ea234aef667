//! What an archive unpacks to: a tree as below `/usr/local`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::{
    FOLDER, VERSION, archive,
    compile::{Compiler, needed_glibc},
    target::{GLIBC, Target},
};
use crate::{
    cargo,
    doors::{c, copy, empty},
    run, setup, workspace,
};

/// Where manual pages and completions go, and what they end with.
const MANUALS: [(&str, &str, &str); 5] = [
    (".1", "man/man1", ""),
    (".bash", "bash-completion/completions", "nimbert"),
    ("_nimbert", "zsh/site-functions", ""),
    (".fish", "fish/vendor_completions.d", ""),
    (".ps1", "powershell", "nimbert.ps1"),
];
const LICENSES: [&str; 2] = ["LICENSE-APACHE", "LICENSE-MIT"];
/// Bytes that the program and ONNX Runtime's library may have on ARM, where machines are small.
const LIMITS: [u64; 2] = [7_000_000, 26_000_000];
/// The cargo features that ship.
pub(crate) const FEATURES: &str = "serve";

/// The name of the tree's folder.
pub(super) fn name(target: &Target) -> String {
    format!("nimbert-{VERSION}-{}", target.triple)
}

pub(crate) fn folder(target: &Target) -> PathBuf {
    workspace(FOLDER).join(name(target))
}

/// Compiles what ships and lays it out.
pub(super) fn build(target: &Target, licenses: &str) -> Result<PathBuf> {
    let compiler = Compiler::new(*target)?;
    compiler.build(&["nimbert"], FEATURES)?;
    // With the module of Node.js, so that both cores have work.
    let libraries = ["nimbert-capi", "nimbert-node"];
    compiler.build(if target.node.is_some() { &libraries } else { &libraries[..1] }, "")?;
    let tree = empty(&format!("{FOLDER}/{}", name(target)))?;
    let folder = |name: &str| {
        let path = tree.join(name);
        fs::create_dir_all(&path).with_context(|| path.display().to_string()).map(|()| path)
    };
    let program = folder("bin")?.join(target.program("nimbert"));
    fs::copy(compiler.folder().join(target.program("nimbert")), &program).context("the program")?;
    c::tree(&tree, &compiler.folder(), target)?;
    let documents = folder("share/doc/nimbert")?;
    let library = folder(target.onnx_runtime_folder())?.join(target.onnx_runtime());
    onnx_runtime(target, &library, &documents)?;
    for license in LICENSES {
        copy(license, documents.join(license))?;
    }
    fs::write(documents.join("THIRD-PARTY.txt"), licenses)?;
    copy("packaging/README.md", tree.join("README.md"))?;
    for file in archive::files(&manuals()?)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let place = MANUALS.iter().find(|(end, ..)| name.ends_with(end));
        let (_, to, new_name) = place.with_context(|| format!("{name}: no place in a tree"))?;
        let new_name = if new_name.is_empty() { &*name } else { new_name };
        fs::copy(&file, folder(&format!("share/{to}"))?.join(new_name)).with_context(|| file.display().to_string())?;
    }
    if !target.is_windows() {
        copy("packaging/nimbert@.service", folder("lib/systemd/system")?.join("nimbert@.service"))?;
        check_glibc(&program)?;
        check_glibc(&tree.join("lib/libnimbert.so.0"))?;
    }
    for (path, limit) in [program, library].into_iter().zip(LIMITS) {
        let bytes = path.metadata()?.len();
        println!("dist: {}: {:.2} MB", path.strip_prefix(&tree)?.display(), bytes as f64 / 1e6);
        if bytes > limit && target.arch == "aarch64" {
            bail!("{}: expected at most {limit} bytes, found {bytes}", path.display());
        }
    }
    Ok(tree)
}

/// ONNX Runtime's library and what its makers ask to ship with it.
fn onnx_runtime(target: &Target, library: &Path, documents: &Path) -> Result<()> {
    let kept = format!(".setup/dist/{}", target.triple);
    let file = |name: &str| format!("{kept}/{name}");
    let packages = setup::onnx_runtime_to_ship((target.os, target.arch), &kept, target.onnx_runtime())?;
    packages.iter().try_for_each(setup::Package::install)?;
    copy(&file(target.onnx_runtime()), library)?;
    let folder = documents.join("onnxruntime");
    fs::create_dir_all(&folder)?;
    setup::NOTICES.iter().try_for_each(|name| copy(&file(name), folder.join(name)))
}

/// Manual pages and completions, written by the program itself, for this system.
fn manuals() -> Result<PathBuf> {
    let folder = empty(&format!("{FOLDER}/manuals"))?;
    let features = format!("{FEATURES},manual");
    let program = ["run", "--quiet", "--locked", "--package", "nimbert", "--features", &features];
    run(cargo(&program).env("NIMBERT_MANUAL", &folder))?;
    Ok(folder)
}

/// That a file runs with the oldest glibc that is promised.
pub(super) fn check_glibc(file: &Path) -> Result<()> {
    let needed = needed_glibc(file)?.context("expected a file that asks for glibc's functions")?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    println!("dist: {name}: glibc {}.{} or newer", needed.0, needed.1);
    if needed > GLIBC {
        bail!("{}: expected at most glibc {GLIBC:?}, found {needed:?}", file.display());
    }
    Ok(())
}
