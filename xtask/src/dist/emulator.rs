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

/// A processor of ARM, as qemu knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arm {
    /// As qemu calls it.
    pub(super) name: &'static str,
    /// qemu's program for it.
    program: &'static str,
    /// Where Debian's cross compiler has libraries.
    libraries: &'static str,
    /// Of `/proc/cpuinfo`, which ONNX Runtime reads, and under qemu would find to be the real one's.
    features: &'static str,
    part: &'static str,
    architecture: u32,
}

/// ARMv8.2 with dot products. The vectors of qemu's own choice are longer: it then clears the rest of each after every
/// instruction, which takes forty times as long.
const NEOVERSE_N1: Arm = Arm {
    name: "neoverse-n1",
    program: "qemu-aarch64-static",
    libraries: "/usr/aarch64-linux-gnu/lib",
    features: "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    part: "0xd0c",
    architecture: 8,
};

/// ARMv8.0: without dot products.
pub(super) const CORTEX_A53: Arm = Arm {
    name: "cortex-a53",
    features: "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid",
    part: "0xd03",
    ..NEOVERSE_N1
};

/// With bfloat16.
pub(super) const BFLOAT16: Arm = Arm {
    name: "max,sve=off",
    features: "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm dcpop asimddp i8mm bf16",
    part: "0xd49",
    ..NEOVERSE_N1
};

const CORTEX_A15: Arm = Arm {
    name: "cortex-a15",
    program: "qemu-arm-static",
    libraries: "/usr/arm-linux-gnueabihf/lib",
    features: "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm",
    part: "0xc0f",
    architecture: 7,
};

/// How programs of one target are started here.
pub(crate) enum Emulator {
    Native,
    Qemu { processor: Arm, root: PathBuf },
    Wine { prefix: PathBuf, preload: Option<PathBuf> },
}

impl Emulator {
    pub(crate) fn new(target: &Target) -> Result<Self> {
        fs::create_dir_all(workspace(FOLDER))?;
        match (target.os, target.arch) {
            ("windows", _) => wine(),
            (_, arch) if arch == std::env::consts::ARCH => Ok(Self::Native),
            (_, "arm") => Self::arm(CORTEX_A15),
            _ => Self::arm(NEOVERSE_N1),
        }
    }

    /// A processor of ARM.
    pub(super) fn arm(processor: Arm) -> Result<Self> {
        let root = workspace(FOLDER).join(processor.name);
        fs::create_dir_all(root.join("proc"))?;
        let cores = std::thread::available_parallelism()?.get();
        fs::write(root.join("proc/cpuinfo"), (0..cores).map(|core| processor.cpuinfo(core)).collect::<String>())?;
        let lib = root.join("lib");
        let _ = fs::remove_file(&lib);
        #[cfg(unix)]
        std::os::unix::fs::symlink(processor.libraries, lib)?;
        Ok(Self::Qemu { processor, root })
    }

    /// A run of a program.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = match self {
            Self::Native => command(program, &[]),
            Self::Qemu { processor, root } => {
                let mut qemu = command(processor.program, &["-cpu", processor.name, "-L"]);
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

impl Arm {
    /// The lines of one core.
    fn cpuinfo(&self, core: usize) -> String {
        let Self { features, part, architecture, .. } = self;
        format!(
            "processor\t: {core}\nBogoMIPS\t: 243.75\nFeatures\t: {features}\nCPU implementer\t: 0x41\n\
             CPU architecture: {architecture}\nCPU variant\t: 0x3\nCPU part\t: {part}\nCPU revision\t: 1\n\n"
        )
    }
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
