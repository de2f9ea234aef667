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
mod composed;
mod dropout;
mod layer_norm;
mod linear;
mod math;
mod matmul;

pub(crate) use math::vectorized;

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;

pub use activation::{Activation, activation};
pub(crate) use activation::{GELU_CUBIC, ROOT_TWO_OVER_PI};
pub use attention::{Attention, attention};
pub use dropout::{Dropout, dropout, dropout_add};
pub use layer_norm::layer_norm;
pub use linear::{GradientSink, linear};

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
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut slices = [&[] as &[f32]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        let Storage::Cpu(storage) = &**storage else { bail!("expected a tensor on the CPU") };
        *slice = elements(storage, layout)?;
    }
    f(slices)
}

/// The sum of all squares, in 64 bits over tasks of 32-bit sums; the order is fixed.
pub(crate) fn square_sum(values: &[f32]) -> f64 {
    let task = |values: &[f32]| {
        vectorized(
            #[inline(always)]
            || f64::from(math::dot(values, values)),
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

    /// Values and all gradients agree, under a random gradient of the result.
    fn assert_same(fused: &Tensor, composed: &Tensor, inputs: &[&Var]) {
        let largest = |a: &Tensor, b: &Tensor| -> f32 {
            (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
        };
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
                    error < 1e-6,
                    "gradient {index}, element {element}: {} by differences {difference}",
                    gradient[element]
                );
            }
        }
    }

    #[test]
    fn linear_agrees() {
        let (x, weight, bias) = (random((37, 24)), random((19, 24)), random_vector(19));
        let composed = composed::linear(&x, &weight, &bias).unwrap();
        assert_same(&linear(&x, &weight, &bias, None).unwrap(), &composed, &[&x, &weight, &bias]);
        assert_differences([(5, 4), (3, 4), (1, 3)], |[x, weight, bias]| {
            composed::linear(x, weight, &bias.squeeze(0)?)
        });
    }

    #[test]
    fn a_sink_gets_the_gradients_that_the_store_would() {
        let (x, weight, bias) = (random((300, 24)), random((19, 24)), random_vector(19));
        let sink = GradientSink::default();
        let gradients = |sink: Option<&GradientSink>| {
            linear(&x, &weight, &bias, sink).unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap()
        };
        let (plain, sunk) = (gradients(None), gradients(Some(&sink)));
        let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(plain.get(&x).unwrap()), values(sunk.get(&x).unwrap()));
        for parameter in [&weight, &bias] {
            assert!(sunk.get(parameter).is_none());
            assert_eq!(values(plain.get(parameter).unwrap()), values(&sink.take(parameter).unwrap()));
        }
    }

    #[test]
    fn activations_agree() {
        let x = random((50, 401));
        for function in [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Tanh] {
            let composed = composed::activation(&x, function).unwrap();
            assert_same(&activation(&x, function).unwrap(), &composed, &[&x]);
            assert_differences([(4, 9)], |[x]| composed::activation(x, function));
        }
    }

    #[test]
    fn layer_norm_agrees() {
        let (x, weight, bias) = (random((67, 384)), random_vector(384), random_vector(384));
        let composed = composed::layer_norm(&x, &weight, &bias, 1e-5).unwrap();
        assert_same(&layer_norm(&x, &weight, &bias, 1e-5).unwrap(), &composed, &[&x, &weight, &bias]);
        assert_differences([(3, 6), (1, 6), (1, 6)], |[x, weight, bias]| {
            composed::layer_norm(x, &weight.squeeze(0)?, &bias.squeeze(0)?, 1e-5)
        });
    }

    /// `queries` rows a text; none: as many as the text has tokens.
    fn attention_agrees(queries: Option<usize>, dropped: Option<Dropout>) {
        let (heads, width, lengths) = (3, 8, [5usize, 1, 17]);
        let offsets = |lengths: &[usize]| -> std::sync::Arc<[usize]> {
            std::iter::once(0)
                .chain(lengths.iter().scan(0, |sum, length| {
                    *sum += length;
                    Some(*sum)
                }))
                .collect()
        };
        let query_lengths = lengths.map(|length| queries.unwrap_or(length));
        let setting = Attention { heads, queries: offsets(&query_lengths), keys: offsets(&lengths), dropout: dropped };
        let hidden = heads * width;
        let rows: usize = query_lengths.iter().sum();
        let (q, k, v) = (random((rows, hidden)), random((23, hidden)), random((23, hidden)));
        let composed = composed::attention(&q, &k, &v, &setting).unwrap();
        assert_same(&attention(&q, &k, &v, setting.clone()).unwrap(), &composed, &[&q, &k, &v]);
        assert_differences([(rows, hidden), (23, hidden), (23, hidden)], |[q, k, v]| {
            composed::attention(q, k, v, &setting)
        });
    }

    #[test]
    fn attention_of_whole_texts_agrees() {
        attention_agrees(None, None);
    }

    #[test]
    fn attention_of_one_query_a_text_agrees() {
        attention_agrees(Some(1), None);
    }

    #[test]
    fn attention_with_dropout_agrees() {
        attention_agrees(None, Some(Dropout { p: 0.3, key: 7 }));
    }

    #[test]
    fn attention_refuses_offsets_that_do_not_fit() {
        let x = Tensor::zeros((4, 8), DType::F32, &Device::Cpu).unwrap();
        let setting = Attention { heads: 2, queries: [0, 4].into(), keys: [0, 5].into(), dropout: None };
        assert!(attention(&x, &x, &x, setting).is_err());
    }
}
