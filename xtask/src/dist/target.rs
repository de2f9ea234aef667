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
    /// As .deb and .rpm do, where it has such packages.
    pub(crate) packages: Option<[&'static str; 2]>,
    /// As npm does, and what its package is named.
    pub(crate) node: &'static str,
}

pub(crate) const TARGETS: [Target; 3] = [
    Target {
        triple: "x86_64-unknown-linux-gnu",
        os: "linux",
        arch: "x86_64",
        packages: Some(["amd64", "x86_64"]),
        node: "linux-x64-gnu",
    },
    Target {
        triple: "aarch64-unknown-linux-gnu",
        os: "linux",
        arch: "aarch64",
        packages: Some(["arm64", "aarch64"]),
        node: "linux-arm64-gnu",
    },
    Target { triple: "x86_64-pc-windows-gnu", os: "windows", arch: "x86_64", packages: None, node: "win32-x64-msvc" },
];

/// The oldest glibc that our own files run with. That of ONNX Runtime's library is 2.28.
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
