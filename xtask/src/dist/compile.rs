//! Cross-compiles: with zig as the linker for Linux, so that old systems have the glibc that is asked for, and with
//! mingw for Windows. The standard library is rustup's (`rustup target add`), or else is compiled from its source by a
//! compiler that has that (`rustup component add rust-src`, or Debian's rustc-web and rust-web-src).

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{
    archive,
    target::{GLIBC, Target},
    tools::tool,
};
use crate::{command, output, run, workspace};

/// All that is compiled for others; another compiler's files must not come among those of `target`.
const FOLDER: &str = "target/dist/build";
/// Writes the same libraries in every folder.
const DLLTOOL: &str = "xtask/src/dist/dlltool.sh";
/// What has a standard library, in this order. Debian's compiler is not the first in a path that has rustup's.
const COMPILERS: [&str; 2] = ["rustc", "/usr/bin/rustc"];

/// A compiler for one target.
pub(crate) struct Compiler {
    target: Target,
    rustc: PathBuf,
    /// The source of its standard library, if there is no compiled one.
    source: Option<PathBuf>,
}

impl Compiler {
    pub(crate) fn new(target: Target) -> Result<Self> {
        let sysroots = COMPILERS.iter().filter_map(|rustc| {
            let sysroot = command(rustc, &["--print", "sysroot"]).output().ok().filter(|it| it.status.success())?;
            let sysroot = PathBuf::from(String::from_utf8(sysroot.stdout).ok()?.trim());
            Some((PathBuf::from(rustc), sysroot.join("lib/rustlib")))
        });
        let sysroots: Vec<_> = sysroots.collect();
        let is_there = |(_, libraries): &&(_, PathBuf)| libraries.join(target.triple).join("lib").exists();
        if let Some((rustc, _)) = sysroots.iter().find(is_there) {
            return Ok(Self { target, rustc: rustc.clone(), source: None });
        }
        let source = |(_, libraries): &(_, PathBuf)| libraries.join("src/rust/library");
        let Some(found) = sysroots.iter().find(|sysroot| source(sysroot).exists()) else {
            bail!("no standard library for {0}: rustup target add {0}", target.triple);
        };
        Ok(Self { target, rustc: found.0.clone(), source: Some(source(found)) })
    }

    /// Compiles packages, to [`Self::folder`].
    pub(crate) fn build(&self, packages: &[&str], features: &str) -> Result<()> {
        let mut build = match self.target.is_windows() {
            true => command(self.cargo(), &["build", "--target", self.target.triple]),
            false => {
                let (major, minor) = GLIBC;
                let target = format!("{}.{major}.{minor}", self.target.triple);
                command(tool("cargo-zigbuild"), &["zigbuild", "--target", &target])
            }
        };
        build.args(["--profile", "dist", "--locked", "--features", features]);
        build.args(packages.iter().flat_map(|package| ["--package", package]));
        self.prepare(&mut build)?;
        run(build.args(self.arguments()))
    }

    /// Further arguments of cargo.
    pub(crate) fn arguments(&self) -> &'static [&'static str] {
        if self.source.is_some() { &["-Zbuild-std=std,panic_abort,panic_unwind"] } else { &[] }
    }

    /// What cargo, and what calls it, has to know of the compiler.
    pub(crate) fn prepare(&self, command: &mut Command) -> Result<()> {
        // Flags are told apart by spaces.
        if workspace(".").to_string_lossy().contains(' ') {
            bail!("{}: expected a path without spaces", workspace(".").display());
        }
        let mut flags = vec![
            format!("--remap-path-prefix={}=/nimbert", workspace(".").components().as_path().display()),
            format!("--remap-path-prefix={}=/cargo", cargo_home()?.display()),
        ];
        if self.target.is_windows() {
            command.env("LIBNODE_PATH", no_libnode()?);
            flags.push(format!("-Cdlltool={}", workspace(DLLTOOL).display()));
        }
        if let Some(source) = &self.source {
            command.env("RUSTC_BOOTSTRAP", "1");
            flags.push(format!("--remap-path-prefix={}=/rust", source.display()));
            if self.target.is_windows() {
                flags.push(format!("-Lnative={}", self.startup_objects(source)?.display()));
            }
        }
        command.env("CARGO", self.cargo()).env("RUSTC", &self.rustc);
        command.env("RUSTFLAGS", flags.join(" ")).env("CARGO_TARGET_DIR", workspace(FOLDER));
        command.env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER", "x86_64-w64-mingw32-gcc");
        // The linker of Windows' programs would write the time of day into them.
        command.env("SOURCE_DATE_EPOCH", archive::TIME.to_string());
        // zig is a package of that environment's Python.
        let path = env::var_os("PATH").unwrap_or_default();
        let tools = tool("python3").parent().map(Path::to_owned);
        command.env("PATH", env::join_paths(tools.into_iter().chain(env::split_paths(&path)))?);
        Ok(())
    }

    /// Where what was built lies.
    pub(crate) fn folder(&self) -> PathBuf {
        workspace(FOLDER).join(self.target.triple).join("dist")
    }

    /// The cargo that belongs to the compiler.
    pub(crate) fn cargo(&self) -> PathBuf {
        match self.rustc.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            Some(folder) => folder.join("cargo"),
            None => env::var_os("CARGO").unwrap_or_else(|| "cargo".into()).into(),
        }
    }

    /// Two objects with which programs of Windows begin and end, which cargo does not make with a standard library.
    fn startup_objects(&self, source: &Path) -> Result<PathBuf> {
        let folder = workspace(FOLDER).join("startup");
        fs::create_dir_all(&folder)?;
        for name in ["rsbegin", "rsend"] {
            let mut compile = command(&self.rustc, &["--target", self.target.triple, "--emit=obj", "-O"]);
            compile.arg(source.join(format!("rtstartup/{name}.rs"))).arg("-o").arg(folder.join(format!("{name}.o")));
            run(compile.env("RUSTC_BOOTSTRAP", "1"))?;
        }
        Ok(folder)
    }
}

/// A library of nothing for what would link with Node.js's under mingw. No release of Node.js has one, and our module looks
/// its functions up at run time.
fn no_libnode() -> Result<PathBuf> {
    let folder = workspace(FOLDER).join("node");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("libnode.dll"), "")?;
    fs::write(folder.join("node.def"), "LIBRARY node.exe\nEXPORTS\n")?;
    let mut dlltool = command("x86_64-w64-mingw32-dlltool", &["--input-def", "node.def", "--output-lib"]);
    run(dlltool.arg("libnode.dll.a").current_dir(&folder))?;
    Ok(folder)
}

fn cargo_home() -> Result<PathBuf> {
    let home = || env::home_dir().map(|home| home.join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home).context("a home directory")
}

/// The newest glibc that a file asks for.
pub(crate) fn needed_glibc(file: &Path) -> Result<Option<(u32, u32)>> {
    let symbols = output(command("objdump", &["--dynamic-syms"]).arg(file))?;
    let version = |word: &str| {
        let (major, minor) = word.trim_matches(['(', ')']).strip_prefix("GLIBC_")?.split_once('.')?;
        Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
    };
    Ok(symbols.split_whitespace().filter_map(version).max())
}
