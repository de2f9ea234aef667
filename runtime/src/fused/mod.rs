//! Operators of our own for graphs on the CPU. Each is what several of ONNX Runtime's are, in one pass over memory: between two
//! products of bytes it computes floats, and most write bytes, some with a scale a row, which ONNX Runtime's have not.
//! `graph::fuse` puts them into a graph when it is loaded; in a bundle there are none, so that others can run it.

mod attention;
mod gelu;
mod layer_norm;
mod quantization;

use std::sync::{Mutex, PoisonError};

use ort::{
    operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput},
    value::{TensorElementType, ValueRef, ValueRefMut},
};

use self::{
    attention::{Attention, Scratch, TASK_ROWS},
    gelu::{bias_gelu_by_row, bias_gelu_quantize},
    layer_norm::LayerNorm,
    quantization::{Bytes, Quantization},
};
use crate::{guard::guarded, math::has_fused_multiply_add};

pub(crate) use gelu::ROW_ZERO_POINT as GELU_ZERO_POINT;

/// The domain of these operators.
pub(crate) const DOMAIN: &str = "nimbert";
/// Changes with what the operators compute, and with which of them a graph is given: it names the compiled form.
pub(crate) const VERSION: u64 = 2;
/// x float `[…, width]`, bias float `[width]`, scale float, zero point uint8 → uint8 `[…, width]`: gelu(x + bias).
pub(crate) const BIAS_GELU_QUANTIZE: &str = "BiasGeluQuantize";
/// a and b float `[…, width]`, weight and bias float `[width]`, scale float, zero point uint8 → float `[…, width]`, the normalized
/// a + b, and uint8 `[…, width]`, the same in bytes. Attribute [`EPSILON`].
pub(crate) const ADD_LAYER_NORM_QUANTIZE: &str = "AddLayerNormQuantize";
/// a and b float `[rows, width]`, weight and bias float `[width]` → the same float `[rows, width]`, and uint8 `[rows, width]` around
/// [`NORM_ZERO_POINT`] with the scales float `[rows]`. Attribute [`EPSILON`].
pub(crate) const ADD_LAYER_NORM_BY_ROW: &str = "AddLayerNormQuantizeByRow";
/// x float `[rows, width]` and what its rows are to be multiplied by float `[rows]`, bias float `[width]` → uint8 `[rows, width]` around
/// [`GELU_ZERO_POINT`] with the scales float `[rows]`: gelu(x + bias).
pub(crate) const BIAS_GELU_BY_ROW: &str = "BiasGeluQuantizeByRow";
/// As [`ADD_LAYER_NORM_QUANTIZE`], of rows, with what those of a are to be multiplied by float `[rows]` behind a.
pub(crate) const SCALED_ADD_LAYER_NORM_QUANTIZE: &str = "ScaledAddLayerNormQuantize";
/// The same without bytes.
pub(crate) const SCALED_ADD_LAYER_NORM: &str = "ScaledAddLayerNorm";
/// Queries, keys and values float `[texts, columns, 3 × hidden]`, or `[tokens, 3 × hidden]` of texts one behind the other; lengths
/// int32 `[texts]`, scale float, zero point uint8 → uint8 `[texts, columns, hidden]`, or `[tokens, hidden]`. Attribute [`HEADS`].
pub(crate) const ATTENTION_QUANTIZE: &str = "AttentionQuantize";
/// x float `[texts, columns, width]`, lengths int32 `[texts]` → float `[tokens, width]`: without what fills texts up.
pub(crate) const PACK: &str = "Pack";
/// x float `[tokens, width]`, lengths int32 `[texts]`, anything int64 `[texts, columns]` → float `[texts, columns, width]`: filled
/// up with zeros.
pub(crate) const UNPACK: &str = "Unpack";
/// Added to the variance.
pub(crate) const EPSILON: &str = "epsilon";
/// Number of heads.
pub(crate) const HEADS: &str = "num_heads";

/// The zero point of what is normalized in bytes with a scale a row: it is as often below 0 as above.
pub(crate) const NORM_ZERO_POINT: u8 = 128;

/// More than any model has.
const MOST_HEADS: i64 = 1024;
/// Elements that one task computes: some tens of microseconds.
const TASK_ELEMENTS: usize = 1 << 14;

/// Whether these operators are faster than ONNX Runtime's on this processor.
pub(crate) fn is_supported() -> bool {
    has_fused_multiply_add()
}

/// What a session must be given to know these operators.
///
/// # Errors
/// If ONNX Runtime refuses them.
pub(crate) fn domain() -> ort::Result<OperatorDomain> {
    let heads = |context: &KernelContext<'_>| {
        let heads = context.get::<i64>(HEADS).filter(|heads| (1..=MOST_HEADS).contains(heads));
        Ok(Attend { heads: heads.ok_or_else(|| ort::Error::new("no number of heads"))? as usize })
    };
    fn epsilon(context: &KernelContext<'_>) -> ort::Result<f32> {
        context.get(EPSILON).ok_or_else(|| ort::Error::new("no epsilon"))
    }
    OperatorDomain::new(DOMAIN)?
        .add(operator(BIAS_GELU_QUANTIZE, &[FLOAT, FLOAT, FLOAT, BYTE], &[BYTE], |_| Ok(BiasGeluQuantize)))?
        .add(operator(BIAS_GELU_BY_ROW, &[FLOAT, FLOAT, FLOAT], &[BYTE, FLOAT], |_| Ok(BiasGeluByRow)))?
        .add(operator(
            ADD_LAYER_NORM_QUANTIZE,
            &[FLOAT, FLOAT, FLOAT, FLOAT, FLOAT, BYTE],
            &[FLOAT, BYTE],
            |context| Ok(Normalize { epsilon: epsilon(context)?, scaled: false, to: To::Bytes }),
        ))?
        .add(operator(
            SCALED_ADD_LAYER_NORM_QUANTIZE,
            &[FLOAT, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT, BYTE],
            &[FLOAT, BYTE],
            |context| Ok(Normalize { epsilon: epsilon(context)?, scaled: true, to: To::Bytes }),
        ))?
        .add(operator(SCALED_ADD_LAYER_NORM, &[FLOAT, FLOAT, FLOAT, FLOAT, FLOAT], &[FLOAT], |context| {
            Ok(Normalize { epsilon: epsilon(context)?, scaled: true, to: To::Floats })
        }))?
        .add(operator(ADD_LAYER_NORM_BY_ROW, &[FLOAT, FLOAT, FLOAT, FLOAT], &[FLOAT, BYTE, FLOAT], |context| {
            Ok(Normalize { epsilon: epsilon(context)?, scaled: false, to: To::BytesByRow })
        }))?
        .add(operator(ATTENTION_QUANTIZE, &[FLOAT, LENGTH, FLOAT, BYTE], &[BYTE], heads))?
        .add(operator(PACK, &[FLOAT, LENGTH], &[FLOAT], |_| Ok(Pack)))?
        .add(operator(UNPACK, &[FLOAT, LENGTH, TensorElementType::Int64], &[FLOAT], |_| Ok(Unpack)))
}

const FLOAT: TensorElementType = TensorElementType::Float32;
const LENGTH: TensorElementType = TensorElementType::Int32;
const BYTE: TensorElementType = TensorElementType::Uint8;

/// An operator as ONNX Runtime wants to know it: types of what goes in and comes out, and how a kernel is made for a node.
struct Described<K> {
    name: &'static str,
    inputs: &'static [TensorElementType],
    outputs: &'static [TensorElementType],
    create: fn(&KernelContext<'_>) -> ort::Result<K>,
}

fn operator<K>(
    name: &'static str,
    inputs: &'static [TensorElementType],
    outputs: &'static [TensorElementType],
    create: fn(&KernelContext<'_>) -> ort::Result<K>,
) -> Described<K> {
    Described { name, inputs, outputs, create }
}

impl<K: Kernel + 'static> Operator for Described<K> {
    type Kernel<'attr> = Guarded<K>;

    fn name(&self) -> &str {
        self.name
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        self.inputs.iter().copied().map(OperatorInput::required)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        self.outputs.iter().copied().map(OperatorOutput::required)
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<Guarded<K>> {
        (self.create)(context).map(Guarded)
    }
}

/// A kernel whose panic is an error: ONNX Runtime calls it, through whose frames none may go.
struct Guarded<K>(K);

impl<K: Kernel> Kernel for Guarded<K> {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        guarded(|| self.0.compute(context)).unwrap_or_else(|panic| Err(ort::Error::new(panic)))
    }
}

struct BiasGeluQuantize;

impl Kernel for BiasGeluQuantize {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let [x, bias] = [input(context, 0)?, input(context, 1)?];
        let ((shape, x), (_, bias)) = (x.try_extract_tensor::<f32>()?, bias.try_extract_tensor::<f32>()?);
        let quantization = quantization(context, 2)?;
        let width = width_of(shape, bias.len())?;
        let mut out = output(context, 0, shape)?;
        let (_, out) = out.try_extract_tensor_mut::<u8>()?;
        let task = task_rows(width) * width;
        in_tasks(context, out.chunks_mut(task).zip(x.chunks(task)), |(out, x)| {
            bias_gelu_quantize(x, bias, quantization, out);
        })
    }
}

struct BiasGeluByRow;

impl Kernel for BiasGeluByRow {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let [x, x_scales, bias] = [input(context, 0)?, input(context, 1)?, input(context, 2)?];
        let ((shape, x), (_, x_scales)) = (x.try_extract_tensor::<f32>()?, x_scales.try_extract_tensor::<f32>()?);
        let (_, bias) = bias.try_extract_tensor::<f32>()?;
        let width = width_of(shape, bias.len())?;
        expect(x_scales.len() * width == x.len(), "a scale a row")?;
        let (mut out, mut scales) = (output(context, 0, shape)?, output(context, 1, rows_of(shape))?);
        let (out, scales) = (out.try_extract_tensor_mut::<u8>()?.1, scales.try_extract_tensor_mut::<f32>()?.1);
        let rows = task_rows(width);
        let outs = out.chunks_mut(rows * width).zip(scales.chunks_mut(rows));
        let xs = x.chunks(rows * width).zip(x_scales.chunks(rows));
        in_tasks(context, outs.zip(xs), |(out, x)| bias_gelu_by_row(x, bias, out))
    }
}

/// What is normalized, perhaps in bytes too.
struct Normalize {
    epsilon: f32,
    /// Whether the rows of a come with what they are to be multiplied by.
    scaled: bool,
    to: To,
}

/// What comes out besides what is normalized.
enum To {
    Floats,
    /// By one scale for all of them, which comes in.
    Bytes,
    /// By a scale a row, which comes out.
    BytesByRow,
}

impl Kernel for Normalize {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let behind = 1 + usize::from(self.scaled);
        let [a, b] = [input(context, 0)?, input(context, behind)?];
        let [weight, bias] = [input(context, behind + 1)?, input(context, behind + 2)?];
        let ((shape, a), (other, b)) = (a.try_extract_tensor::<f32>()?, b.try_extract_tensor::<f32>()?);
        let (weight, bias) = (weight.try_extract_tensor::<f32>()?.1, bias.try_extract_tensor::<f32>()?.1);
        let width = width_of(shape, weight.len())?;
        expect(shape == other && bias.len() == width, "terms of one shape, and weights and biases of its width")?;
        let factors = if self.scaled { Some(input(context, 1)?) } else { None };
        let factors = factors.as_ref().map(|factors| factors.try_extract_tensor::<f32>()).transpose()?;
        let factors = factors.map(|(_, factors)| factors);
        expect(factors.is_none_or(|factors| factors.len() * width == a.len()), "a scale a row")?;
        let norm = LayerNorm { weight, bias, epsilon: self.epsilon };
        let mut out = output(context, 0, shape)?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        let rows = task_rows(width);
        let task = rows * width;
        let terms = a.chunks(task).zip(b.chunks(task)).enumerate();
        let terms = terms.map(|(index, (a, b))| {
            let factors = factors.map(|factors| &factors[index * rows..][..a.len() / width]);
            ((a, factors), b)
        });
        let outs = out.chunks_mut(task);
        if let To::Floats = self.to {
            return in_tasks(context, outs.zip(terms), |(out, (a, b))| norm.add_normalize(a, b, out, Bytes::None));
        }
        let mut bytes = output(context, 1, shape)?;
        let (_, bytes) = bytes.try_extract_tensor_mut::<u8>()?;
        let outs = outs.zip(bytes.chunks_mut(task));
        if let To::BytesByRow = self.to {
            let mut scales = output(context, 2, rows_of(shape))?;
            let (_, scales) = scales.try_extract_tensor_mut::<f32>()?;
            let outs = outs.zip(scales.chunks_mut(rows));
            return in_tasks(context, outs.zip(terms), |(((out, bytes), scales), (a, b))| {
                norm.add_normalize(a, b, out, Bytes::ByRow(NORM_ZERO_POINT, bytes, scales));
            });
        }
        let quantization = quantization(context, behind + 3)?;
        in_tasks(context, outs.zip(terms), |((out, bytes), (a, b))| {
            norm.add_normalize(a, b, out, Bytes::OfAll(quantization, bytes));
        })
    }
}

struct Attend {
    heads: usize,
}

impl Kernel for Attend {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let [products, lengths] = [input(context, 0)?, input(context, 1)?];
        let (shape, products) = products.try_extract_tensor::<f32>()?;
        let lengths = lengths_of(&lengths)?;
        // Rows that each text has: with those that fill it up, or without.
        let (rows, all): (Vec<usize>, i64) = match shape[..] {
            [texts, columns, all] if texts == lengths.len() as i64 => (vec![columns as usize; lengths.len()], all),
            [tokens, all] if tokens == lengths.iter().sum::<usize>() as i64 => (lengths.clone(), all),
            _ => return Err(ort::Error::new("expected a length a text")),
        };
        expect(all > 0 && (all as usize).is_multiple_of(3 * self.heads), "queries, keys and values of all heads")?;
        let hidden = all as usize / 3;
        let attention =
            Attention { heads: self.heads, width: hidden / self.heads, quantization: quantization(context, 2)? };
        let shape = [&shape[..shape.len() - 1], &[hidden as i64]].concat();
        let mut out = output(context, 0, &shape)?;
        let (_, mut out) = out.try_extract_tensor_mut::<u8>()?;
        let (mut left, mut tasks) = (products, Vec::new());
        for (rows, length) in rows.into_iter().zip(lengths) {
            let (text, behind) = left.split_at(rows * 3 * hidden);
            let (of_text, behind_out) = std::mem::take(&mut out).split_at_mut(rows * hidden);
            (left, out) = (behind, behind_out);
            let blocks = of_text.chunks_mut(TASK_ROWS * hidden).enumerate();
            tasks.extend(blocks.map(|(block, out)| (text, length.min(rows), block * TASK_ROWS, out)));
        }
        in_tasks(context, tasks.into_iter(), |(text, length, first, out)| {
            attention.attend(text, length, first, &mut Scratch::default(), out);
        })
    }
}

struct Pack;

impl Kernel for Pack {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let [x, lengths] = [input(context, 0)?, input(context, 1)?];
        let ((shape, x), lengths) = (x.try_extract_tensor::<f32>()?, lengths_of(&lengths)?);
        let (columns, width) = by_text(shape, &lengths)?;
        let tokens = lengths.iter().sum::<usize>();
        let mut out = output(context, 0, &[tokens as i64, width as i64])?;
        let (_, mut out) = out.try_extract_tensor_mut::<f32>()?;
        for (text, length) in x.chunks(columns * width).zip(lengths) {
            let (of_text, behind) = std::mem::take(&mut out).split_at_mut(length * width);
            of_text.copy_from_slice(&text[..length * width]);
            out = behind;
        }
        Ok(())
    }
}

struct Unpack;

impl Kernel for Unpack {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let [x, lengths, texts] = [input(context, 0)?, input(context, 1)?, input(context, 2)?];
        let ((shape, mut x), lengths) = (x.try_extract_tensor::<f32>()?, lengths_of(&lengths)?);
        let (of_texts, _) = texts.try_extract_tensor::<i64>()?;
        let (&[tokens, width], &[texts, columns]) = (&shape[..], &of_texts[..]) else {
            return Err(ort::Error::new("expected rows, and ids of texts"));
        };
        let shape = [texts, columns, width];
        let (columns, width) = by_text(&shape, &lengths)?;
        expect(tokens == lengths.iter().sum::<usize>() as i64, "a row a token")?;
        let mut out = output(context, 0, &shape)?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        for (text, length) in out.chunks_mut(columns * width).zip(lengths) {
            let (of_text, behind) = x.split_at(length * width);
            text[..of_text.len()].copy_from_slice(of_text);
            text[of_text.len()..].fill(0.0);
            x = behind;
        }
        Ok(())
    }
}

/// Tokens of each text.
fn lengths_of(lengths: &ValueRef<'_>) -> ort::Result<Vec<usize>> {
    let (_, lengths) = lengths.try_extract_tensor::<i32>()?;
    Ok(lengths.iter().map(|length| usize::try_from(*length).unwrap_or(0)).collect())
}

/// Columns and width of texts `[texts, columns, width]` of these lengths.
fn by_text(shape: &[i64], lengths: &[usize]) -> ort::Result<(usize, usize)> {
    match *shape {
        [texts, columns, width]
            if texts == lengths.len() as i64
                && columns > 0
                && width > 0
                && lengths.iter().all(|length| *length <= columns as usize) =>
        {
            Ok((columns as usize, width as usize))
        }
        _ => Err(ort::Error::new("expected a length a text, no longer than the text")),
    }
}

/// Runs `f` on each task, on all threads of the session. A panic is an error on each of them.
fn in_tasks<T: Send>(
    context: &ComputeContext,
    tasks: impl Iterator<Item = T>,
    f: impl Fn(T) + Sync + Send,
) -> ort::Result<()> {
    let tasks: Vec<Mutex<Option<T>>> = tasks.map(|task| Mutex::new(Some(task))).collect();
    let panic = Mutex::new(None);
    let run = |index: usize| {
        let task = tasks[index].lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(message)) = task.map(|task| guarded(|| f(task))) {
            panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
        }
    };
    match tasks.len() {
        0 => {}
        1 => run(0),
        count => context.par_for(count, 0, run)?,
    }
    match panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(message) => Err(ort::Error::new(message)),
        None => Ok(()),
    }
}

fn input(context: &ComputeContext, index: usize) -> ort::Result<ValueRef<'_>> {
    context.input(index)?.ok_or_else(|| ort::Error::new(format!("no input {index}")))
}

fn output<'a>(context: &'a ComputeContext, index: usize, shape: &[i64]) -> ort::Result<ValueRefMut<'a>> {
    context.output(index, shape.to_vec())?.ok_or_else(|| ort::Error::new(format!("no output {index}")))
}

/// The scale in the input `index`, and the zero point in the one behind it.
fn quantization(context: &ComputeContext, index: usize) -> ort::Result<Quantization> {
    let scale = input(context, index)?.try_extract_scalar::<f32>()?;
    let zero_point = input(context, index + 1)?.try_extract_scalar::<u8>()?;
    Ok(Quantization::new(scale, zero_point))
}

/// The last axis, which must have so many elements.
fn width_of(shape: &[i64], expected: usize) -> ort::Result<usize> {
    expect(expected > 0 && shape.last() == Some(&(expected as i64)), "rows as wide as weights or biases")?;
    Ok(expected)
}

/// Rows of that width that one task computes.
fn task_rows(width: usize) -> usize {
    (TASK_ELEMENTS / width).max(1)
}

/// All axes but the last one.
fn rows_of(shape: &[i64]) -> &[i64] {
    &shape[..shape.len() - 1]
}

fn expect(is_right: bool, expected: &str) -> ort::Result<()> {
    if is_right { Ok(()) } else { Err(ort::Error::new(format!("expected {expected}"))) }
}
