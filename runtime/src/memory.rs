//! How much memory a run of the graph needs: an estimate from its shape, so that a batch can be refused before it is run;
//! and how much the process holds.

use crate::config::ModelConfig;

/// The sizes that a run's memory depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunMemory {
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) heads: usize,
}

impl RunMemory {
    pub(crate) fn of(config: &ModelConfig) -> Self {
        let &ModelConfig { hidden_size, intermediate_size, num_attention_heads: heads, .. } = config;
        Self { hidden_size, intermediate_size, heads }
    }

    /// Bytes that a run of `rows` texts of `columns` tokens needs at its peak, with some to spare.
    ///
    /// Either the feed-forward part is the largest (its input and residual, and twice what is between its products: before
    /// and behind the activation), or attention is (queries, keys, values and their product, and the scores of all pairs of
    /// tokens). In 32 bits all of it.
    pub(crate) fn bytes(&self, rows: usize, columns: usize) -> u64 {
        // Every one is at most 2^20: what is too much for 64 bits is too much.
        let [rows, columns, hidden, intermediate, heads] =
            [rows, columns, self.hidden_size, self.intermediate_size, self.heads].map(|size| size as u128);
        let tokens = rows * columns;
        let feed_forward = tokens * (3 * hidden + 2 * intermediate);
        let attention = tokens * 8 * hidden + 2 * rows * heads * columns * columns;
        // A quarter for what quantization and ONNX Runtime's own buffers add.
        u64::try_from(feed_forward.max(attention) * 5).unwrap_or(u64::MAX)
    }
}

/// Bytes of memory that the process holds now. None where the system does not say it in a file.
pub fn resident_bytes() -> Option<u64> {
    status_bytes("VmRSS:")
}

/// The most bytes of memory that the process has held. None where the system does not say it in a file.
pub fn peak_bytes() -> Option<u64> {
    status_bytes("VmHWM:")
}

/// A figure of Linux' `/proc/self/status`.
fn status_bytes(figure: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(figure))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attention_grows_with_the_square_of_the_length() {
        let memory = RunMemory { hidden_size: 384, intermediate_size: 1536, heads: 12 };
        assert_eq!(memory.bytes(1, 32), 32 * (3 * 384 + 2 * 1536) * 5);
        let (short, long) = (memory.bytes(1, 512), memory.bytes(1, 1024));
        assert!(long > 3 * short, "{short} {long}");
        assert_eq!(memory.bytes(4, 64), 4 * memory.bytes(1, 64));
        let most = RunMemory { hidden_size: 1 << 20, intermediate_size: 1 << 20, heads: 1 << 20 };
        assert_eq!(most.bytes(1 << 20, 1 << 20), u64::MAX);
    }
}
