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
            __cpuid, __cpuid_count, __m512i, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_unpackhi_epi32,
            _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
        },
    },
    array::from_fn,
    marker::PhantomData,
    mem::transmute,
    ops::Range,
    sync::LazyLock,
};

use super::{Aligned, Kernel, Right, Sums, rounded, word};
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
    let has_vectors = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
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

    fn pack(matrix: Matrix<'_>, rows: Range<usize>, words: usize, panels: &mut [Self::Left]) {
        let panels = panels.chunks_exact_mut(Self::lefts(words));
        for (first, panel) in rows.clone().step_by(ROWS).zip(panels) {
            let rows = first..(first + ROWS).min(rows.end);
            match matrix.row(0) {
                // SAFETY: there are tiles, hence AVX-512.
                Some(_) => unsafe { pack_rows(matrix, rows, panel) },
                // SAFETY: as above.
                None => unsafe { pack_columns(matrix.t(), rows, panel) },
            }
        }
    }

    #[inline]
    fn add(&self, left: &[Self::Left], right: &[Right], sums: &mut [Sums]) {
        let turns = right.len() / TILE;
        assert!(turns > 0 && right.len() == turns * TILE && left.len() == turns * ROWS && sums.len() == ROWS);
        // SAFETY: `begin` has made the tiles. Of `left` a turn reads 32 rows, of `right` 16, and there are as many for each turn; `sums`
        // has 32 rows, which are read and written.
        unsafe {
            asm!(
                "tileloadd tmm0, [{sums} + {wide}]",
                "tileloadd tmm1, [{sums} + {wide} + 64]",
                "tileloadd tmm2, [{sums} + {wide} + 2048]",
                "tileloadd tmm3, [{sums} + {wide} + 2112]",
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

/// Rows whose numbers are neighbours.
#[target_feature(enable = "avx512f,avx512bw")]
fn pack_rows(matrix: Matrix<'_>, rows: Range<usize>, panel: &mut [Row]) {
    for (place, row) in rows.enumerate() {
        let (whole, rest) = matrix.row(row).unwrap_or_default().as_chunks::<{ 2 * TILE }>();
        let mut lines = panel[place..].iter_mut().step_by(ROWS);
        for (numbers, line) in whole.iter().zip(&mut lines) {
            *line = line_of(numbers);
        }
        if let (false, Some(line)) = (rest.is_empty(), lines.next()) {
            let mut numbers = [0.0; 2 * TILE];
            numbers[..rest.len()].copy_from_slice(rest);
            *line = line_of(&numbers);
        }
    }
}

/// Numbers that follow each other as words that do.
#[inline(always)]
fn line_of(numbers: &[f32; 2 * TILE]) -> Row {
    let halves: [u16; 2 * TILE] = from_fn(|index| rounded(numbers[index]) as u16);
    // SAFETY: as many bits, and on this processor the first half of a word is the low one.
    Aligned(unsafe { transmute::<[u16; 2 * TILE], [u32; TILE]>(halves) })
}

/// Rows of which each number is in a row of `columns`.
#[target_feature(enable = "avx512f,avx512bw")]
fn pack_columns(columns: Matrix<'_>, rows: Range<usize>, panel: &mut [Row]) {
    let (count, _) = columns.shape();
    for (turn, lines) in panel.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
        let (column, first) = (turn / 2 * 2 * TILE, rows.start + turn % 2 * TILE);
        let mut words = [_mm512_setzero_si512(); TILE];
        for (words, column) in words.iter_mut().zip((column..count).step_by(2)) {
            let (mut even, mut odd) = ([0.0; TILE], [0.0; TILE]);
            for (numbers, column) in [&mut even, &mut odd].into_iter().zip(column..count) {
                // Rows behind the last one of the panel have sums that nobody reads.
                let all = columns.row(column).and_then(|column| column.get(first..)).unwrap_or_default();
                match all.first_chunk() {
                    Some(all) => *numbers = *all,
                    None => numbers.iter_mut().zip(all).for_each(|(number, all)| *number = *all),
                }
            }
            let mut pairs = [0; TILE];
            for lane in 0..TILE {
                pairs[lane] = word(even[lane], odd[lane]);
            }
            // SAFETY: as many bits, of which all values are right.
            *words = unsafe { transmute::<[u32; TILE], __m512i>(pairs) };
        }
        for (line, words) in lines.iter_mut().zip(transposed(words)) {
            // SAFETY: as above.
            *line = unsafe { transmute::<__m512i, Row>(words) };
        }
    }
}

/// Rows become columns: first where four rows and the columns of a lane of 128 bits meet, then by lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(rows: [__m512i; TILE]) -> [__m512i; TILE] {
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
