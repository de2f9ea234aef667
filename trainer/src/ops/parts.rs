//! Vectors that all threads write, a part each.

#![allow(unsafe_code, reason = "memory that is not initialized yet")]

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::TASK_ELEMENTS;

/// A vector of `len` numbers, of which `write` is given parts of `size` that begin as zeros, each with its first place. Of `vec![0.0; len]`
/// one thread would write all, and by the time that the others write their parts these would have left the cache.
pub(super) fn by_parts(len: usize, size: usize, write: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    by_parts_of(0.0, len, size, write)
}

/// The same of what begins as `value`.
pub(super) fn by_parts_of<T: Copy + Send + Sync>(
    value: T,
    len: usize,
    size: usize,
    write: impl Fn(usize, &mut [T]) + Sync,
) -> Vec<T> {
    let begun = |start: usize, part: &mut [MaybeUninit<T>]| {
        part.fill(MaybeUninit::new(value));
        // SAFETY: all of them have just been written, and the memory lies as that of what is in it does.
        write(start, unsafe { &mut *(std::ptr::from_mut(part) as *mut [T]) });
    };
    // SAFETY: `begun` writes all of a part.
    unsafe { by_uninitialized_parts(len, size, begun) }
}

/// The same of parts that are not initialized, where zeros would be a pass over memory in vain.
///
/// # Safety
/// `write` must write all of the part that it is given, unless it panics.
pub(super) unsafe fn by_uninitialized_parts<T: Send>(
    len: usize,
    size: usize,
    write: impl Fn(usize, &mut [MaybeUninit<T>]) + Sync,
) -> Vec<T> {
    let mut values = Vec::with_capacity(len);
    let size = size.max(1);
    let parts = values.spare_capacity_mut()[..len].par_chunks_mut(size);
    parts.enumerate().for_each(|(index, part)| write(index * size, part));
    // SAFETY: the parts together are the first `len` numbers, and all of each is written. Had one panicked, nothing would get here.
    unsafe { values.set_len(len) };
    values
}

/// A copy of `values`, of which `change` is given parts of `size`, each with its first place.
pub(super) fn changed(values: &[f32], size: usize, change: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    by_parts(values.len(), size, |start, part| {
        part.copy_from_slice(&values[start..][..part.len()]);
        change(start, part);
    })
}

/// Zeros that all threads write.
pub(super) fn zeros(len: usize) -> Vec<f32> {
    by_parts(len, TASK_ELEMENTS, |_, _| {})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_begin_as_zeros_and_stand_in_their_order() {
        for (len, size) in [(0, 3), (7, 3), (9, 3), (2, 5), (100_000, 64)] {
            let values = by_parts(len, size, |start, part| {
                assert!(part.iter().all(|&number| number == 0.0));
                part.iter_mut().zip(start..).for_each(|(number, place)| *number = place as f32);
            });
            assert!(values.iter().copied().eq((0..len).map(|place| place as f32)), "{len} by {size}");
            let doubled = changed(&values, size, |start, part| {
                part.iter_mut().zip(start..).for_each(|(number, place)| *number += place as f32);
            });
            assert!(doubled.into_iter().eq(values.into_iter().map(|number| 2.0 * number)), "{len} by {size}");
        }
        assert_eq!(zeros(3), [0.0; 3]);
    }
}
