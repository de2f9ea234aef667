//! Sums of products by avx512_bf16: a pair of each of 16 columns an instruction.

#![allow(
    unsafe_code,
    reason = "whether the processor has the instructions is looked up, which the compiler cannot know"
)]

use std::{
    arch::x86_64::{__m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_set1_epi32, _mm512_setzero_ps},
    mem::transmute,
    ops::Range,
};

use super::{Kernel, Right, Sums, pack};
use crate::ops::matmul::Matrix;

/// Of 32 registers 24 are sums, and two a right panel's words.
const ROWS: usize = 12;

/// That the processor has the instructions.
pub(super) struct Avx512(());

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
}

impl Kernel for Avx512 {
    const ROWS: usize = ROWS;
    const WORDS: usize = 1;
    const BLOCK_WORDS: usize = usize::MAX;
    /// A word of each row.
    type Left = [u32; ROWS];
    const ZERO: Self::Left = [0; ROWS];

    fn begin() -> Self {
        assert!(is_available());
        Self(())
    }

    fn lefts(words: usize) -> usize {
        words
    }

    fn pack_left(matrix: Matrix<'_>, rows: Range<usize>, words: usize, panels: &mut [Self::Left]) {
        panels.as_flattened_mut().fill(0);
        pack(matrix, rows, words, panels);
    }

    fn multiply(&self, left: &[Self::Left], right: &[Right], sums: &mut [Sums]) {
        // SAFETY: `begin` has asserted that the processor has the instructions.
        unsafe { multiply(left, right, sums) };
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn multiply(left: &[[u32; ROWS]], right: &[Right], all: &mut [Sums]) {
    let all: &mut [Sums; ROWS] = all.try_into().expect("a row of sums for each of the panel's");
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    for (left, right) in left.iter().zip(right) {
        // SAFETY: arrays of as many bits, of which all values are right.
        let right = unsafe { transmute::<Right, [__m512bh; 2]>(*right) };
        for row in 0..ROWS {
            // SAFETY: as above.
            let pair = unsafe { transmute::<__m512i, __m512bh>(_mm512_set1_epi32(left[row].cast_signed())) };
            sums[row][0] = _mm512_dpbf16_ps(sums[row][0], pair, right[0]);
            sums[row][1] = _mm512_dpbf16_ps(sums[row][1], pair, right[1]);
        }
    }
    // SAFETY: as above.
    *all = unsafe { transmute::<[[__m512; 2]; ROWS], [Sums; ROWS]>(sums) };
}
