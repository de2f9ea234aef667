//! Matrix products of bfloat16, summed in f32, by the processor's own instructions for them: those of [`amx`], or of AVX-512.
//!
//! Both factors are rounded and packed first. The instructions multiply pairs along the inner dimension: a word has two numbers that
//! follow each other there. A panel has the words of some rows of the left factor, or columns of the right one. Every element of the
//! product is summed in one order, however it is shared among threads.

#![allow(
    unsafe_code,
    reason = "memory that is not initialized yet, and numbers that are told to lie at lines of memory"
)]

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;

use std::{mem::MaybeUninit, ops::Range};

use super::{
    matmul::Matrix,
    parts::{by_parts_of, by_uninitialized_parts},
};
use nimbert::math::vectorized;

/// Columns of a right panel.
const COLUMNS: usize = 32;
/// What is packed together: words of so many rows, which then lie side by side, or so many words of a panel, which are whole lines of memory.
/// Rows and columns of panels are a multiple of it.
const TOGETHER: usize = 4;
/// Bytes of left panels that are multiplied by a right one before the next: a part of a core's second cache.
const BLOCK_BYTES: usize = 1 << 19;
/// Right panels that one task packs.
const TASK_PANELS: usize = 4;

/// Numbers that begin where a line of memory does.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Aligned<T>(T);

impl<const LANES: usize> Aligned<[u32; LANES]> {
    /// The same, wherever they begin.
    fn arrays(all: &mut [Self]) -> &mut [[u32; LANES]] {
        const { assert!(size_of::<Self>() == size_of::<[u32; LANES]>()) };
        // SAFETY: each is of nothing but its numbers.
        unsafe { &mut *(std::ptr::from_mut(all) as *mut [[u32; LANES]]) }
    }
}

/// A word of each column of a right panel.
type Right = Aligned<[u32; COLUMNS]>;
/// The sums of a row and the columns of a right panel.
type Sums = Aligned<[f32; COLUMNS]>;

/// How panels are multiplied. A value of it is what a thread needs for that.
trait Kernel: Sized {
    /// Rows of a left panel.
    const ROWS: usize;
    /// The words of panels are a multiple of this: behind those of the matrix there are zeros.
    const WORDS: usize;
    /// Of more words, so many are multiplied before the others are.
    const BLOCK_WORDS: usize;
    /// What left panels consist of.
    type Left: Copy;
    /// Words that are 0.
    const ZERO: Self::Left;

    /// Gets this thread ready.
    ///
    /// # Panics
    /// If the processor does not have the instructions.
    fn begin() -> Self;

    /// How many of [`Left`](Self::Left) are a panel of so many words.
    fn lefts(words: usize) -> usize;

    /// Packs some rows of a left factor into panels of so many words, whatever was in them.
    fn pack_left(matrix: Matrix<'_>, rows: Range<usize>, words: usize, panels: &mut [Self::Left]);

    /// The same of some columns of a right factor, into panels that are zeros.
    fn pack_right(matrix: Matrix<'_>, columns: Range<usize>, words: usize, panels: &mut [Right]) {
        pack(matrix.t(), columns, words, Aligned::arrays(panels));
    }

    /// The sums of the products of a left and a right panel, of which each row of the left one has its own.
    fn multiply(&self, left: &[Self::Left], right: &[Right], sums: &mut [Sums]);
}

/// Whether the processor has such products.
pub fn has_bf16_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    return avx512::is_available();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// `a b`, row-major, plus `bias` in each row where there is one, on all of rayon's threads; a and b rounded to bfloat16.
///
/// # Panics
/// If the shapes do not fit, or the processor has no such products.
pub(super) fn product(a: Matrix<'_>, b: Matrix<'_>, bias: Option<&[f32]>) -> Vec<f32> {
    #[cfg(target_arch = "x86_64")]
    return match amx::is_available() {
        true => product_by::<amx::Amx>(a, b, bias),
        false => product_by::<avx512::Avx512>(a, b, bias),
    };
    #[cfg(not(target_arch = "x86_64"))]
    panic!("no products of bfloat16 here: {:?} by {:?}, {bias:?}", a.shape(), b.shape());
}

fn product_by<K: Kernel>(a: Matrix<'_>, b: Matrix<'_>, bias: Option<&[f32]>) -> Vec<f32> {
    let ((rows, inner), (other, columns)) = (a.shape(), b.shape());
    assert!(inner == other && bias.is_none_or(|bias| bias.len() == columns));
    // Without an inner dimension, words of zeros.
    let words = inner.div_ceil(2).max(1).next_multiple_of(K::WORDS);
    let zeros: Right = Aligned([0; COLUMNS]);
    let right = by_parts_of(zeros, columns.div_ceil(COLUMNS) * words, TASK_PANELS * words, |start, panels| {
        let first = start / words * COLUMNS;
        K::pack_right(b, first..(first + TASK_PANELS * COLUMNS).min(columns), words, panels);
    });
    let block_words = words.min(K::BLOCK_WORDS);
    let most = (BLOCK_BYTES / (4 * block_words * K::ROWS)).max(1);
    // All threads get as many blocks, of as many rows each.
    let panels = rows.div_ceil(rayon::current_num_threads()).div_ceil(K::ROWS);
    let block = panels.div_ceil(panels.div_ceil(most).max(1)) * K::ROWS;
    let write = |start: usize, out: &mut [MaybeUninit<f32>]| {
        let kernel = K::begin();
        let (first, count) = (start / columns, out.len() / columns);
        let mut sums = vec![Aligned([0.0; COLUMNS]); K::ROWS];
        let left_panels = count.div_ceil(K::ROWS);
        let mut left = vec![K::ZERO; left_panels * K::lefts(block_words)];
        for start in (0..words).step_by(block_words) {
            let words_here = start..(start + block_words).min(words);
            let lefts = K::lefts(words_here.len());
            let left = &mut left[..left_panels * lefts];
            let part = a.columns((2 * words_here.start).min(inner)..(2 * words_here.end).min(inner));
            K::pack_left(part, first..first + count, words_here.len(), left);
            for (panel, right) in right.chunks(words).enumerate() {
                let column = panel * COLUMNS;
                let width = COLUMNS.min(columns - column);
                let mut begun = [0.0; COLUMNS];
                if let Some(bias) = bias {
                    begun[..width].copy_from_slice(&bias[column..][..width]);
                }
                vectorized(
                    #[inline(always)]
                    || {
                        for (left, out) in left.chunks(lefts).zip(out.chunks_mut(K::ROWS * columns)) {
                            kernel.multiply(left, &right[words_here.clone()], &mut sums);
                            for (out, sums) in out.chunks_mut(columns).zip(&sums) {
                                let out = &mut out[column..][..width];
                                match start {
                                    0 => put(out, &sums.0, |_, column| begun[column]),
                                    // SAFETY: the words before these have written it.
                                    _ => put(out, &sums.0, |out, _| unsafe { out.assume_init() }),
                                }
                            }
                        }
                    },
                );
            }
        }
    };
    // SAFETY: panels of the right factor are all columns, those of the left one all rows of the part, and there are sums for each of both.
    unsafe { by_uninitialized_parts(rows * columns, block * columns, write) }
}

/// Writes sums, each plus what `before` is of its place and column; a whole row as an array, whose size the compiler knows.
#[inline(always)]
fn put(out: &mut [MaybeUninit<f32>], sums: &[f32; COLUMNS], before: impl Fn(&MaybeUninit<f32>, usize) -> f32) {
    match out.first_chunk_mut::<COLUMNS>() {
        Some(out) => {
            for column in 0..COLUMNS {
                out[column].write(before(&out[column], column) + sums[column]);
            }
        }
        None => {
            for (column, (out, sum)) in out.iter_mut().zip(sums).enumerate() {
                out.write(before(out, column) + sum);
            }
        }
    }
}

/// The words of some rows of a matrix, in panels of `LANES` rows and so many words, which are zeros before: `[panels, words]`.
fn pack<const LANES: usize>(matrix: Matrix<'_>, rows: Range<usize>, words: usize, panels: &mut [[u32; LANES]]) {
    let (_, columns) = matrix.shape();
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
                for (panel, words) in panels.chunks_exact_mut(words).enumerate() {
                    for lane in (0..LANES).step_by(TOGETHER) {
                        let [a, b, c, d] = [0, 1, 2, 3].map(|index| row(panel * LANES + lane + index));
                        // In two steps: of one the compiler makes a store a word.
                        for ((((tile, a), b), c), d) in tile.iter_mut().zip(a.0).zip(b.0).zip(c.0).zip(d.0) {
                            *tile = [word(a[0], a[1]), word(b[0], b[1]), word(c[0], c[1]), word(d[0], d[1])];
                        }
                        if let ([a], [b], [c], [d], Some(tile)) = (a.1, b.1, c.1, d.1, tile.get_mut(columns / 2)) {
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
    rounded(first) | rounded(second) << 16
}

/// One of them, in the low half.
#[inline(always)]
fn rounded(number: f32) -> u32 {
    let bits = number.to_bits();
    bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_rounded_factors() {
        #[cfg(target_arch = "x86_64")]
        {
            if avx512::is_available() {
                compare(product_by::<avx512::Avx512>);
            }
            if amx::is_available() {
                compare(product_by::<amx::Amx>);
            }
        }
    }

    fn compare(product: fn(Matrix<'_>, Matrix<'_>, Option<&[f32]>) -> Vec<f32>) {
        for (rows, inner, columns) in
            [(1, 1, 1), (13, 7, 33), (40, 64, 70), (100, 130, 40), (70, 900, 33), (3, 0, 5), (0, 2, 3), (2, 3, 0)]
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
