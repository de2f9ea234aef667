//! From encodings of different lengths to rectangular batches: plain integers, no tensor library.

use crate::tokenizer::Encoding;

/// Inputs of one run of the graph, row-major `[rows, columns]`, padded on the right to the longest row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Number of texts.
    pub rows: usize,
    /// Tokens of the longest text.
    pub columns: usize,
    /// Token ids; the pad token's id where a row has ended.
    pub input_ids: Vec<i64>,
    /// 1 for a token, 0 for padding.
    pub attention_mask: Vec<i64>,
    /// 0 or 1, 0 for padding.
    pub token_type_ids: Vec<i64>,
}

impl Batch {
    /// Pads `encodings` to the longest of them.
    pub fn pad<'a>(encodings: impl ExactSizeIterator<Item = &'a Encoding> + Clone, pad_token_id: u32) -> Self {
        Self::pad_to(|rows, columns| (rows, columns), encodings, pad_token_id)
    }

    /// Pads `encodings` to the shape that `shape` makes of theirs, `(rows, columns)`, which may not be smaller. Rows that
    /// belong to no text are one token of padding.
    pub(crate) fn pad_to<'a>(
        shape: impl FnOnce(usize, usize) -> (usize, usize),
        encodings: impl ExactSizeIterator<Item = &'a Encoding> + Clone,
        pad_token_id: u32,
    ) -> Self {
        let texts = encodings.len();
        let longest = encodings.clone().map(|encoding| encoding.input_ids.len()).max().unwrap_or(0);
        let (rows, columns) = shape(texts, longest);
        let mut batch = Self {
            rows,
            columns,
            input_ids: vec![i64::from(pad_token_id); rows * columns],
            attention_mask: vec![0; rows * columns],
            token_type_ids: vec![0; rows * columns],
        };
        for (row, encoding) in encodings.enumerate() {
            for (column, (&id, &kind)) in encoding.input_ids.iter().zip(&encoding.token_type_ids).enumerate() {
                let at = row * columns + column;
                batch.input_ids[at] = i64::from(id);
                batch.attention_mask[at] = 1;
                batch.token_type_ids[at] = i64::from(kind);
            }
        }
        for row in texts..rows {
            batch.attention_mask[row * columns] = 1;
        }
        batch
    }
}

/// Groups rows of like length: indices into `lengths`, at most `batch_size` a group, longest first.
///
/// Padding is the largest single cost of bulk inference (about 45 % of the work for movie sentences in their given
/// order); sorted, next to nothing is padded. The longest come first, so that memory reaches its peak at once.
///
/// # Panics
/// If `batch_size` is 0.
pub fn length_sorted(lengths: &[usize], batch_size: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(lengths[index]));
    order.chunks(batch_size).map(<[usize]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoding(ids: &[u32]) -> Encoding {
        Encoding { input_ids: ids.to_vec(), token_type_ids: vec![0; ids.len()], truncated: false }
    }

    #[test]
    fn pads_to_the_longest_of_the_batch() {
        let rows = [encoding(&[5, 6]), encoding(&[7])];
        let batch = Batch::pad(rows.iter(), 9);
        assert_eq!((batch.rows, batch.columns), (2, 2));
        assert_eq!(batch.input_ids, [5, 6, 7, 9]);
        assert_eq!(batch.attention_mask, [1, 1, 1, 0]);
    }

    #[test]
    fn sorted_batches_hold_every_row_once_longest_first() {
        let batches = length_sorted(&[3, 9, 1, 9, 4], 2);
        assert_eq!(batches, [vec![1, 3], vec![4, 0], vec![2]]);
    }
}
