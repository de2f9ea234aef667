//! The systems for which there are packages.

use anyhow::{Context, Result, bail};

/// A system, and what others call it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    /// As Rust calls it.
    pub(crate) triple: &'static str,
    /// As [`std::env::consts`] does.
    pub(crate) os: &'static str,
    pub(crate) arch: &'static str,
    /// Its .deb and .rpm, where it has such packages.
    pub(crate) packages: Option<Packages>,
    /// As npm does, and what its package is named. None: its registry, and Python's, have no ONNX Runtime for the system, so
    /// that a wheel or a package of ours would have nothing to run with.
    pub(crate) node: Option<&'static str>,
}

/// What a system's packages say of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packages {
    /// What the processor is called in each.
    pub(crate) deb: &'static str,
    pub(crate) rpm: &'static str,
    /// Where a .rpm has libraries.
    pub(crate) rpm_libraries: &'static str,
    /// What ONNX Runtime's library needs at least.
    pub(crate) glibc: &'static str,
    pub(crate) libstdcxx: &'static str,
}

const X86_64: Packages =
    Packages { deb: "amd64", rpm: "x86_64", rpm_libraries: "/usr/lib64", glibc: "2.28", libstdcxx: "8" };

pub(crate) const TARGETS: [Target; 4] = [
    Target {
        triple: "x86_64-unknown-linux-gnu",
        os: "linux",
        arch: "x86_64",
        packages: Some(X86_64),
        node: Some("linux-x64-gnu"),
    },
    Target {
        triple: "aarch64-unknown-linux-gnu",
        os: "linux",
        arch: "aarch64",
        packages: Some(Packages { deb: "arm64", rpm: "aarch64", ..X86_64 }),
        node: Some("linux-arm64-gnu"),
    },
    Target {
        triple: "armv7-unknown-linux-gnueabihf",
        os: "linux",
        arch: "arm",
        packages: Some(Packages {
            deb: "armhf",
            rpm: "armv7hl",
            rpm_libraries: "/usr/lib",
            glibc: "2.34",
            libstdcxx: "11",
        }),
        node: None,
    },
    Target {
        triple: "x86_64-pc-windows-gnu",
        os: "windows",
        arch: "x86_64",
        packages: None,
        node: Some("win32-x64-msvc"),
    },
];

/// The oldest glibc that our own files run with. ONNX Runtime's library wants a newer one, see [`Packages::glibc`].
pub(crate) const GLIBC: (u32, u32) = (2, 17);

impl Target {
    pub(crate) fn find(triple: &str) -> Result<Self> {
        let Some(target) = TARGETS.iter().find(|target| target.triple == triple) else {
            bail!("expected a target of {}, found {triple}", TARGETS.map(|target| target.triple).join(", "));
        };
        Ok(*target)
    }

    /// This system.
    pub(crate) fn host() -> Result<Self> {
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        let host = TARGETS.into_iter().find(|target| (target.os, target.arch) == (os, arch));
        host.with_context(|| format!("no package is made for {os} on {arch}"))
    }

    pub(crate) fn is_windows(&self) -> bool {
        self.os == "windows"
    }

    /// A program's file.
    pub(crate) fn program(&self, name: &str) -> String {
        format!("{name}{}", if self.is_windows() { ".exe" } else { "" })
    }

    /// ONNX Runtime's file, as nimbert looks for it.
    pub(crate) fn onnx_runtime(&self) -> &'static str {
        if self.is_windows() { "onnxruntime.dll" } else { "libonnxruntime.so" }
    }

    /// Where a tree has it: Windows looks beside the program.
    pub(crate) fn onnx_runtime_folder(&self) -> &'static str {
        if self.is_windows() { "bin" } else { "lib/nimbert" }
    }
}
