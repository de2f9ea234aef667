//! Operators of our own for graphs on the CPU. Each is what several of ONNX Runtime's are, in one pass over memory: between two
//! products of bytes they read floats, and write bytes, most with a scale and a zero point a row, which ONNX Runtime's have not. In
//! graphs of floats there is attention alone.
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
    attention::{Attention, Out as AttentionOut, Products, Scratch, task_rows as attention_rows},
    gelu::bias_gelu,
    layer_norm::LayerNorm,
    quantization::{Bytes, Deferred, Quantization, Scales},
};
use crate::{guard::guarded, math::has_fused_multiply_add};

pub(crate) use quantization::ROW_ZERO_POINT;

/// The domain of these operators.
pub(crate) const DOMAIN: &str = "nimbert";
/// Changes with what the operators compute, and with which of them a graph is given: it names the compiled form.
pub(crate) const VERSION: u64 = 5;
// None has the name of an operator of ONNX Runtime, so that traces tell them apart.
// The first three read what a product gives, and may write the bytes of the next one. Behind the inputs that are named here
// they have these, each of which may be missing: what the product has left of its rows float `[rows, 2]`, and the sums of its weights
// float `[columns]` ([`quantization::Deferred`]); what channels are multiplied by before they become bytes float `[width]`; zero point
// uint8, without which there are no bytes, and scale float: without that each row has its own of both. Behind the outputs that are named:
// the bytes uint8 `[…, width]`, and what the next product leaves of them float `[…, 2]`.
/// x float `[…, width]`, bias float `[width]` → gelu(x + bias), in bytes only.
pub(crate) const BIAS_GELU: &str = "BiasGeluQuantize";
/// a and b float `[…, width]`, weight and bias float `[width]` → float `[…, width]`, the normalized a + b. Attribute [`EPSILON`].
pub(crate) const ADD_LAYER_NORM: &str = "AddLayerNormQuantize";
/// Queries, keys and values float `[texts, columns, 3 × hidden]`, or `[tokens, 3 × hidden]` of texts one behind the other; lengths
/// int32 `[texts]`, bias float `[3 × hidden]` → `[texts, columns, hidden]`, or `[tokens, hidden]`: float, or in bytes only. Attribute
/// [`HEADS`].
pub(crate) const ATTENTION: &str = "ProductAttention";
/// x float `[texts, columns, width]`, lengths int32 `[texts]` → float `[tokens, width]`: without what fills texts up.
pub(crate) const PACK: &str = "Pack";
/// x float `[tokens, width]`, lengths int32 `[texts]`, anything int64 `[texts, columns]` → float `[texts, columns, width]`: filled
/// up with zeros.
pub(crate) const UNPACK: &str = "Unpack";
/// Added to the variance.
pub(crate) const EPSILON: &str = "epsilon";
/// Number of heads.
pub(crate) const HEADS: &str = "num_heads";

/// More than any model has.
const MOST_HEADS: i64 = 1024;
/// Elements that one task computes: some tens of microseconds.
const TASK_ELEMENTS: usize = 1 << 14;

/// Whether these operators are faster than ONNX Runtime's on this processor.
pub(crate) fn is_supported() -> bool {
    has_fused_multiply_add()
}

/// What a session of so many threads must be given to know these operators.
///
/// # Errors
/// If ONNX Runtime refuses them.
pub(crate) fn domain(threads: usize) -> ort::Result<OperatorDomain> {
    let attend = move |context: &KernelContext<'_>| {
        let heads = context.get::<i64>(HEADS).filter(|heads| (1..=MOST_HEADS).contains(heads));
        Ok(Attend { heads: heads.ok_or_else(|| ort::Error::new("no number of heads"))? as usize, threads })
    };
    fn epsilon(context: &KernelContext<'_>) -> ort::Result<f32> {
        context.get(EPSILON).ok_or_else(|| ort::Error::new("no epsilon"))
    }
    OperatorDomain::new(DOMAIN)?
        .add(between_products(BIAS_GELU, &[FLOAT, FLOAT], &[], |_| Ok(BiasGelu)))?
        .add(between_products(ADD_LAYER_NORM, &[FLOAT, FLOAT, FLOAT, FLOAT], &[FLOAT], |context| {
            Ok(AddLayerNorm { epsilon: epsilon(context)? })
        }))?
        .add(between_products(ATTENTION, &[FLOAT, LENGTH, FLOAT], &[FLOAT], attend))?
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
    /// Whether it stands between products of bytes.
    is_between: bool,
    create: Box<Create<K>>,
}

type Create<K> = dyn Fn(&KernelContext<'_>) -> ort::Result<K> + Send + Sync;

/// What operators between products have behind their own inputs and outputs.
const FURTHER_INPUTS: [TensorElementType; 5] = [FLOAT, FLOAT, FLOAT, BYTE, FLOAT];
const FURTHER_OUTPUTS: [TensorElementType; 2] = [BYTE, FLOAT];

fn between_products<K>(
    name: &'static str,
    inputs: &'static [TensorElementType],
    outputs: &'static [TensorElementType],
    create: impl Fn(&KernelContext<'_>) -> ort::Result<K> + Send + Sync + 'static,
) -> Described<K> {
    Described { is_between: true, ..operator(name, inputs, outputs, create) }
}

fn operator<K>(
    name: &'static str,
    inputs: &'static [TensorElementType],
    outputs: &'static [TensorElementType],
    create: impl Fn(&KernelContext<'_>) -> ort::Result<K> + Send + Sync + 'static,
) -> Described<K> {
    Described { name, inputs, outputs, is_between: false, create: Box::new(create) }
}

impl<K: Kernel + 'static> Operator for Described<K> {
    type Kernel<'attr> = Guarded<K>;

    fn name(&self) -> &str {
        self.name
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let further = FURTHER_INPUTS.into_iter().filter(|_| self.is_between).map(OperatorInput::optional);
        self.inputs.iter().copied().map(OperatorInput::required).chain(further)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        let own = |of_type: &TensorElementType| match self.is_between {
            true => OperatorOutput::optional(*of_type),
            false => OperatorOutput::required(*of_type),
        };
        let further = FURTHER_OUTPUTS.into_iter().filter(|_| self.is_between).map(OperatorOutput::optional);
        self.outputs.iter().map(own).chain(further)
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

/// The inputs that an operator between products has behind its own.
struct Further<'a> {
    rows: Option<ValueRef<'a>>,
    sums: Option<ValueRef<'a>>,
    factors: Option<ValueRef<'a>>,
    zero_point: Option<u8>,
    scale: Option<f32>,
}

impl<'a> Further<'a> {
    /// Behind `own` inputs.
    fn of(context: &'a ComputeContext, own: usize) -> ort::Result<Self> {
        let zero_point = context.input(own + 3)?.map(|zero_point| zero_point.try_extract_scalar::<u8>()).transpose()?;
        let scale = context.input(own + 4)?.map(|scale| scale.try_extract_scalar::<f32>()).transpose()?;
        let [rows, sums, factors] = [context.input(own)?, context.input(own + 1)?, context.input(own + 2)?];
        Ok(Self { rows, sums, factors, zero_point, scale })
    }

    /// What is left of a product of so many rows and columns.
    fn left(&self, rows: usize, columns: usize) -> ort::Result<Option<Deferred<'_>>> {
        let (Some(of_rows), Some(sums)) = (&self.rows, &self.sums) else { return Ok(None) };
        let (of_rows, _) = of_rows.try_extract_tensor::<f32>()?.1.as_chunks();
        let (_, sums) = sums.try_extract_tensor::<f32>()?;
        expect(of_rows.len() == rows && sums.len() == columns, "what is left of all rows, and sums of all columns")?;
        Ok(Some(Deferred { rows: of_rows, sums }))
    }

    /// Where bytes go, if there are some, as outputs behind `own` others.
    fn written<'b>(
        &'b self,
        context: &'b ComputeContext,
        own: usize,
        shape: &[i64],
    ) -> ort::Result<Option<Written<'b>>> {
        let Some(zero_point) = self.zero_point else { return Ok(None) };
        let factors = self.factors.as_ref().map(|factors| factors.try_extract_tensor::<f32>()).transpose()?;
        let factors = factors.map(|(_, factors)| factors);
        let [outer @ .., width] = shape else { return Err(ort::Error::new("expected rows")) };
        let width = *width as usize;
        expect(factors.is_none_or(|factors| factors.len() == width), "a factor a channel")?;
        let bytes = output(context, own, shape)?;
        let scales = match self.scale {
            Some(scale) => WrittenScales::One(Quantization::new(scale, zero_point)),
            None => WrittenScales::ByRow(output(context, own + 1, &[outer, &[2]].concat())?),
        };
        Ok(Some(Written { bytes, scales, factors, width }))
    }
}

/// Bytes that an operator writes.
struct Written<'a> {
    bytes: ValueRefMut<'a>,
    scales: WrittenScales<'a>,
    factors: Option<&'a [f32]>,
    width: usize,
}

enum WrittenScales<'a> {
    One(Quantization),
    ByRow(ValueRefMut<'a>),
}

impl Written<'_> {
    /// Those of so many rows each, one after the other.
    fn parts(&mut self, rows: impl IntoIterator<Item = usize>) -> ort::Result<impl Iterator<Item = Bytes<'_>>> {
        let Self { bytes, scales, factors, width } = self;
        let (_, mut bytes) = bytes.try_extract_tensor_mut::<u8>()?;
        let (one, mut by_row) = match scales {
            WrittenScales::One(quantization) => (Some(*quantization), &mut [][..]),
            WrittenScales::ByRow(rows) => (None, rows.try_extract_tensor_mut::<f32>()?.1.as_chunks_mut().0),
        };
        let (factors, width) = (*factors, *width);
        Ok(rows.into_iter().map(move |rows| {
            let (of_rows, behind) = std::mem::take(&mut bytes).split_at_mut(rows * width);
            bytes = behind;
            let scales = match one {
                Some(quantization) => Scales::One(quantization),
                None => {
                    let (of_rows, behind) = std::mem::take(&mut by_row).split_at_mut(rows);
                    by_row = behind;
                    Scales::ByRow(of_rows)
                }
            };
            Bytes { bytes: of_rows, scales, factors }
        }))
    }
}

/// So many rows, in tasks of `task` and the rest.
fn parted(rows: usize, task: usize) -> impl Iterator<Item = usize> {
    (0..rows).step_by(task).map(move |start| task.min(rows - start))
}

struct BiasGelu;

impl Kernel for BiasGelu {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let [x, bias] = [input(context, 0)?, input(context, 1)?];
        let ((shape, x), (_, bias)) = (x.try_extract_tensor::<f32>()?, bias.try_extract_tensor::<f32>()?);
        let width = width_of(shape, bias.len())?;
        let (rows, task) = (x.len() / width, task_rows(width));
        let further = Further::of(context, 2)?;
        let left = further.left(rows, width)?;
        let mut written =
            further.written(context, 0, shape)?.ok_or_else(|| ort::Error::new("expected a zero point"))?;
        let xs = x.chunks(task * width).enumerate().map(|(index, x)| (x, part_of(left, index * task, x.len() / width)));
        in_tasks(context, xs.zip(written.parts(parted(rows, task))?), |(x, bytes)| bias_gelu(x, bias, bytes))
    }
}

struct AddLayerNorm {
    epsilon: f32,
}

impl Kernel for AddLayerNorm {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let [a, b, weight, bias] = [input(context, 0)?, input(context, 1)?, input(context, 2)?, input(context, 3)?];
        let ((shape, a), (other, b)) = (a.try_extract_tensor::<f32>()?, b.try_extract_tensor::<f32>()?);
        let (weight, bias) = (weight.try_extract_tensor::<f32>()?.1, bias.try_extract_tensor::<f32>()?.1);
        let width = width_of(shape, weight.len())?;
        expect(shape == other && bias.len() == width, "terms of one shape, and weights and biases of its width")?;
        let (rows, task) = (a.len() / width, task_rows(width));
        let further = Further::of(context, 4)?;
        let left = further.left(rows, width)?;
        let norm = LayerNorm { weight, bias, epsilon: self.epsilon };
        let mut out = output(context, 0, shape)?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        let mut written = further.written(context, 1, shape)?;
        let bytes: Vec<Option<Bytes<'_>>> = match &mut written {
            Some(written) => written.parts(parted(rows, task))?.map(Some).collect(),
            None => parted(rows, task).map(|_| None).collect(),
        };
        let terms = a.chunks(task * width).zip(b.chunks(task * width)).enumerate();
        let terms = terms.map(|(index, (a, b))| ((a, part_of(left, index * task, a.len() / width)), b));
        let tasks = terms.zip(out.chunks_mut(task * width)).zip(bytes);
        in_tasks(context, tasks, |(((a, b), out), bytes)| norm.add_normalize(a, b, out, bytes))
    }
}

struct Attend {
    heads: usize,
    threads: usize,
}

impl Kernel for Attend {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let [products, lengths, bias] = [input(context, 0)?, input(context, 1)?, input(context, 2)?];
        let (shape, products) = products.try_extract_tensor::<f32>()?;
        let (lengths, (_, bias)) = (lengths_of(&lengths)?, bias.try_extract_tensor::<f32>()?);
        // Rows that each text has: with those that fill it up, or without.
        let (rows, all): (Vec<usize>, i64) = match shape[..] {
            [texts, columns, all] if texts == lengths.len() as i64 => (vec![columns as usize; lengths.len()], all),
            [tokens, all] if tokens == lengths.iter().sum::<usize>() as i64 => (lengths.clone(), all),
            _ => return Err(ort::Error::new("expected a length a text")),
        };
        expect(all > 0 && (all as usize).is_multiple_of(3 * self.heads), "queries, keys and values of all heads")?;
        let hidden = all as usize / 3;
        expect(bias.len() == 3 * hidden, "a bias for queries, keys and values")?;
        let attention = Attention { heads: self.heads, width: hidden / self.heads, bias };
        let further = Further::of(context, 3)?;
        let all_rows = rows.iter().sum();
        let left = further.left(all_rows, 3 * hidden)?;
        let shape = [&shape[..shape.len() - 1], &[hidden as i64]].concat();
        // A part of a text each: its rows, where it begins, and which of its rows are the part's.
        let of_task = attention_rows(all_rows, self.threads);
        let (mut start, mut tasks) = (0, Vec::new());
        for (rows, length) in rows.into_iter().zip(lengths) {
            let text = Products {
                rows: &products[start * 3 * hidden..][..rows * 3 * hidden],
                left: part_of(left, start, rows),
            };
            tasks.extend((0..rows).step_by(of_task).map(|first| (text, length.min(rows), first)));
            start += rows;
        }
        let rows = tasks.iter().map(|(text, _, first)| of_task.min(text.rows.len() / (3 * hidden) - first));
        let attend = |((text, length, first), out): (&(Products<'_>, usize, usize), AttentionOut<'_>)| {
            attention.attend(*text, *length, *first, &mut Scratch::default(), out);
        };
        if let Some(mut written) = further.written(context, 1, &shape)? {
            let bytes: Vec<AttentionOut<'_>> = written.parts(rows)?.map(AttentionOut::Bytes).collect();
            return in_tasks(context, tasks.iter().zip(bytes), attend);
        }
        let mut out = output(context, 0, &shape)?;
        let (_, mut out) = out.try_extract_tensor_mut::<f32>()?;
        let floats = rows.map(|rows| {
            let (of_task, behind) = std::mem::take(&mut out).split_at_mut(rows * hidden);
            out = behind;
            AttentionOut::Floats(of_task)
        });
        in_tasks(context, tasks.iter().zip(floats), attend)
    }
}

/// What is left of `rows` rows from `start` on.
fn part_of(left: Option<Deferred<'_>>, start: usize, rows: usize) -> Option<Deferred<'_>> {
    left.map(|left| left.rows(start, rows))
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

/// The last axis, which must have so many elements.
fn width_of(shape: &[i64], expected: usize) -> ort::Result<usize> {
    expect(expected > 0 && shape.last() == Some(&(expected as i64)), "rows as wide as weights or biases")?;
    Ok(expected)
}

/// Rows of that width that one task computes.
fn task_rows(width: usize) -> usize {
    (TASK_ELEMENTS / width).max(1)
}

fn expect(is_right: bool, expected: &str) -> ort::Result<()> {
    if is_right { Ok(()) } else { Err(ort::Error::new(format!("expected {expected}"))) }
}
