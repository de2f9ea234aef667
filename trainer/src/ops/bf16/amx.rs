//! Sums of products by AMX, the unit for matrices that Intel's processors have since 2023: an instruction multiplies two tiles, registers of
//! 16 rows of 64 bytes. It does some eight times as many products a cycle as the instructions for vectors, so that reading and packing
//! is what takes time; tiles whose rows are not whole lines of memory take four times as long to read.
//!
//! The instructions are described in Intel's Architectures Software Developer's Manual, volume 1, chapter 18. The compiler has no stable
//! names for them.

#![allow(unsafe_code, reason = "instructions that have no names but those of the assembler")]

use std::{
    arch::{
        asm,
        x86_64::{
            __cpuid, __cpuid_count, __m512, __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_permutexvar_epi16,
            _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64,
            _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
        },
    },
    array::from_fn,
    marker::PhantomData,
    mem::transmute,
    ops::Range,
    sync::LazyLock,
};

use super::{Aligned, COLUMNS, Kernel, Right, Sums};
use crate::ops::matmul::Matrix;

/// Rows of a tile, and words of a row.
const TILE: usize = 16;
/// A panel's rows and columns are two tiles each: four of sums, and two for either factor, are all eight.
const ROWS: usize = 2 * TILE;

/// A row of a tile.
type Row = Aligned<[u32; TILE]>;

/// A thread's tiles, and that there are some.
pub(super) struct Amx(PhantomData<*const ()>);

/// What says how large tiles are, for all eight of them (palette 1).
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Whether the processor has products of bfloat16 by AMX, and the system keeps its tiles.
pub(super) fn is_available() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| has_instructions() && is_permitted());
    *AVAILABLE
}

fn has_instructions() -> bool {
    // amx_bf16 and amx_tile.
    const BITS: u32 = 1 << 22 | 1 << 24;
    // What packing is compiled for, too.
    let has_vectors = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16");
    has_vectors && __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & BITS == BITS
}

/// Asks Linux, which keeps the tiles only of a process that has done so: arch_prctl(2), ARCH_REQ_XCOMP_PERM. What does not know them
/// refuses it.
fn is_permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST: u64 = 0x1023;
    const TILE_DATA: u64 = 18;
    if !cfg!(target_os = "linux") {
        return false;
    }
    let result: i64;
    // SAFETY: the call reads and writes no memory of this process, and of its registers rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") REQUEST,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

impl Kernel for Amx {
    const ROWS: usize = ROWS;
    const WORDS: usize = TILE;
    /// Two panels of so many, 24 KB each, are in a core's first cache.
    const BLOCK_WORDS: usize = 192;
    /// Of 16 words each row, and then of the next 16.
    type Left = Row;
    const ZERO: Self::Left = Aligned([0; TILE]);

    fn begin() -> Self {
        assert!(is_available());
        let tiles = |value| from_fn(|tile| if tile < 8 { value } else { 0 });
        let configuration = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: tiles(4 * TILE as u16),
            rows: tiles(TILE as u16).map(|rows| rows as u8),
        };
        // SAFETY: there are tiles, as was asserted; 64 bytes are read, which a configuration has.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly)) };
        Self(PhantomData)
    }

    fn lefts(words: usize) -> usize {
        words / TILE * ROWS
    }

    fn pack_left(matrix: Matrix<'_>, rows: Range<usize>, words: usize, panels: &mut [Self::Left]) {
        assert!(is_available());
        // SAFETY: there are tiles, with which come these instructions.
        unsafe { pack_left(matrix, rows, words, panels) };
    }

    fn pack_right(matrix: Matrix<'_>, columns: Range<usize>, words: usize, panels: &mut [Right]) {
        assert!(is_available());
        // SAFETY: as above.
        unsafe { pack_right(matrix.t(), columns, words, panels) };
    }

    #[inline]
    fn multiply(&self, left: &[Self::Left], right: &[Right], sums: &mut [Sums]) {
        let turns = right.len() / TILE;
        assert!(turns > 0 && right.len() == turns * TILE && left.len() == turns * ROWS && sums.len() == ROWS);
        // SAFETY: `begin` has made the tiles. Of `left` a turn reads 32 rows, of `right` 16, and there are as many for each turn; `sums`
        // has 32 rows, which are written.
        unsafe {
            asm!(
                // To load what was there would wait until it has been stored.
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{left} + {narrow}]",
                "tileloadd tmm6, [{right} + {wide}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{right} + {wide} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{left} + {narrow} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {left}, 2048",
                "add {right}, 2048",
                "dec {turns}",
                "jnz 2b",
                "tilestored [{sums} + {wide}], tmm0",
                "tilestored [{sums} + {wide} + 64], tmm1",
                "tilestored [{sums} + {wide} + 2048], tmm2",
                "tilestored [{sums} + {wide} + 2112], tmm3",
                left = inout(reg) left.as_ptr() => _,
                right = inout(reg) right.as_ptr() => _,
                sums = in(reg) sums.as_mut_ptr(),
                turns = inout(reg) turns => _,
                narrow = in(reg) size_of::<Row>(),
                wide = in(reg) size_of::<Right>(),
                out("tmm0") _,
                out("tmm1") _,
                out("tmm2") _,
                out("tmm3") _,
                out("tmm4") _,
                out("tmm5") _,
                out("tmm6") _,
                out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Drop for Amx {
    fn drop(&mut self) {
        // SAFETY: there are tiles, of which this thread needs none any more.
        unsafe { asm!("tilerelease", options(nomem, nostack)) };
    }
}

/// 16 words of each of 16 rows, or of each of 16 pairs of columns.
type Block = [__m512i; TILE];

/// [`Kernel::pack_left`]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pack_left(matrix: Matrix<'_>, rows: Range<usize>, words: usize, panels: &mut [Row]) {
    for (first, panel) in rows.step_by(ROWS).zip(panels.chunks_exact_mut(Amx::lefts(words))) {
        if matrix.row(0).is_some() {
            // Row by row, as they lie in memory.
            for place in 0..ROWS {
                let row = row_from(matrix, first + place, 0);
                for (turn, line) in panel[place..].iter_mut().step_by(ROWS).enumerate() {
                    *line = as_row(words_of_neighbours(from(row, 2 * TILE * turn)));
                }
            }
        } else {
            for (part, lines) in panel.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
                let (first, column) = (first + part % 2 * TILE, part / 2 * 2 * TILE);
                for (line, words) in lines.iter_mut().zip(transposed(by_pairs(matrix.t(), first, column))) {
                    *line = as_row(words);
                }
            }
        }
    }
}

/// [`Kernel::pack_right`] of the transposed matrix, whose rows are the columns.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pack_right(matrix: Matrix<'_>, columns: Range<usize>, words: usize, panels: &mut [Right]) {
    // Some words of a panel, and then of the next: what follows each other in memory.
    for word in (0..words).step_by(TILE) {
        for (first, panel) in columns.clone().step_by(COLUMNS).zip(panels.chunks_exact_mut(words)) {
            for (half, first) in [first, first + TILE].into_iter().enumerate() {
                let block = match matrix.row(0) {
                    Some(_) => transposed(by_rows(matrix, first, 2 * word)),
                    None => by_pairs(matrix.t(), first, 2 * word),
                };
                for (words, pairs) in panel[word..].iter_mut().zip(block) {
                    words.0.as_chunks_mut::<TILE>().0[half] = as_row(pairs).0;
                }
            }
        }
    }
}

/// The words of the row `first` and those behind it from `column` on, where numbers of a row are neighbours; zeros behind the last.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn by_rows(matrix: Matrix<'_>, first: usize, column: usize) -> Block {
    let mut block = [_mm512_setzero_si512(); TILE];
    for (place, words) in block.iter_mut().enumerate() {
        *words = words_of_neighbours(row_from(matrix, first + place, column));
    }
    block
}

/// The words of pairs of rows of `columns`, from the row `column` on, and of each those of the number `first` and what is behind it; zeros
/// behind the last.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn by_pairs(columns: Matrix<'_>, first: usize, column: usize) -> Block {
    let mut block = [_mm512_setzero_si512(); TILE];
    for (pair, words) in block.iter_mut().enumerate() {
        let column = column + 2 * pair;
        // Not by `map`, of which the compiler makes a function without the instructions of this one.
        let (even, odd) = (row_from(columns, column, first), row_from(columns, column + 1, first));
        *words = words_of_pair(numbers(even), numbers(odd));
    }
    block
}

/// What a row has from `column` on; nothing behind the last row.
#[inline(always)]
fn row_from(matrix: Matrix<'_>, row: usize, column: usize) -> &[f32] {
    let (rows, _) = matrix.shape();
    if row < rows { from(matrix.row(row).unwrap_or_default(), column) } else { &[] }
}

#[inline(always)]
fn from(numbers: &[f32], first: usize) -> &[f32] {
    numbers.get(first..).unwrap_or_default()
}

/// The first numbers; zeros where there are no more.
#[inline(always)]
fn numbers<const N: usize>(all: &[f32]) -> [f32; N] {
    match all.first_chunk() {
        Some(numbers) => *numbers,
        None => {
            let mut numbers = [0.0; N];
            numbers[..all.len()].copy_from_slice(all);
            numbers
        }
    }
}

/// The first 32 numbers, of which two that follow each other are a word; zeros where there are no more. The processor's rounding makes zeros
/// of what is below 2^-126, too.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn words_of_neighbours(all: &[f32]) -> __m512i {
    let numbers: [f32; 2 * TILE] = numbers(all);
    // SAFETY: as many bits, of which all values are right.
    let [low, high] = unsafe { transmute::<[f32; 2 * TILE], [__m512; 2]>(numbers) };
    // SAFETY: as above.
    unsafe { transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// Words of two numbers at the same place each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn words_of_pair(even: [f32; TILE], odd: [f32; TILE]) -> __m512i {
    const ORDER: [u16; 2 * TILE] = {
        let mut order = [0; 2 * TILE];
        let mut place = 0;
        while place < order.len() {
            order[place] = (place / 2 + place % 2 * TILE) as u16;
            place += 1;
        }
        order
    };
    // SAFETY: as many bits, of which all values are right.
    let (even, odd) = unsafe { (transmute::<[f32; TILE], __m512>(even), transmute::<[f32; TILE], __m512>(odd)) };
    // SAFETY: as above.
    let (order, halves) = unsafe {
        (transmute::<[u16; 2 * TILE], __m512i>(ORDER), transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(odd, even)))
    };
    _mm512_permutexvar_epi16(order, halves)
}

#[inline(always)]
fn as_row(words: __m512i) -> Row {
    // SAFETY: as many bits, of which all values are right.
    unsafe { transmute::<__m512i, Row>(words) }
}

/// Rows become columns: first where four rows and the columns of a lane of 128 bits meet, then by lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(rows: Block) -> Block {
    let mut columns = rows;
    for group in 0..TILE / 4 {
        let [a, b, c, d] = from_fn(|row| rows[4 * group + row]);
        let [ab, cd] = [_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d)];
        columns[4 * group] = _mm512_unpacklo_epi64(ab, cd);
        columns[4 * group + 1] = _mm512_unpackhi_epi64(ab, cd);
        let [ab, cd] = [_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d)];
        columns[4 * group + 2] = _mm512_unpacklo_epi64(ab, cd);
        columns[4 * group + 3] = _mm512_unpackhi_epi64(ab, cd);
    }
    // Of each group's rows, lane by lane, the columns 4 lane + index.
    let groups = columns;
    for index in 0..TILE / 4 {
        let [a, b, c, d] = from_fn(|group| groups[4 * group + index]);
        // Lanes 0 and 2, then lanes 1 and 3, of two groups each.
        let [ab, cd] = [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c, d)];
        columns[index] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
        columns[8 + index] = _mm512_shuffle_i32x4::<0xdd>(ab, cd);
        let [ab, cd] = [_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(c, d)];
        columns[4 + index] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
        columns[12 + index] = _mm512_shuffle_i32x4::<0xdd>(ab, cd);
    }
    columns
}
