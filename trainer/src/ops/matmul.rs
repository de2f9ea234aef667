//! Matrix products by candle's own `gemm`, called directly so that an operand may be a part of a larger matrix and
//! the product may be added to its destination.

#![allow(unsafe_code, reason = "gemm takes pointers")]

use std::{mem::MaybeUninit, ops::Range};

use gemm::Parallelism;
use rayon::prelude::*;

use super::parts::by_uninitialized_parts;

/// A matrix inside of a slice: `rows × columns` elements, the one at (r, c) at `r * row_stride + c * column_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix whose rows lie `row_stride` elements apart.
    ///
    /// # Panics
    /// If the slice is too short for it.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert_fits(data.len(), rows, columns, row_stride);
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// How many rows and columns it has.
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// A row, if its numbers are neighbours.
    pub(crate) fn row(&self, index: usize) -> Option<&'a [f32]> {
        (self.column_stride == 1).then(|| &self.data[index * self.row_stride..][..self.columns])
    }

    /// How many rows each of rayon's threads computes where all share a product of which this is the left factor.
    fn rows_of_a_thread(&self) -> usize {
        self.rows.div_ceil(rayon::current_num_threads()).next_multiple_of(KERNEL_ROWS)
    }

    /// `rows` rows from `start` on.
    fn part(self, start: usize, rows: usize) -> Self {
        // Rows of no number lie nowhere.
        let start = (start * self.row_stride).min(self.data.len());
        Self { data: &self.data[start..], rows, ..self }
    }

    /// Some of its columns.
    pub(crate) fn columns(self, columns: Range<usize>) -> Self {
        self.t().part(columns.start, columns.len()).t()
    }

    /// The transposed matrix; nothing is moved.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// Blocks of rows are a multiple of this, which is one of the rows that gemm's inner kernels compute at once.
const KERNEL_ROWS: usize = 48;

/// How many threads a product may use.
#[derive(Clone, Copy)]
pub(crate) enum Threads {
    /// The caller's only: for small products inside of a parallel loop.
    One,
    /// All of rayon's: each computes a block of rows of its own. gemm's own way to share a product among threads makes
    /// them wait for one another several times in each; on two cores that cost a third of the training speed.
    All,
}

/// `a b`, row-major, plus `bias` in each row where there is one, on all of rayon's threads.
///
/// # Panics
/// If the shapes do not fit.
pub(super) fn product(a: Matrix<'_>, b: Matrix<'_>, bias: Option<&[f32]>) -> Vec<f32> {
    let (block, columns) = (a.rows_of_a_thread(), b.columns);
    assert!(bias.is_none_or(|bias| bias.len() == columns));
    assert_eq!(a.columns, b.rows);
    let write = |start: usize, out: &mut [MaybeUninit<f32>]| {
        let rows = out.len() / columns;
        match bias {
            Some(bias) => {
                for row in out.chunks_exact_mut(columns) {
                    row.iter_mut().zip(bias).for_each(|(out, bias)| _ = out.write(*bias));
                }
            }
            // Of a vector gemm makes a slice, whose numbers must be initialized though it only writes them.
            None if rows == 1 || columns == 1 => out.fill(MaybeUninit::new(0.0)),
            None => {}
        }
        let part = a.part(start / columns, rows);
        // SAFETY: `out` has as many rows as the part, of as many numbers as b has columns, and is borrowed mutably, so it overlaps neither
        // factor; what is read or becomes a slice has been written.
        unsafe { multiply(part, b, 1.0, out.as_mut_ptr().cast(), columns, bias.is_some()) };
    };
    // SAFETY: gemm writes every number of a product.
    unsafe { by_uninitialized_parts(a.rows * columns, block * columns, write) }
}

/// `out = scale · a b`, or `out += scale · a b` with `add`. `out` is row-major, its rows `row_stride` apart.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn matmul(
    a: Matrix<'_>,
    b: Matrix<'_>,
    scale: f32,
    out: &mut [f32],
    row_stride: usize,
    add: bool,
    threads: Threads,
) {
    assert_eq!(a.columns, b.rows);
    assert_fits(out.len(), a.rows, b.columns, row_stride);
    if let Threads::All = threads {
        let block = a.rows_of_a_thread();
        out.par_chunks_mut(block * row_stride).enumerate().for_each(|(index, out)| {
            let start = index * block;
            if start < a.rows {
                let part = a.part(start, block.min(a.rows - start));
                matmul(part, b, scale, out, row_stride, add, Threads::One);
            }
        });
        return;
    }
    // SAFETY: `assert_fits` has checked that every element lies inside of `out`, the inner dimensions agree, and `out` is borrowed mutably, so
    // it overlaps neither factor.
    unsafe { multiply(a, b, scale, out.as_mut_ptr(), row_stride, add) };
}

/// [`matmul()`] by this thread.
///
/// # Safety
/// `a` must have as many columns as `b` has rows, and rows of `out` at least as many numbers as `b` has columns. All places of the product
/// from `out` on must be valid for writes and overlap neither factor, and be initialized where the product is added, or has one row or column.
unsafe fn multiply(a: Matrix<'_>, b: Matrix<'_>, scale: f32, out: *mut f32, row_stride: usize, add: bool) {
    // SAFETY: `Matrix::new` has checked that every element (r, c) of the factors lies inside of its slice, transposing a matrix or taking
    // some of its rows adds none to that set, and the rest is the caller's word. Without `add`, what is there is not read.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out,
            1,
            row_stride as isize,
            add,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

fn assert_fits(len: usize, rows: usize, columns: usize, row_stride: usize) {
    assert!(columns <= row_stride, "{columns} columns, but rows are {row_stride} elements apart");
    if rows > 0 {
        assert!((rows - 1) * row_stride + columns <= len, "{rows} × {columns} (stride {row_stride}) in {len} elements");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiplies_parts_transposed_and_adds() {
        // a = [[1, 2], [3, 4]] inside of rows of 3; b = its transpose.
        let a = Matrix::new(&[1.0, 2.0, 9.0, 3.0, 4.0], 2, 2, 3);
        let mut out = [1.0; 4];
        matmul(a, a.t(), 2.0, &mut out, 2, true, Threads::One);
        assert_eq!(out, [11.0, 23.0, 23.0, 51.0]);
    }

    #[test]
    fn products_of_any_shape() {
        for (rows, inner, columns) in [(1, 5, 7), (7, 5, 1), (100, 3, 5), (150, 0, 5), (0, 2, 3), (2, 3, 0)] {
            let numbers = |len: usize| -> Vec<f32> { (0..len).map(|i| (i % 17) as f32 - 8.0).collect() };
            let (a, b, bias) = (numbers(rows * inner), numbers(inner * columns), numbers(columns));
            let lefts = [Matrix::new(&a, rows, inner, inner), Matrix::new(&a, inner, rows, rows).t()];
            let rights = [Matrix::new(&b, inner, columns, columns), Matrix::new(&b, columns, inner, inner).t()];
            for (left, right) in lefts.into_iter().flat_map(|left| rights.map(|right| (left, right))) {
                for bias in [None, Some(&bias[..])] {
                    let mut expected = vec![0.0; rows * columns];
                    for (place, sum) in expected.iter_mut().enumerate() {
                        let (row, column) = (place / columns, place % columns);
                        *sum = bias.map_or(0.0, |bias| bias[column]);
                        for index in 0..inner {
                            *sum += left.data[row * left.row_stride + index * left.column_stride]
                                * right.data[index * right.row_stride + column * right.column_stride];
                        }
                    }
                    // Whole numbers: no sum is rounded.
                    assert_eq!(product(left, right, bias), expected, "{rows} × {inner} × {columns}");
                }
            }
        }
    }

    #[test]
    fn blocks_of_rows_give_what_one_thread_does() {
        let values: Vec<f32> = (0..200 * 30).map(|i| (i % 17) as f32 - 8.0).collect();
        // Both ways round: rows of a row-major matrix, and rows of a transposed one.
        let tall = Matrix::new(&values, 200, 30, 30);
        for (a, b) in [(tall, tall.t()), (Matrix::new(&values, 30, 200, 200).t(), Matrix::new(&values, 30, 200, 200))] {
            let [mut one, mut all] = [vec![1.0; 200 * 200], vec![1.0; 200 * 200]];
            matmul(a, b, 1.0, &mut one, 200, true, Threads::One);
            matmul(a, b, 1.0, &mut all, 200, true, Threads::All);
            assert_eq!(one, all);
            assert_eq!(one, product(a, b, Some(&[1.0; 200])));
        }
    }
}
