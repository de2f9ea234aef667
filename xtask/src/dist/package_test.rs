//! `cargo xtask package-test`: what a user of Debian does with the .deb, in systems made for it; and the archive, where
//! there is nothing but the C library. Linux on x86-64, as root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{
    FOLDER, VERSION,
    cross::{self, BUNDLE},
    package,
    target::Target,
    tools, tree,
};
use crate::{command, doors::empty, output, run, workspace};

const ROOTS: &str = ".setup/dist/roots";
/// The packages' systems: the newest tested, and the oldest that Debian's servers still have.
const SUITES: [&str; 2] = ["bookworm", "bullseye"];
/// The version that is upgraded.
const OLDER: &str = "0.0.9";
/// What ONNX Runtime's library and a program need of a system, and a shell to start it.
const LIBRARIES: [&str; 4] = ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6"];

pub(crate) fn package_test() -> Result<()> {
    tools::setup()?;
    super::cross::bundle()?;
    let target = Target::host()?;
    let tree = tree::folder(&target);
    if target.arch != "x86_64" || target.is_windows() {
        bail!("package-test is for Linux on x86-64");
    }
    if !tree.exists() {
        bail!("{} is missing: cargo xtask dist makes it", tree.display());
    }
    let folder = empty(&format!("{ROOTS}/packages"))?;
    let packages = |version| package::build(&target, &tree, version, &folder);
    let (older, newer) = (packages(OLDER)?, packages(VERSION)?);
    SUITES.iter().try_for_each(|suite| debian(suite, &older[0], &newer[0]))?;
    nothing_but_libraries(&tree)
}

/// A fresh system.
fn root(suite: &str) -> Result<PathBuf> {
    let kept = workspace(ROOTS).join(format!("{suite}.fresh"));
    if !kept.exists() {
        let partial = kept.with_extension("partial");
        let _ = fs::remove_dir_all(&partial);
        let mut debootstrap = command("debootstrap", &["--variant=minbase", suite]);
        run(debootstrap.arg(&partial).stdout(std::process::Stdio::null()))?;
        fs::rename(&partial, &kept)?;
    }
    let root = workspace(ROOTS).join(suite);
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    run(command("cp", &["-a"]).arg(&kept).arg(&root))?;
    Ok(root)
}

fn chroot(root: &Path, arguments: &[&str]) -> Command {
    let mut chroot = command("chroot", &[]);
    chroot.arg(root).args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
    chroot
}

/// `/proc` of a system, as long as the value lives.
struct Proc(PathBuf);

impl Proc {
    fn mount(root: &Path) -> Result<Self> {
        let path = root.join("proc");
        run(command("mount", &["-t", "proc", "proc"]).arg(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        let _ = command("umount", &[]).arg(&self.0).status();
    }
}

/// Every file of a system, but for those of its package manager and caches.
fn listing(root: &Path) -> Result<Vec<String>> {
    let pruned = ["./var/lib/dpkg", "./var/log", "./var/cache", "./etc/group-", "./etc/gshadow-", "./etc/.pwd.lock"];
    let found = output(command("find", &[".", "-xdev"]).current_dir(root))?;
    let mut files: Vec<String> = found.lines().map(str::to_owned).collect();
    files.retain(|file| !pruned.iter().any(|start| file.starts_with(start)));
    files.sort();
    Ok(files)
}

fn debian(suite: &str, older: &Path, deb: &Path) -> Result<()> {
    let root = root(suite)?;
    let before = listing(&root)?;
    let groups = fs::read_to_string(root.join("etc/group"))?;
    for (from, to) in [(older, "older.deb"), (deb, "nimbert.deb")] {
        fs::copy(from, root.join("root").join(to)).with_context(|| from.display().to_string())?;
    }
    let proc = Proc::mount(&root)?;
    // What depends is there already: installed without network.
    run(&mut chroot(&root, &["dpkg", "--install", "/root/older.deb"]))?;
    fs::copy(workspace(BUNDLE), root.join("var/lib/nimbert/reviews.nimbert"))?;
    answers(&root, &["nimbert"], "/var/lib/nimbert/reviews.nimbert")?;
    // The unit's command, without systemd: as it stands there, but for the socket's folder, which systemd would make.
    let unit = fs::read_to_string(root.join("usr/lib/systemd/system/nimbert@.service"))?;
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).context("a unit with ExecStart")?;
    let start = start.replace("%i", "reviews").replace("%t", "/run").replace("$NIMBERT_OPTIONS", "--no-cache");
    fs::create_dir_all(root.join("run/nimbert-reviews"))?;
    let socket = root.join("run/nimbert-reviews/socket");
    let mut server = chroot(&root, &start.split(' ').collect::<Vec<_>>());
    let answer = cross::while_served(&mut server, |_| cross::ask_socket(&socket))?;
    if !answer.contains("positive") {
        bail!("{suite}: the unit's command gave another answer");
    }
    run(&mut chroot(&root, &["dpkg", "--install", "/root/nimbert.deb"]))?;
    let version = output(&mut chroot(&root, &["nimbert", "--version"]))?;
    let installed = output(&mut chroot(&root, &["dpkg-query", "--show", "nimbert"]))?;
    if version.trim() != format!("nimbert {VERSION}") || installed.trim() != format!("nimbert\t{VERSION}-1") {
        bail!("{suite}: expected {VERSION} after the upgrade, found {version} and {installed}");
    }
    answers(&root, &["nimbert"], "/var/lib/nimbert/reviews.nimbert")?;
    run(&mut chroot(&root, &["dpkg", "--purge", "nimbert"]))?;
    drop(proc);
    for file in ["root/older.deb", "root/nimbert.deb", "var/lib/nimbert/reviews.nimbert", "run/nimbert-reviews/socket"]
    {
        let _ = fs::remove_file(root.join(file));
    }
    let _ = fs::remove_dir(root.join("run/nimbert-reviews"));
    // The user's model kept its folder; with it gone, nobody needs that.
    let _ = fs::remove_dir(root.join("var/lib/nimbert"));
    let after = listing(&root)?;
    let left: Vec<&String> = after.iter().filter(|file| !before.contains(file)).collect();
    if !left.is_empty() || fs::read_to_string(root.join("etc/group"))? != groups {
        bail!("{suite}: purge left {left:?}, or the group");
    }
    fs::remove_dir_all(&root)?;
    println!("package-test: {suite}: installed, used, served, upgraded, purged; nothing is left");
    Ok(())
}

/// A text, verify and info by a program in a root.
fn answers(root: &Path, program: &[&str], bundle: &str) -> Result<()> {
    let run_with = |arguments: &[&str]| output(&mut chroot(root, &[program, arguments].concat()));
    let answer = run_with(&["classify", bundle, "--no-cache", "a delight from start to finish"])?;
    if !answer.starts_with("positive\t") {
        bail!("{}: expected positive, found {answer}", root.display());
    }
    run_with(&["verify", bundle])?;
    run_with(&["info", bundle]).map(drop)
}

/// The archive, unpacked where there is only the C library, and GCC's two that ONNX Runtime asks for; not even /proc. What
/// its README says under "Use it" is done word by word.
fn nothing_but_libraries(tree: &Path) -> Result<()> {
    let root = empty(&format!("{ROOTS}/nothing"))?;
    let libraries = "lib/x86_64-linux-gnu";
    for folder in [libraries, "lib64"] {
        fs::create_dir_all(root.join(folder))?;
    }
    let oldest = workspace(ROOTS).join(format!("{}.fresh", SUITES[SUITES.len() - 1]));
    let from = [libraries, "usr/lib/x86_64-linux-gnu"].map(|folder| oldest.join(folder));
    let copy = |name: &str, to: &str| {
        let file = from.iter().map(|folder| folder.join(name)).find(|path| path.exists());
        fs::copy(file.with_context(|| name.to_owned())?, root.join(to).join(name)).context(name.to_owned())
    };
    copy("ld-linux-x86-64.so.2", "lib64")?;
    // With what older glibcs have apart.
    for name in LIBRARIES.iter().chain(&["libdl.so.2", "librt.so.1", "libpthread.so.0"]) {
        copy(name, libraries)?;
    }
    let archive = workspace(FOLDER).join(format!("{}.tar.gz", tree.file_name().unwrap_or_default().to_string_lossy()));
    run(command("tar", &["--strip-components=1", "-xzf"]).arg(&archive).arg("-C").arg(&root))?;
    fs::copy(workspace(BUNDLE), root.join("reviews.nimbert"))?;
    fs::write(root.join("reviews.csv"), "text\na delight from start to finish\n")?;
    let readme = fs::read_to_string(root.join("README.md"))?;
    let lines: Vec<&str> = readme.lines().filter_map(|line| line.strip_prefix("    bin/nimbert ")).collect();
    for line in &lines {
        // Words, of which those in quotes are one.
        let parts = line.split('"').enumerate();
        let words = parts.flat_map(|(index, part)| match index % 2 {
            0 => part.split_whitespace().collect(),
            _ => vec![part],
        });
        let mut nimbert = chroot(&root, &["bin/nimbert"]);
        nimbert.args(words);
        match line.split_once("--listen ") {
            Some((_, address)) => {
                let answer = cross::while_served(&mut nimbert, |_| cross::ask_address(address))?;
                if !answer.contains("positive") {
                    bail!("bin/nimbert {line}: expected an answer");
                }
            }
            None => drop(output(&mut nimbert).with_context(|| format!("bin/nimbert {line}"))?),
        }
    }
    if lines.len() < 5 || !fs::read_to_string(root.join("labels.csv"))?.contains("delight") {
        bail!("README.md of the archive: expected five commands and their output");
    }
    fs::remove_dir_all(&root)?;
    println!("package-test: the archive's README works with glibc and GCC's libraries alone: {} commands", lines.len());
    Ok(())
}
