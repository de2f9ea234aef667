//! Matrix products by candle's own `gemm`, called directly so that an operand may be a part of a larger matrix and
//! the product may be added to its destination. The one place of this crate's operations with `unsafe`.

use gemm::Parallelism;

/// A matrix inside of a slice: `rows × columns` elements, the one at (r, c) at `r * row_stride + c * column_stride`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
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
    pub(super) fn new(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert_fits(data.len(), rows, columns, row_stride);
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// The transposed matrix; nothing is moved.
    pub(super) fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// How many threads a product may use.
#[derive(Clone, Copy)]
pub(super) enum Threads {
    /// The caller's only: for small products inside of a parallel loop.
    One,
    /// All of rayon's.
    All,
}

/// `out = scale · a b`, or `out += scale · a b` with `add`. `out` is row-major, its rows `row_stride` apart.
///
/// # Panics
/// If the shapes do not fit.
pub(super) fn matmul(
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
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(rayon::current_num_threads()),
    };
    // SAFETY: `Matrix::new` and `assert_fits` have checked that every element (r, c) of the three matrices lies inside
    // of its slice, transposition keeps that set of elements, the inner dimensions agree, and `out` is borrowed mutably,
    // so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out.as_mut_ptr(),
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
            parallelism,
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
}
