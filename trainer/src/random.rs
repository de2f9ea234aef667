//! Every random choice of a run follows from one seed. Each purpose has a stream of its own, so that one more draw
//! for the one does not move the others.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::ops::Dropout;

/// What random numbers are drawn for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stream {
    Split = 1,
    Shuffle = 2,
    Dropout = 3,
    Folds = 4,
    Variations = 5,
    Suggest = 6,
    Rehearsal = 7,
    Strangers = 8,
}

/// The generator of `stream` under `seed`.
pub(crate) fn generator(seed: u64, stream: Stream) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream as u64);
    rng
}

/// How many 32-bit numbers `rng` has drawn.
pub(crate) fn position(rng: &ChaCha8Rng) -> u64 {
    // A run would have to draw for a century to leave 64 bits.
    rng.get_word_pos() as u64
}

/// Hands out a key for each use of dropout.
#[derive(Debug)]
pub struct DropoutKeys(Option<ChaCha8Rng>);

impl DropoutKeys {
    /// Keys that follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Some(generator(seed, Stream::Dropout)))
    }

    /// How many numbers have been drawn.
    pub(crate) fn position(&self) -> u64 {
        self.0.as_ref().map_or(0, position)
    }

    /// Goes on from where another one was.
    pub(crate) fn set_position(&mut self, position: u64) {
        if let Some(rng) = &mut self.0 {
            rng.set_word_pos(position.into());
        }
    }

    /// No dropout at all.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// The next use of dropout, with probability `p`; none if nothing is dropped.
    pub(crate) fn next(&mut self, p: f32) -> Option<Dropout> {
        let rng = self.0.as_mut()?;
        (p > 0.0).then(|| Dropout { p, key: rng.next_u64() })
    }
}
