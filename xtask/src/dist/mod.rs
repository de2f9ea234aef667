//! `cargo xtask dist`: what people download, for every system, made on one Linux machine.

mod archive;
mod compile;
mod cross;
mod doors;
mod emulator;
mod licenses;
mod package;
mod package_test;
mod release;
mod target;
mod tools;
mod tree;

use std::{fs, time::Instant};

use anyhow::{Result, bail};

use crate::{doors::node, workspace};

pub(crate) use self::{
    compile::Compiler,
    cross::cross_test,
    emulator::Emulator,
    licenses::THIRD_PARTY,
    package_test::package_test,
    target::Target,
    tree::{FEATURES, folder},
};

use self::target::TARGETS;

const FOLDER: &str = "target/dist";
const VERSION: &str = env!("CARGO_PKG_VERSION");

const HELP: &str = "\
cargo xtask dist [--target TARGET]... [--key FILE]
cargo xtask dist --check-version TAG

Archives, .deb, .rpm, wheels, npm packages, an SBOM and digests, into target/dist, for all targets or those that are
named. With a key of minisign or nimbert-train keygen the digests are signed; NIMBERT_KEY_PASSWORD is its password.
With --check-version it only compares a tag such as v0.1.0 with the versions of all that ships.";

/// What is asked for.
#[derive(Debug, Default)]
struct Options<'a> {
    targets: Vec<Target>,
    key: Option<&'a str>,
    tag: Option<&'a str>,
}

impl<'a> Options<'a> {
    fn parse(arguments: &[&'a str]) -> Result<Self> {
        let mut options = Self::default();
        for pair in arguments.chunks(2) {
            match *pair {
                ["--target", triple] => options.targets.push(Target::find(triple)?),
                ["--key", file] => options.key = Some(file),
                ["--check-version", tag] => options.tag = Some(tag),
                _ => bail!("dist: expected an option and its value, found {}\n\n{HELP}", pair.join(" ")),
            }
        }
        if options.targets.is_empty() {
            options.targets = TARGETS.to_vec();
        }
        Ok(options)
    }
}

pub(crate) fn dist(arguments: &[&str]) -> Result<()> {
    if let ["--help" | "-h"] = arguments {
        println!("{HELP}");
        return Ok(());
    }
    let options = Options::parse(arguments)?;
    if let Some(tag) = options.tag {
        return release::check_version(tag);
    }
    let has_node = options.targets.iter().any(|target| target.node.is_some());
    if has_node && !node::is_here() {
        bail!("dist: packages for Node.js are made by npm, which is missing: install it (nodejs, npm)");
    }
    tools::setup()?;
    crate::setup::setup()?;
    fs::create_dir_all(workspace(FOLDER).join("build"))?;
    release::clear()?;
    let licenses = licenses::write()?;
    for target in &options.targets {
        let began = Instant::now();
        let tree = tree::build(target, &licenses)?;
        let end = if target.is_windows() { "zip" } else { "tar.gz" };
        let archive = workspace(FOLDER).join(format!("{}.{end}", tree::name(target)));
        archive::pack(&tree, &archive)?;
        package::build(target, &tree, VERSION, &workspace(FOLDER))?;
        doors::build(target)?;
        println!("dist: {}: {:.0} s", target.triple, began.elapsed().as_secs_f64());
    }
    if has_node {
        node::pack(&workspace(FOLDER))?;
    }
    release::finish(options.key)
}
