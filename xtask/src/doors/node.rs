//! Node.js: packages as npm has them.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::{BUNDLE, FOLDER, build, copy, empty, has, packed};
use crate::{
    command,
    dist::{THIRD_PARTY, Target},
    release_program, run, workspace,
};

/// Where the packages go, and the folders that they are packed from.
const PACKAGES: &str = "target/npm";
const LICENSES: [&str; 2] = ["LICENSE-APACHE", "LICENSE-MIT"];

/// `cargo xtask node`: builds the packages, installs them into an empty folder, and tests them there.
pub(crate) fn node() -> Result<()> {
    crate::setup::setup()?;
    crate::build()?;
    setup()?;
    test()
}

/// TypeScript, for the test of the types.
pub(super) fn setup() -> Result<()> {
    let folder = workspace("bindings/node/test");
    if folder.join("node_modules/typescript").exists() || !is_here() {
        return Ok(());
    }
    run(command("npm", &["ci", "--no-audit", "--no-fund", "--silent"]).current_dir(folder))
}

/// Whether Node.js and npm are here.
pub(crate) fn is_here() -> bool {
    has("node") && has("npm")
}

pub(super) fn test() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let installed = install()?;
    let tests = ["classify", "errors", "process", "types"].map(|name| format!("bindings/node/test/{name}.test.js"));
    let file = packed()?;
    let mut test = command("node", &["--test", "--test-reporter=spec"]);
    test.args(tests)
        .env("NIMBERT_TEST_PACKAGE", installed)
        .env("NIMBERT_TEST_BUNDLE", workspace(BUNDLE))
        .env("NIMBERT_TEST_FILE", workspace(&file))
        .env("NIMBERT_PROGRAM", release_program("nimbert"))
        .env("XDG_CACHE_HOME", workspace(".setup/cache"));
    run(&mut test)
}

/// Packs both packages, and installs them into an empty folder. Returns where the first lies then.
pub(super) fn install() -> Result<std::path::PathBuf> {
    build()?;
    let packages = empty(PACKAGES)?;
    let built = release_program("nimbert");
    pack(&packages)?;
    pack_platform(&Target::host()?, built.parent().context("a folder")?, &packages)?;
    let user = empty(&format!("{PACKAGES}/user"))?;
    run(command("npm", &["init", "-y", "--silent"]).current_dir(&user).stdout(std::process::Stdio::null()))?;
    let mut install = command("npm", &["install", "--offline", "--no-audit", "--no-fund", "--silent"]);
    for entry in fs::read_dir(&packages)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "tgz") {
            install.arg(path);
        }
    }
    run(install.current_dir(&user))?;
    Ok(user.join("node_modules/@nimbert/nimbert"))
}

/// Packs the package that people ask for.
pub(crate) fn pack(packages: &Path) -> Result<()> {
    let folder = empty(&format!("{FOLDER}/npm"))?;
    for file in ["index.js", "index.d.ts", "native.js", "package.json", "README.md"] {
        copy(&format!("bindings/node/{file}"), folder.join(file))?;
    }
    npm_pack(&folder, packages)
}

/// Packs the module of one system, which lies compiled in `built`.
pub(crate) fn pack_platform(target: &Target, built: &Path, packages: &Path) -> Result<()> {
    let folder = empty(&format!("{FOLDER}/npm-platform"))?;
    let platform = target.node.context("a system that has ONNX Runtime at npm")?;
    let [os, cpu, ..] = platform.split('-').collect::<Vec<_>>()[..] else { anyhow::bail!("a system of npm's") };
    for file in ["package.json", "README.md"] {
        let text = fs::read_to_string(workspace("bindings/node/npm/platform").join(file))?;
        let text = text.replace("@PLATFORM@", platform).replace("@OS@", os).replace("@CPU@", cpu);
        fs::write(folder.join(file), text.replace("@VERSION@", env!("CARGO_PKG_VERSION")))?;
    }
    if os == "linux" {
        // npm tells its C libraries apart.
        let path = folder.join("package.json");
        let mut package: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
        package["libc"] = serde_json::json!(["glibc"]);
        fs::write(path, serde_json::to_string_pretty(&package)?)?;
    }
    let licenses = workspace("bindings/node/npm/platform").join(THIRD_PARTY);
    if licenses.exists() {
        // Those of a release.
        fs::copy(licenses, folder.join(THIRD_PARTY))?;
    }
    let module = if target.is_windows() { "nimbert_node.dll" } else { "libnimbert_node.so" };
    fs::copy(built.join(module), folder.join(format!("nimbert.{platform}.node"))).context(module)?;
    npm_pack(&folder, packages)
}

fn npm_pack(folder: &Path, packages: &Path) -> Result<()> {
    // npm packs no links.
    LICENSES.iter().try_for_each(|license| copy(license, folder.join(license)))?;
    run(command("npm", &["pack", "--silent", "--pack-destination"]).arg(packages).current_dir(folder))
}
