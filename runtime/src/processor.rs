//! What the processor can do.

use std::{
    fs::File,
    io::{BufRead, BufReader},
};

use serde::{Deserialize, Serialize};

/// What a graph may ask of the processor that computes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Requirement {
    /// Products of bytes are summed without loss, however large the bytes: x86-64 with VNNI, and every aarch64. Without
    /// VNNI, ONNX Runtime adds two of them in 16 bits, and a sum that does not fit becomes the largest that does.
    ExactByteProducts,
}

impl Requirement {
    /// Whether this machine's processor can do it.
    pub fn is_met(self) -> bool {
        match self {
            Self::ExactByteProducts => has_exact_byte_products(),
        }
    }
}

impl std::fmt::Display for Requirement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ExactByteProducts => f.write_str("exact products of bytes (VNNI on x86-64, or aarch64)"),
        }
    }
}

fn has_exact_byte_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512vnni") || is_x86_feature_detected!("avxvnni");
    #[cfg(not(target_arch = "x86_64"))]
    cfg!(target_arch = "aarch64")
}

/// Whether ONNX Runtime multiplies fp32 in bfloat16 if it is asked to: only on aarch64 and under Linux.
pub(crate) fn has_bf16_products() -> bool {
    #[cfg(all(target_arch = "aarch64", target_os = "linux"))]
    return std::arch::is_aarch64_feature_detected!("bf16");
    #[cfg(not(all(target_arch = "aarch64", target_os = "linux")))]
    false
}

/// What the processor can do, which decides in what order ONNX Runtime wants weights.
pub(crate) fn instructions() -> String {
    // Linux lists all of them, those of matrix units too; the first processor's lines end with an empty one.
    let list = File::open("/proc/cpuinfo").map(BufReader::new).map(|file| {
        let lines = file.lines().map_while(std::io::Result::ok).take_while(|line| !line.is_empty());
        let tells = |line: &String| ["flags", "Features", "CPU part"].iter().any(|key| line.starts_with(key));
        lines.filter(tells).collect::<Vec<_>>().join(" ")
    });
    format!("{} {}", std::env::consts::ARCH, list.unwrap_or_else(|_| detected().join(" ")))
}

/// The same where there is no such list, as far as the standard library tells.
fn detected() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let has = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512fp16", is_x86_feature_detected!("avx512fp16")),
        ("avxvnni", is_x86_feature_detected!("avxvnni")),
    ];
    #[cfg(target_arch = "aarch64")]
    let has = [
        ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
        ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
        ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
        ("sve", std::arch::is_aarch64_feature_detected!("sve")),
    ];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let has: [(&str, bool); 0] = [];
    has.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
}
