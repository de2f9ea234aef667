//! Programs of other systems on this one: qemu-user for ARM, wine for Windows.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::target::Target;
use crate::{command, run, workspace};

const FOLDER: &str = ".setup/dist/emulators";
/// Where Debian's cross compiler has libraries.
const ARM_LIBRARIES: &str = "/usr/aarch64-linux-gnu/lib";
/// ONNX Runtime reads what the processor can do from there, and under qemu would find the real one.
const ARM_PROCESSOR: &str = "\
processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1

";

/// How programs of one target are started here.
pub(crate) enum Emulator {
    Native,
    Qemu { root: PathBuf },
    Wine { prefix: PathBuf, preload: Option<PathBuf> },
}

impl Emulator {
    pub(crate) fn new(target: &Target) -> Result<Self> {
        fs::create_dir_all(workspace(FOLDER))?;
        match (target.os, target.arch) {
            ("windows", _) => wine(),
            (_, "aarch64") if std::env::consts::ARCH != "aarch64" => qemu(),
            _ => Ok(Self::Native),
        }
    }

    /// A run of a program.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = match self {
            Self::Native => command(program, &[]),
            Self::Qemu { root } => {
                let mut qemu = command("qemu-aarch64-static", &["-L"]);
                qemu.arg(root).arg(program);
                qemu
            }
            Self::Wine { prefix, preload } => {
                let mut wine = command("wine", &[]);
                wine.arg(program).env("WINEPREFIX", prefix).env("WINEDEBUG", "-all").env("WINEPATH", workspace(FOLDER));
                if let Some(preload) = preload {
                    wine.env("LD_PRELOAD", preload);
                }
                wine
            }
        };
        // The library is the one that ships with the program.
        command.env_remove("ORT_DYLIB_PATH");
        command
    }
}

fn qemu() -> Result<Emulator> {
    let root = workspace(FOLDER).join("arm");
    fs::create_dir_all(root.join("proc"))?;
    let cores = std::thread::available_parallelism()?.get();
    let processors: String = (0..cores).map(|core| ARM_PROCESSOR.replace(": 0\n", &format!(": {core}\n"))).collect();
    fs::write(root.join("proc/cpuinfo"), processors)?;
    let lib = root.join("lib");
    let _ = fs::remove_file(&lib);
    #[cfg(unix)]
    std::os::unix::fs::symlink(ARM_LIBRARIES, lib)?;
    Ok(Emulator::Qemu { root })
}

fn wine() -> Result<Emulator> {
    let folder = workspace(FOLDER);
    // Wine 8 lacks a library that every program of Rust's asks for.
    let random = folder.join("bcryptprimitives.dll");
    let mut compile = command("x86_64-w64-mingw32-gcc", &["-shared", "-O1", "xtask/src/dist/wine/bcryptprimitives.c"]);
    run(compile.arg("-o").arg(random).arg("-ladvapi32"))?;
    let has_amx = fs::read_to_string("/proc/cpuinfo").is_ok_and(|processor| processor.contains("amx_tile"));
    let preload = has_amx.then(|| folder.join("amx.so"));
    if let Some(preload) = &preload {
        let mut compile = command("cc", &["-shared", "-fPIC", "-O1", "xtask/src/dist/wine/amx.c"]);
        run(compile.arg("-o").arg(preload))?;
    }
    let emulator = Emulator::Wine { prefix: folder.join("wine"), preload };
    if !folder.join("wine/system.reg").exists() {
        // Neither is asked for by what has no window.
        for arguments in [&["wineboot", "-i"][..], &["winecfg", "-v", "win10"]] {
            let [program, rest @ ..] = arguments else { unreachable!("both have a name") };
            let mut wine = emulator.command(Path::new(program));
            run(wine.args(rest).env("WINEDLLOVERRIDES", "mscoree=;mshtml=")).context("wine")?;
        }
    }
    Ok(emulator)
}
