//! Matrix products of bfloat16, summed in f32, by AVX-512's own instruction for that (avx512_bf16): twice as many a cycle as of
//! f32.
//!
//! Both factors are rounded and packed first. The instruction multiplies pairs along the inner dimension: a word has two numbers that
//! follow each other there. A panel has the words of some rows of the left factor, or columns of the right one, side by side, for
//! all of the inner dimension: so that every element of the product is summed in one order, however it is shared among threads.

#![allow(unsafe_code, reason = "the instruction needs to be called by its name")]

use std::{mem::MaybeUninit, ops::Range};

use nimbert::math::vectorized;
use rayon::prelude::*;

use super::{matmul::Matrix, parts::by_uninitialized_parts};

/// Rows and columns of the product that are summed in registers: 24 of the 32 there are, and two for a right panel's words.
const ROWS: usize = 12;
const COLUMNS: usize = 32;
/// What is packed together: words of so many rows, which then lie side by side, or so many words of a panel, which are whole lines of memory.
/// Rows and columns of panels are a multiple of it.
const TOGETHER: usize = 4;
/// Bytes of left panels that are multiplied by a right one before the next: a part of a core's second cache.
const BLOCK_BYTES: usize = 1 << 19;
/// Right panels that one task packs.
const TASK_PANELS: usize = 4;

/// Whether the processor has the instruction.
pub fn has_bf16_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// `a b`, row-major, plus `bias` in each row where there is one, on all of rayon's threads; a and b rounded to bfloat16.
///
/// # Panics
/// If the shapes do not fit, or the processor has no such products.
pub(super) fn product(a: Matrix<'_>, b: Matrix<'_>, bias: Option<&[f32]>) -> Vec<f32> {
    assert!(has_bf16_products());
    let ((rows, inner), (other, columns)) = (a.shape(), b.shape());
    assert!(inner == other && bias.is_none_or(|bias| bias.len() == columns));
    // Without an inner dimension, a word of zeros.
    let words = inner.div_ceil(2).max(1);
    let mut right = vec![[0u32; COLUMNS]; columns.div_ceil(COLUMNS) * words];
    right.par_chunks_mut(TASK_PANELS * words).enumerate().for_each(|(task, panels)| {
        let first = task * TASK_PANELS * COLUMNS;
        pack(b.t(), first..(first + TASK_PANELS * COLUMNS).min(columns), panels);
    });
    let most = (BLOCK_BYTES / (4 * words * ROWS)).max(1);
    let panels = rows.div_ceil(rayon::current_num_threads()).div_ceil(ROWS);
    let block = most.min(panels) * ROWS;
    let write = |start: usize, out: &mut [MaybeUninit<f32>]| {
        let (first, count) = (start / columns, out.len() / columns);
        let mut left = vec![[0u32; ROWS]; count.div_ceil(ROWS) * words];
        pack(a, first..first + count, &mut left);
        for (panel, right) in right.chunks(words).enumerate() {
            let column = panel * COLUMNS;
            let width = COLUMNS.min(columns - column);
            for (panel, left) in left.chunks(words).enumerate() {
                let sums = sums(left, right);
                for (row, sums) in sums.iter().enumerate().take(count - panel * ROWS) {
                    let out = &mut out[(panel * ROWS + row) * columns + column..][..width];
                    match bias {
                        Some(bias) => {
                            let bias = &bias[column..];
                            for ((out, sum), bias) in out.iter_mut().zip(sums).zip(bias) {
                                out.write(sum + bias);
                            }
                        }
                        None => out.iter_mut().zip(sums).for_each(|(out, sum)| _ = out.write(*sum)),
                    }
                }
            }
        }
    };
    // SAFETY: panels of the right factor are all columns, those of the left one all rows of the part, and there are sums for each of both.
    unsafe { by_uninitialized_parts(rows * columns, block * columns, write) }
}

/// The words of some rows of a matrix, in panels of `LANES`, with zeros where there are less: `[panels, words]`.
fn pack<const LANES: usize>(matrix: Matrix<'_>, rows: Range<usize>, panels: &mut [[u32; LANES]]) {
    let (_, columns) = matrix.shape();
    let words = columns.div_ceil(2);
    let zeros = vec![0.0; columns.max(rows.len())];
    vectorized(
        #[inline(always)]
        || match matrix.row(0) {
            // Numbers of a row are neighbours.
            Some(_) => {
                let row = |index: usize| {
                    let row = (index < rows.len()).then(|| matrix.row(rows.start + index));
                    row.flatten().unwrap_or(&zeros[..columns]).as_chunks::<2>()
                };
                let mut tile = vec![[0; TOGETHER]; words];
                for (panel, words) in panels.chunks_exact_mut(words.max(1)).enumerate() {
                    for lane in (0..LANES).step_by(TOGETHER) {
                        let [a, b, c, d] = [0, 1, 2, 3].map(|index| row(panel * LANES + lane + index));
                        // In two steps: of one the compiler makes a store a word.
                        for ((((tile, a), b), c), d) in tile.iter_mut().zip(a.0).zip(b.0).zip(c.0).zip(d.0) {
                            *tile = [word(a[0], a[1]), word(b[0], b[1]), word(c[0], c[1]), word(d[0], d[1])];
                        }
                        if let ([a], [b], [c], [d], Some(tile)) = (a.1, b.1, c.1, d.1, tile.last_mut()) {
                            *tile = [a, b, c, d].map(|last| word(*last, 0.0));
                        }
                        for (words, tile) in words.iter_mut().zip(&tile) {
                            words[lane..][..TOGETHER].copy_from_slice(tile);
                        }
                    }
                }
            }
            // Those of a column are: of two columns, what lies side by side becomes words side by side.
            None => {
                let column = |index: usize| match matrix.t() {
                    by_column if index < columns => by_column.row(index).map_or(&zeros[..], |all| &all[rows.clone()]),
                    _ => &zeros[..rows.len()],
                };
                // Some words of a panel, and then of the next.
                for first in (0..words).step_by(TOGETHER) {
                    let columns: [&[f32]; 2 * TOGETHER] = std::array::from_fn(|index| column(2 * first + index));
                    for (panel, panels) in panels.chunks_exact_mut(words).enumerate() {
                        for (words, pair) in panels[first..].iter_mut().zip(columns.as_chunks::<2>().0) {
                            let [even, odd] = pair.map(|column| &column[panel * LANES..]);
                            match (even.first_chunk::<LANES>(), odd.first_chunk::<LANES>()) {
                                (Some(even), Some(odd)) => {
                                    for lane in 0..LANES {
                                        words[lane] = word(even[lane], odd[lane]);
                                    }
                                }
                                _ => {
                                    for (words, (even, odd)) in words.iter_mut().zip(even.iter().zip(odd)) {
                                        *words = word(*even, *odd);
                                    }
                                }
                            }
                        }
                    }
                }
            }
        },
    );
}

/// Two numbers as bfloat16, rounded to the nearest, to the even one of two: the first in the low half. What is no number stays
/// none, as processors make it; only with all its bits set it would not.
#[inline(always)]
fn word(first: f32, second: f32) -> u32 {
    let round = |number: f32| {
        let bits = number.to_bits();
        bits.wrapping_add(0x7fff + (bits >> 16 & 1))
    };
    round(first) >> 16 | round(second) & 0xffff_0000
}

/// The sums of all products of a left and a right panel.
#[cfg(target_arch = "x86_64")]
fn sums(left: &[[u32; ROWS]], right: &[[u32; COLUMNS]]) -> [[f32; COLUMNS]; ROWS] {
    // SAFETY: `product` has asserted that the processor has the instructions.
    unsafe { avx512_sums(left, right) }
}

#[cfg(not(target_arch = "x86_64"))]
fn sums(_: &[[u32; ROWS]], _: &[[u32; COLUMNS]]) -> [[f32; COLUMNS]; ROWS] {
    unreachable!("asserted before")
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn avx512_sums(left: &[[u32; ROWS]], right: &[[u32; COLUMNS]]) -> [[f32; COLUMNS]; ROWS] {
    use std::arch::x86_64::{__m512bh, __m512i, _mm512_dpbf16_ps, _mm512_set1_epi32, _mm512_setzero_ps};
    // SAFETY: arrays of as many bits, of which all values are right.
    let numbers = |words: &[u32; COLUMNS]| unsafe { std::mem::transmute::<[u32; COLUMNS], [__m512bh; 2]>(*words) };
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    for (left, right) in left.iter().zip(right) {
        let right = numbers(right);
        for row in 0..ROWS {
            // SAFETY: as above.
            let pair = unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(left[row].cast_signed())) };
            sums[row][0] = _mm512_dpbf16_ps(sums[row][0], pair, right[0]);
            sums[row][1] = _mm512_dpbf16_ps(sums[row][1], pair, right[1]);
        }
    }
    // SAFETY: as above.
    unsafe { std::mem::transmute(sums) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_rounded_factors() {
        if !has_bf16_products() {
            return;
        }
        for (rows, inner, columns) in
            [(1, 1, 1), (13, 7, 33), (40, 64, 70), (100, 130, 40), (3, 0, 5), (0, 2, 3), (2, 3, 0)]
        {
            let values = |count: usize, seed: usize| -> Vec<f32> {
                (0..count).map(|i| ((i * 7919 + seed) % 1009) as f32 / 200.0 - 2.5).collect()
            };
            let (a, b) = (values(rows * inner, 1), values(inner * columns, 5));
            let rounded = |x: f32| f64::from(f32::from_bits(word(0.0, x)));
            let expected = |row: usize, column: usize| -> f64 {
                (0..inner).map(|i| rounded(a[row * inner + i]) * rounded(b[i * columns + column])).sum()
            };
            // As they lie there, and transposed.
            let transposed = |data: &[f32], rows: usize, columns: usize| -> Vec<f32> {
                (0..rows * columns).map(|i| data[i % rows * columns + i / rows]).collect()
            };
            let (at, bt) = (transposed(&a, rows, inner), transposed(&b, inner, columns));
            let lefts = [Matrix::new(&a, rows, inner, inner), Matrix::new(&at, inner, rows, rows).t()];
            let rights = [Matrix::new(&b, inner, columns, columns), Matrix::new(&bt, columns, inner, inner).t()];
            for (left, right) in lefts.into_iter().flat_map(|left| rights.map(|right| (left, right))) {
                let bias: Vec<f32> = (0..columns).map(|column| column as f32 / 8.0).collect();
                for bias in [None, Some(&bias)] {
                    let out = product(left, right, bias.map(Vec::as_slice));
                    assert_eq!(out.len(), rows * columns);
                    for (index, sum) in out.into_iter().enumerate() {
                        let (row, column) = (index / columns, index % columns);
                        let expected = expected(row, column) + bias.map_or(0.0, |bias| f64::from(bias[column]));
                        assert!((f64::from(sum) - expected).abs() < 1e-3, "{row}, {column}: {sum}, not {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn rounded_to_the_nearest_and_to_even() {
        for (number, expected) in [(1.0, 0x3f80), (1.003, 0x3f80), (1.004, 0x3f81), (-2.0, 0xc000)] {
            assert_eq!(word(number, 0.0), expected, "{number}");
        }
        // 1 + 2^-8 and 1 + 3 × 2^-8 lie in the middle.
        assert_eq!(word(f32::from_bits(0x3f80_8000), f32::from_bits(0x3f81_8000)), 0x3f82_3f80);
    }
}
