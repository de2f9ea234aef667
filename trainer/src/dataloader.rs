//! From tokenized texts to batches, without padding.

use std::collections::BTreeMap;

use nimbert::Encoding;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::loss::Target;

/// A labelled text as the model reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Token ids: one window, or several of a long text.
    pub windows: Vec<Encoding>,
    /// What it should be answered with.
    pub target: Target,
}

impl Example {
    /// Number of tokens in all windows.
    pub fn tokens(&self) -> usize {
        self.windows.iter().map(|window| window.input_ids.len()).sum()
    }
}

/// The tokens of several texts, one text after the other. A long text may be several windows, each of which is encoded
/// as a text of its own; their logits are averaged.
///
/// Nothing is padded, so the texts of a batch may be of any lengths: an epoch is shuffled freely, and grouping texts by
/// length — which saves padding elsewhere at the price of less random batches — would save nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackedBatch {
    /// `[tokens]`
    pub input_ids: Vec<u32>,
    /// `[tokens]`
    pub token_type_ids: Vec<u32>,
    /// Each token's place in its text, from 0: `[tokens]`.
    pub position_ids: Vec<u32>,
    /// Row r (a text, or a window of one) owns the tokens `offsets[r]..offsets[r + 1]`: `[rows + 1]`.
    pub offsets: Vec<usize>,
    /// Text t owns the rows `texts[t]..texts[t + 1]`: `[texts + 1]`.
    pub texts: Vec<usize>,
}

impl PackedBatch {
    /// Puts `encodings` one after the other, each a text.
    pub fn new<'a>(encodings: impl IntoIterator<Item = &'a Encoding>) -> Self {
        Self::of_windows(encodings.into_iter().map(std::slice::from_ref))
    }

    /// Puts texts one after the other, each of one window or several.
    pub fn of_windows<'a>(texts: impl IntoIterator<Item = &'a [Encoding]>) -> Self {
        let mut batch = Self { offsets: vec![0], texts: vec![0], ..Self::default() };
        for windows in texts {
            for window in windows {
                batch.input_ids.extend(&window.input_ids);
                batch.token_type_ids.extend(&window.token_type_ids);
                batch.position_ids.extend(0..window.input_ids.len() as u32);
                batch.offsets.push(batch.input_ids.len());
            }
            batch.texts.push(batch.rows());
        }
        batch
    }

    /// Number of texts, or of windows where texts have several.
    pub fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.input_ids.len()
    }
}

/// The batches of one epoch: every index below `rows` once, shuffled, `batch_size` a batch (the last may be smaller).
pub(crate) fn shuffled_batches(rows: usize, batch_size: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..rows).collect();
    order.shuffle(rng);
    order.chunks(batch_size).map(<[usize]>::to_vec).collect()
}

/// The same, so that rows of the same labels come in groups of four as far as there are so many; a batch may end within a group.
pub(crate) fn grouped_batches(examples: &[Example], batch_size: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<usize>> {
    const GROUP: usize = 4;
    let mut by_labels: BTreeMap<&[u32], Vec<usize>> = BTreeMap::new();
    for (index, example) in examples.iter().enumerate() {
        by_labels.entry(&example.target.ids).or_default().push(index);
    }
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for mut members in by_labels.into_values() {
        members.shuffle(rng);
        groups.extend(members.chunks(GROUP).map(<[usize]>::to_vec));
    }
    groups.shuffle(rng);
    groups.concat().chunks(batch_size).map(<[usize]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Stream, generator};

    #[test]
    fn packs_one_text_after_the_other() {
        let encoding =
            |ids: &[u32]| Encoding { input_ids: ids.to_vec(), token_type_ids: vec![0; ids.len()], truncated: false };
        let batch = PackedBatch::new(&[encoding(&[7, 8, 9]), encoding(&[5])]);
        assert_eq!((batch.rows(), batch.tokens()), (2, 4));
        assert_eq!(batch.position_ids, [0, 1, 2, 0]);
        assert_eq!(batch.offsets, [0, 3, 4]);
    }

    #[test]
    fn an_epoch_has_every_row_once_and_follows_from_the_seed() {
        let batches = |seed| shuffled_batches(10, 4, &mut generator(seed, Stream::Shuffle));
        let mut rows: Vec<usize> = batches(1).concat();
        rows.sort_unstable();
        assert_eq!(rows, (0..10).collect::<Vec<_>>());
        assert_eq!(batches(1), batches(1));
        assert_ne!(batches(1), batches(2));
        assert_eq!(batches(1).iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
    }
}
