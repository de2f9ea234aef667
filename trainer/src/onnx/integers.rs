//! Floats as integers of a few bits, with scales.

/// The largest weight of a matrix product by unsigned bytes: 255 · 64 + 255 · 64 still fits 16 bits. AVX2 and AVX-512
/// without VNNI add two products in 16 bits, and with 8-bit weights that sum saturates.
pub(super) const MAX_REDUCED: f32 = 64.0;
/// The largest signed byte, where nothing of the kind can happen.
pub(super) const MAX_BYTE: f32 = 127.0;

/// A row-major matrix as integers of at most `max`, and the scale of each column.
pub(super) fn channel_integers(
    values: &[f32],
    columns: usize,
    max: f32,
    scale: fn(&[f32], f32) -> f32,
) -> (Vec<i8>, Vec<f32>) {
    let scales = channel_scales(values, columns, max, scale);
    let integers = values.iter().enumerate().map(|(index, value)| round(value / scales[index % columns], max));
    (integers.collect(), scales)
}

/// The scales of the columns alone.
pub(super) fn channel_scales(values: &[f32], columns: usize, max: f32, scale: fn(&[f32], f32) -> f32) -> Vec<f32> {
    let column = |index: usize| values[index..].iter().step_by(columns).copied().collect::<Vec<_>>();
    (0..columns).map(|index| scale(&column(index), max)).collect()
}

/// A row-major matrix as integers of at most `max`, and the scale of each row.
pub(super) fn row_integers(
    values: &[f32],
    columns: usize,
    max: f32,
    scale: fn(&[f32], f32) -> f32,
) -> (Vec<i8>, Vec<f32>) {
    let scales: Vec<f32> = values.chunks_exact(columns).map(|row| scale(row, max)).collect();
    let integers = values.iter().enumerate().map(|(index, value)| round(value / scales[index / columns], max));
    (integers.collect(), scales)
}

/// The scale at which the largest of `values` becomes `max`; 1 where all are 0.
pub(super) fn scale(values: &[f32], max: f32) -> f32 {
    let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    if largest > 0.0 { largest / max } else { 1.0 }
}

/// The scale with the least squared error. With few bits it is smaller than [`scale`]: some of the largest values are cut,
/// and all others are more exact.
pub(super) fn best_scale(values: &[f32], max: f32) -> f32 {
    let whole = scale(values, max);
    let error = |scale: f32| -> f32 {
        values.iter().map(|value| (value - scale * f32::from(round(value / scale, max))).powi(2)).sum()
    };
    let candidates = (0..10).map(|step| whole * (1.0 - 0.05 * step as f32));
    candidates.min_by(|a, b| error(*a).total_cmp(&error(*b))).unwrap_or(whole)
}

/// The nearest integer, at most `max` from 0, which is at most 127.
pub(super) fn round(value: f32, max: f32) -> i8 {
    value.round_ties_even().clamp(-max, max) as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_and_rows_have_their_own_scales() {
        // Column 0 is small, column 1 large, column 2 zero.
        let values = [0.1, 10.0, 0.0, -0.2, -5.0, 0.0];
        let (integers, scales) = channel_integers(&values, 3, MAX_REDUCED, scale);
        assert_eq!(
            (integers.as_slice(), scales.as_slice()),
            (&[32, 64, 0, -64, -32, 0][..], &[0.2 / 64.0, 10.0 / 64.0, 1.0][..])
        );
        let (integers, scales) = row_integers(&values, 3, MAX_BYTE, scale);
        assert_eq!(
            (integers.as_slice(), scales.as_slice()),
            (&[1, 127, 0, -5, -127, 0][..], &[10.0 / 127.0, 5.0 / 127.0][..])
        );
    }

    #[test]
    fn few_bits_cut_an_outlier_for_the_sake_of_the_others() {
        let mut values = vec![0.3f32; 200];
        values.push(4.0);
        let error = |scale: f32| -> f32 {
            values.iter().map(|value| (value - scale * f32::from(round(value / scale, 7.0))).powi(2)).sum()
        };
        let (whole, best) = (scale(&values, 7.0), best_scale(&values, 7.0));
        assert!(best < whole && error(best) < error(whole), "{best} {whole}");
        assert_eq!(best_scale(&[0.0, 0.0], 7.0), 1.0);
    }
}
