//! Fused differentiable operations: candle custom operations with a backward pass, parallel over rows.
//!
//! candle's own layer normalization and softmax have no backward pass, and its composed forms go over memory once for
//! every elementary operation, on one thread. Each operation here reads its inputs once and writes its output once;
//! what the backward pass needs beyond inputs and output is computed again rather than kept.
//!
//! All of them work without padding: the rows of `[tokens, hidden]` are the tokens of all texts of a batch, one text
//! after the other. The fused forms are for `f32` on the CPU; elsewhere the composed ones run.

mod activation;
mod attention;
mod bf16;
mod composed;
mod dropout;
mod layer_norm;
mod linear;
mod math;
pub(crate) mod matmul;
mod parts;
mod relative;
mod rotary;
mod tape;

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, bail};
use nimbert::math::{dot, vectorized};
use rayon::prelude::*;

pub use activation::{Activation, activation, gated_activation};
pub(crate) use activation::{GELU_CUBIC, ROOT_TWO_OVER_PI};
pub use attention::{Attention, attention};
pub use bf16::has_bf16_products;
pub use dropout::{Dropout, dropout, dropout_add};
pub use layer_norm::layer_norm;
pub use linear::{linear, linear_of_activated, linear_of_rows};
pub use relative::{Distances, Relative};
pub use rotary::{Angles, Rotary, rotary};
pub use tape::{GradientSink, Tape, TapeGradients};

/// Elements that one task of a parallel loop handles: some microseconds of work, and a multiple of every vector width.
const TASK_ELEMENTS: usize = 1 << 14;

/// Whether the fused forms know the tensor's device and number format.
fn is_fused(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// The elements of a contiguous `f32` CPU storage.
fn elements<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("expected a contiguous tensor") };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Calls `f` with the elements of each tensor; they must be contiguous `f32` on the CPU.
pub(crate) fn with_elements<const N: usize, T>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[f32]; N]) -> Result<T>,
) -> Result<T> {
    with_storages(tensors, |storages| {
        let mut slices = [&[] as &[f32]; N];
        for (slice, (storage, layout)) in slices.iter_mut().zip(storages) {
            *slice = elements(storage, layout)?;
        }
        f(slices)
    })
}

/// Calls `f` with what lies under each tensor, which must be on the CPU.
fn with_storages<const N: usize, T>(
    tensors: [&Tensor; N],
    f: impl FnOnce([(&CpuStorage, &Layout); N]) -> Result<T>,
) -> Result<T> {
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut storages = Vec::with_capacity(N);
    for (storage, layout) in &guards {
        let Storage::Cpu(storage) = &**storage else { bail!("expected a tensor on the CPU") };
        storages.push((storage, *layout));
    }
    let Ok(storages) = storages.try_into() else { unreachable!("as many as there are tensors") };
    f(storages)
}

/// The sum of all squares, in 64 bits over tasks of 32-bit sums; the order is fixed.
pub(crate) fn square_sum(values: &[f32]) -> f64 {
    let task = |values: &[f32]| {
        vectorized(
            #[inline(always)]
            || f64::from(dot(values, values)),
        )
    };
    let sums: Vec<f64> = values.par_chunks(TASK_ELEMENTS).map(task).collect();
    sums.iter().sum()
}

/// The same of a tensor of any device, in the order that suits the device.
pub(crate) fn tensor_square_sum(tensor: &Tensor) -> Result<f64> {
    match is_fused(tensor) {
        true => with_elements([tensor], |[values]| Ok(square_sum(values))),
        false => Ok(tensor.to_dtype(DType::F32)?.sqr()?.sum_all()?.to_scalar::<f32>()?.into()),
    }
}

/// A tensor of `shape` on the CPU, outside of any graph: the form of a gradient.
fn tensor(values: Vec<f32>, shape: &candle_core::Shape) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &candle_core::Device::Cpu)
}

#[cfg(test)]
mod tests {
    //! Each fused operation against its composed form, and the composed form's gradients, in `f64`, against finite
    //! differences.

    use candle_core::{Device, Var};

    use super::*;

    fn random(shape: (usize, usize)) -> Var {
        Var::from_tensor(&Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()).unwrap()
    }

    fn random_vector(len: usize) -> Var {
        Var::from_tensor(&Tensor::randn(0f32, 1.0, len, &Device::Cpu).unwrap()).unwrap()
    }

    /// The largest difference of two numbers at one place.
    fn largest(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    /// Values and all gradients agree, under a random gradient of the result.
    fn assert_same(fused: &Tensor, composed: &Tensor, inputs: &[&Var]) {
        assert!(largest(fused, composed) < 2e-5, "value differs by {}", largest(fused, composed));
        let weights = Tensor::randn(0f32, 1.0, fused.shape(), &Device::Cpu).unwrap();
        let gradients = |y: &Tensor| (y * &weights).unwrap().sum_all().unwrap().backward().unwrap();
        let (fused, composed) = (gradients(fused), gradients(composed));
        for (index, input) in inputs.iter().enumerate() {
            let difference = largest(fused.get(input).unwrap(), composed.get(input).unwrap());
            assert!(difference < 1e-4, "gradient {index} differs by {difference}");
        }
    }

    /// The gradients of `f` at random `f64` inputs are what moving each input a little does to a weighted sum of `f`.
    fn assert_differences<const N: usize>(shapes: [(usize, usize); N], f: impl Fn([&Tensor; N]) -> Result<Tensor>) {
        const STEP: f64 = 1e-5;
        let normal = |shape: (usize, usize)| Tensor::randn(0f64, 1.0, shape, &Device::Cpu).unwrap();
        let inputs = shapes.map(|shape| Var::from_tensor(&normal(shape)).unwrap());
        let weights = normal(f(inputs.each_ref().map(Var::as_tensor)).unwrap().dims2().unwrap());
        let value = |inputs: [&Tensor; N]| (f(inputs).unwrap() * &weights).unwrap().sum_all().unwrap();
        let gradients = value(inputs.each_ref().map(Var::as_tensor)).backward().unwrap();
        for (index, input) in inputs.iter().enumerate() {
            let gradient = gradients.get(input).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
            let values = input.flatten_all().unwrap().to_vec1::<f64>().unwrap();
            // Every seventh element: all of them would take a minute.
            for element in (0..values.len()).step_by(7) {
                let moved = |step: f64| {
                    let mut values = values.clone();
                    values[element] += step;
                    let moved = Tensor::from_vec(values, input.shape(), &Device::Cpu).unwrap();
                    let mut inputs = inputs.each_ref().map(Var::as_tensor);
                    inputs[index] = &moved;
                    value(inputs).to_scalar::<f64>().unwrap()
                };
                let difference = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
                let error = (difference - gradient[element]).abs();
                assert!(
                    error < 1e-6 * gradient[element].abs().max(1.0),
                    "gradient {index}, element {element}: {} by differences {difference}",
                    gradient[element]
                );
            }
        }
    }

    #[test]
    fn linear_agrees() {
        let (x, weight, bias) = (random((37, 24)), random((19, 24)), random_vector(19));
        let composed = composed::linear(&x, &weight, Some(&bias)).unwrap();
        assert_same(&linear(&x, &weight, Some(&bias), None).unwrap(), &composed, &[&x, &weight, &bias]);
        let composed = composed::linear(&x, &weight, None).unwrap();
        assert_same(&linear(&x, &weight, None, None).unwrap(), &composed, &[&x, &weight]);
        assert_differences([(5, 4), (3, 4), (1, 3)], |[x, weight, bias]| {
            composed::linear(x, weight, Some(&bias.squeeze(0)?))
        });
    }

    #[test]
    fn linear_of_activated_is_both() {
        let (x, weight, bias) = (random((37, 24)), random((19, 24)), random_vector(19));
        for function in [Activation::Gelu, Activation::Relu] {
            for with_bias in [None, Some(&bias)] {
                let bias = with_bias.map(Var::as_tensor);
                let fused = linear_of_activated(&x, function, &weight, bias, 0..19, None).unwrap();
                let composed = composed::linear(&composed::activation(&x, function).unwrap(), &weight, bias).unwrap();
                let inputs: Vec<&Var> = [&x, &weight].into_iter().chain(with_bias).collect();
                assert_same(&fused, &composed, &inputs);
            }
        }
    }

    #[test]
    fn linear_of_some_rows_is_that_part() {
        let (x, weight, bias) = (random((37, 24)), random((19, 24)), random_vector(19));
        let all = composed::linear(&x, &weight, Some(&bias)).unwrap();
        let part = |rows, tape| linear_of_rows(&x, &weight, Some(&bias), rows, tape).unwrap();
        assert_same(&part(5..12, None), &all.narrow(1, 5, 7).unwrap(), &[&x, &weight, &bias]);
        // In parts, the tape has the whole.
        let tape = Tape::default();
        let [a, b, c] = [12..19, 0..5, 5..12].map(|rows| part(rows, Some(&tape)).sqr().unwrap().sum_all().unwrap());
        let mut gradients = tape.backward(&((a + b).unwrap() + c).unwrap()).unwrap();
        let expected = all.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        for tensor in [&x, &weight, &bias] {
            let gradient = gradients.take(tensor).unwrap().unwrap();
            assert!(largest(&gradient, expected.get(tensor).unwrap()) < 1e-3);
        }
        assert!(linear_of_rows(&x, &weight, None, 10..20, None).is_err());
    }

    #[test]
    fn a_tape_has_the_gradients_that_candle_would() {
        let [x, weight, norm, rows] = [random((20, 24)), random((24, 24)), random((2, 24)), random((6, 24))];
        let bias = random_vector(24);
        // What is read several times; what candle makes of a fused operation's result, and a fused operation of that in turn; a tensor
        // that leads to nothing; rows of which no gradient is asked.
        let loss = |tape: Option<&Tape>| -> Tensor {
            let linear = |x: &Tensor| linear(x, &weight, Some(&bias), tape).unwrap();
            let row = |index| norm.get(index).unwrap();
            let a = linear(&x);
            let first = a.narrow(0, 3, 6).unwrap().contiguous().unwrap();
            linear(&a);
            let b = layer_norm(&linear(&first), &row(0), &row(1), 1e-5, tape).unwrap();
            let c = dropout_add(&b, &activation(&first, Activation::Gelu, tape).unwrap(), None, tape).unwrap();
            let d = dropout_add(&c, &b, Some(Dropout { p: 0.3, key: 7 }), tape).unwrap();
            let e = linear(&dropout_add(&d, &rows.detach(), None, tape).unwrap());
            let sum = |x: &Tensor| x.sum_all().unwrap();
            // A gradient that depends on another output goes back through what candle has made.
            let f = dropout_add(&b, &a.narrow(0, 9, 6).unwrap().contiguous().unwrap(), None, tape).unwrap();
            ((sum(&e.sqr().unwrap()) + sum(&a.sqr().unwrap())).unwrap() + sum(&(f * &c).unwrap())).unwrap()
        };
        let tape = Tape::default();
        let (expected, mut taped) = (loss(None).backward().unwrap(), tape.backward(&loss(Some(&tape))).unwrap());
        for tensor in [&x, &weight, &bias, &norm] {
            let (expected, taped) = (expected.get(tensor).unwrap(), taped.take(tensor).unwrap().unwrap());
            assert!(largest(&taped, expected) < 1e-5 * largest(expected, &expected.zeros_like().unwrap()));
        }
        assert!(taped.take(&rows).unwrap().is_none());
    }

    #[test]
    fn of_what_nobody_asks_the_gradient_nothing_is_kept() {
        let (x, weight, tape) = (random((5, 24)), random((19, 24)), Tape::default());
        let y = linear(&x.detach(), &weight.detach(), None, Some(&tape)).unwrap();
        assert!(!y.track_op());
        assert!(linear(&x.detach(), &weight, None, Some(&tape)).unwrap().is_variable());
    }

    #[test]
    fn activations_agree() {
        let x = random((50, 401));
        for function in [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Tanh] {
            let composed = composed::activation(&x, function).unwrap();
            assert_same(&activation(&x, function, None).unwrap(), &composed, &[&x]);
            assert_differences([(4, 9)], |[x]| composed::activation(x, function));
        }
    }

    #[test]
    fn gated_activations_agree() {
        let x = random((50, 402));
        for function in [Activation::Gelu, Activation::GeluTanh] {
            let composed = composed::gated_activation(&x, function).unwrap();
            assert_same(&gated_activation(&x, function, None).unwrap(), &composed, &[&x]);
            assert_differences([(4, 10)], |[x]| composed::gated_activation(x, function));
        }
    }

    #[test]
    fn rotary_positions_agree_and_are_those_of_their_definition() {
        let places: std::sync::Arc<[u32]> = [0, 1, 2, 0, 1, 300].into();
        let setting = Rotary { angles: Angles::new(8, 1e4, 301).into(), places };
        let x = random((6, 24));
        let fused = rotary(&x, &setting, None).unwrap();
        assert_same(&fused, &composed::rotary(&x, &setting).unwrap(), &[&x]);
        assert_differences([(6, 24)], |[x]| composed::rotary(x, &setting));
        // The first token is not turned; of another, the second pair of the last head by 300 / 10,000 ^ (2 / 8).
        let [x, y] = [x.as_tensor(), &fused].map(|tensor| tensor.to_vec2::<f32>().unwrap());
        assert_eq!(x[0], y[0]);
        let (sine, cosine) = (300.0f32 / 10.0).sin_cos();
        let (a, b) = (x[5][17], x[5][21]);
        assert!((y[5][17] - (a * cosine - b * sine)).abs() < 1e-5 && (y[5][21] - (b * cosine + a * sine)).abs() < 1e-5);
        assert!(rotary(&random((5, 24)), &setting, None).is_err());
    }

    #[test]
    fn layer_norm_agrees() {
        let (x, weight, bias) = (random((67, 384)), random_vector(384), random_vector(384));
        let composed = composed::layer_norm(&x, &weight, &bias, 1e-5).unwrap();
        assert_same(&layer_norm(&x, &weight, &bias, 1e-5, None).unwrap(), &composed, &[&x, &weight, &bias]);
        assert_differences([(3, 6), (1, 6), (1, 6)], |[x, weight, bias]| {
            composed::layer_norm(x, &weight.squeeze(0)?, &bias.squeeze(0)?, 1e-5)
        });
    }

    /// Where texts of such lengths begin and end.
    fn offsets(lengths: &[usize]) -> std::sync::Arc<[usize]> {
        std::iter::once(0)
            .chain(lengths.iter().scan(0, |sum, length| {
                *sum += length;
                Some(*sum)
            }))
            .collect()
    }

    /// `queries` rows a text; none: as many as the text has tokens.
    fn attention_agrees(queries: Option<usize>, dropped: Option<Dropout>, window: Option<usize>) {
        let (heads, width, lengths) = (3, 8, [5usize, 1, 170]);
        let query_lengths = lengths.map(|length| queries.unwrap_or(length));
        let setting = Attention {
            heads,
            queries: offsets(&query_lengths),
            keys: offsets(&lengths),
            dropout: dropped,
            window,
            relative: None,
        };
        let tokens = lengths.iter().sum();
        let hidden = heads * width;
        let rows: usize = query_lengths.iter().sum();
        let (q, k, v) = (random((rows, hidden)), random((tokens, hidden)), random((tokens, hidden)));
        let composed = composed::attention(&q, &k, &v, &setting).unwrap();
        assert_same(&attention(&q, &k, &v, setting.clone(), None).unwrap(), &composed, &[&q, &k, &v]);
        // Not all of a text so long: that would take a minute.
        let lengths = [5usize, 1, 17];
        let query_lengths = lengths.map(|length| queries.unwrap_or(length));
        let rows = query_lengths.iter().sum();
        let window = window.map(|window| window.min(3));
        let setting = Attention { queries: offsets(&query_lengths), keys: offsets(&lengths), window, ..setting };
        assert_differences([(rows, hidden), (23, hidden), (23, hidden)], |[q, k, v]| {
            composed::attention(q, k, v, &setting)
        });
    }

    #[test]
    fn attention_of_whole_texts_agrees() {
        attention_agrees(None, None, None);
    }

    #[test]
    fn attention_in_windows_agrees() {
        for window in [0, 1, 40, 200] {
            attention_agrees(None, None, Some(window));
        }
        attention_agrees(Some(1), None, Some(2));
        attention_agrees(None, Some(Dropout { p: 0.3, key: 7 }), Some(10));
    }

    #[test]
    fn attention_of_one_query_a_text_agrees() {
        attention_agrees(Some(1), None, None);
    }

    #[test]
    fn attention_with_dropout_agrees() {
        attention_agrees(None, Some(Dropout { p: 0.3, key: 7 }), None);
    }

    /// Offsets of texts of 5, 1 and 17 tokens, all of which, or the first of each, are queries.
    fn of_texts(queries: Option<usize>, relative: Relative) -> Attention {
        let lengths = [5, 1, 17];
        let query_lengths = lengths.map(|length| queries.unwrap_or(length));
        Attention {
            heads: 3,
            queries: offsets(&query_lengths),
            keys: offsets(&lengths),
            dropout: Some(Dropout { p: 0.2, key: 3 }),
            window: None,
            relative: Some(relative),
        }
    }

    /// Distances as their rows, cut at 6 to each side.
    fn distances() -> Distances {
        Distances::new(20, |distance| (distance.clamp(-6, 6) + 6) as u32)
    }

    #[test]
    fn attention_with_biases_by_distance_agrees() {
        let hidden = 24;
        for queries in [None, Some(1)] {
            let table = random((13, 3));
            let setting = |table: &Tensor, tape: &Tape| {
                let (table, distances) = (table.clone(), distances());
                of_texts(queries, Relative::Bias { table, distances, sink: tape.sink() })
            };
            let [other, tape] = [Tape::default(), Tape::default()];
            let rows = setting(&table, &other).queries[3];
            let (q, k, v) = (random((rows, hidden)), random((23, hidden)), random((23, hidden)));
            let composed = composed::attention(&q, &k, &v, &setting(&table, &other)).unwrap();
            assert_same(&attention(&q, &k, &v, setting(&table, &other), None).unwrap(), &composed, &[&q, &k, &v]);
            // The fused form leaves the table's gradient beside the tape, for the loss that is the sum.
            let fused = attention(&q, &k, &v, setting(&table, &tape), Some(&tape)).unwrap();
            let expected = composed.sum_all().unwrap().backward().unwrap();
            let taped = tape.backward(&fused.sum_all().unwrap()).unwrap().take(&table).unwrap().unwrap();
            assert!(largest(expected.get(&table).unwrap(), &taped) < 1e-4);
            assert_differences([(rows, hidden), (23, hidden), (23, hidden), (13, 3)], |[q, k, v, table]| {
                composed::attention(q, k, v, &setting(table, &other))
            });
        }
    }

    #[test]
    fn disentangled_attention_agrees() {
        let hidden = 24;
        for queries in [None, Some(1)] {
            let setting = of_texts(queries, Relative::Disentangled { distances: distances() });
            let rows = setting.queries[3];
            let (q, k, v) = (random((rows + 13, hidden)), random((23 + 13, hidden)), random((23, hidden)));
            let composed = composed::attention(&q, &k, &v, &setting).unwrap();
            assert_same(&attention(&q, &k, &v, setting.clone(), None).unwrap(), &composed, &[&q, &k, &v]);
            assert_differences([(rows + 13, hidden), (23 + 13, hidden), (23, hidden)], |[q, k, v]| {
                composed::attention(q, k, v, &setting)
            });
            assert!(attention(&q, &v, &v, setting, None).is_err());
        }
    }

    #[test]
    fn attention_refuses_offsets_that_do_not_fit() {
        let x = Tensor::zeros((4, 8), DType::F32, &Device::Cpu).unwrap();
        let setting = Attention {
            heads: 2,
            queries: [0, 4].into(),
            keys: [0, 5].into(),
            dropout: None,
            window: None,
            relative: None,
        };
        assert!(attention(&x, &x, &x, setting, None).is_err());
    }
}
