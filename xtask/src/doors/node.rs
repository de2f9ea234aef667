//! Node.js: packages as npm has them.

use std::fs;

use anyhow::Result;

use super::{BUNDLE, build, copy, empty, has, packed};
use crate::{command, release_program, run, workspace};

/// Where the packages go, and the folders that they are packed from.
const PACKAGES: &str = "target/npm";
const MODULE: &str = "nimbert.linux-x64-gnu.node";
const LICENSES: [&str; 2] = ["LICENSE-APACHE", "LICENSE-MIT"];

/// `cargo xtask node`: builds the packages, installs them into an empty folder, and tests them there.
pub(crate) fn node() -> Result<()> {
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
pub(super) fn is_here() -> bool {
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
    empty(PACKAGES)?;
    let [main, platform] = ["nimbert", "nimbert-linux-x64-gnu"].map(|name| format!("{PACKAGES}/{name}"));
    for (folder, from, files) in [
        (&main, "bindings/node", &["index.js", "index.d.ts", "native.js", "package.json", "README.md"][..]),
        (&platform, "bindings/node/npm/linux-x64-gnu", &["package.json", "README.md"]),
    ] {
        let path = empty(folder)?;
        for file in files {
            copy(&format!("{from}/{file}"), path.join(file))?;
        }
        // npm packs no links.
        LICENSES.iter().try_for_each(|license| copy(license, path.join(license)))?;
    }
    fs::copy(release_program("nimbert").with_file_name("libnimbert_node.so"), workspace(&platform).join(MODULE))?;
    let user = empty(&format!("{PACKAGES}/user"))?;
    let packages = workspace(PACKAGES);
    for folder in [&main, &platform] {
        run(command("npm", &["pack", "--silent", "--pack-destination"]).arg(&packages).current_dir(workspace(folder)))?;
    }
    run(command("npm", &["init", "-y", "--silent"]).current_dir(&user).stdout(std::process::Stdio::null()))?;
    let archives = ["nimbert-nimbert-0.1.0.tgz", "nimbert-nimbert-linux-x64-gnu-0.1.0.tgz"];
    let mut install = command("npm", &["install", "--offline", "--no-audit", "--no-fund", "--silent"]);
    run(install.args(archives.map(|archive| packages.join(archive))).current_dir(&user))?;
    Ok(user.join("node_modules/@nimbert/nimbert"))
}
