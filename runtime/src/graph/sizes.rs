//! Sizes that a graph computes: 420 bytes with a ConstantOfShape would otherwise ask for any amount of memory.
//!
//! Every value that may become a size gets a bound, forwards through the nodes: what its elements are at most when all
//! of them are multiplied, where an axis of what a run computes counts as 1. A value without a bound is no size.
//!
//! This bounds what constants add to the sizes of a text, not those themselves: a sum or product may still broadcast
//! two vectors to a matrix, and a Concat repeat an axis.

use std::collections::HashMap;

use super::{
    fault::Fault,
    model::{Graph, Node},
    tensors::Tensor,
};

/// The most that constants may multiply a size by, as a power of two: 256 MiB of floats.
const MOST_BITS: f64 = 26.0;
/// The most products of two sizes that a run computes.
const MOST_PRODUCTS: u32 = 4;
/// The axes that a tensor has at most.
const MOST_AXES: f64 = 8.0;

/// A bound of a value's elements.
#[derive(Debug, Clone, Copy, Default)]
struct Bound {
    /// The logarithm of their product, each taken as at least 1 and a fraction as its inverse.
    bits: f64,
    /// How many there are at most.
    count: f64,
    /// Whether there are just so many.
    is_exact: bool,
    /// Whether there is at most one axis.
    is_list: bool,
    is_constant: bool,
    /// Products of two values that are not constant.
    products: u32,
}

impl Bound {
    fn of_values(values: &[f64], is_list: bool) -> Self {
        let bits = |value: &f64| match value.abs() {
            0.0 => 0.0,
            size => size.log2().abs(),
        };
        let count = values.len() as f64;
        let bits = values.iter().map(bits).sum();
        Self { bits, count, is_exact: true, is_list, is_constant: true, products: 0 }
    }

    fn of_tensor(tensor: &Tensor) -> Option<Self> {
        tensor.values().map(|values| Self::of_values(&values, tensor.dims.len() <= 1))
    }

    /// Of what is computed of the two, element by element, where that is at most a product.
    fn with(self, other: Self) -> Self {
        let is_list = self.is_list && other.is_list;
        let count = if is_list { self.count.max(other.count) } else { self.count * other.count };
        // One that may have fewer elements is repeated.
        let repeated = |bound: Self| match bound.is_exact && bound.count == count || bound.bits == 0.0 {
            true => bound.bits,
            false => bound.bits * count,
        };
        Self {
            bits: repeated(self) + repeated(other),
            count,
            is_exact: is_list && self.is_exact && other.is_exact,
            is_list,
            is_constant: self.is_constant && other.is_constant,
            products: self.products.saturating_add(other.products),
        }
    }

    fn joined(self, other: Self) -> Self {
        Self {
            bits: self.bits + other.bits,
            count: self.count + other.count,
            is_exact: self.is_exact && other.is_exact,
            is_list: self.is_list && other.is_list,
            is_constant: self.is_constant && other.is_constant,
            products: self.products.saturating_add(other.products),
        }
    }
}

/// What is known of the values so far.
#[derive(Debug, Default)]
struct Sizes<'a> {
    bounds: HashMap<&'a str, Bound>,
    /// The bits of all axes together, of constants of any size.
    axes: HashMap<&'a str, f64>,
}

/// Checks every size that a graph computes.
pub(super) fn check_sizes(graph: &Graph) -> Result<(), Fault> {
    let mut sizes = Sizes::default();
    graph.initializers.iter().for_each(|tensor| sizes.add(tensor.name, tensor));
    for node in &graph.nodes {
        let inputs = match node.op_type {
            "ConstantOfShape" => 0..1,
            "Expand" | "Tile" => 1..2,
            "Range" => 0..3,
            _ => 0..0,
        };
        let Some(bound) = inputs
            .map(|index| sizes.bound(node, index))
            .try_fold(Bound::default(), |all, bound| Some(all.joined(bound?)))
        else {
            return fail(node, "sizes made of constants and shapes", "others");
        };
        if bound.bits.is_nan() || bound.bits > MOST_BITS {
            return fail(node, "sizes of at most 2^26", &format!("2^{:.0}", bound.bits));
        }
        if bound.products > MOST_PRODUCTS {
            return fail(node, "sizes of at most 4 products", &bound.products.to_string());
        }
        sizes.follow(node);
    }
    Ok(())
}

impl<'a> Sizes<'a> {
    fn add(&mut self, name: &'a str, tensor: &Tensor) {
        self.axes.insert(name, tensor.dims.iter().map(|&dim| (dim.max(1) as f64).log2()).sum());
        if let Some(bound) = Bound::of_tensor(tensor) {
            self.bounds.insert(name, bound);
        }
    }

    fn bound(&self, node: &Node, index: usize) -> Option<Bound> {
        self.bounds.get(node.inputs.get(index)?).copied()
    }

    /// Adds what a node computes.
    fn follow(&mut self, node: &Node<'a>) {
        if let Some(tensor) =
            node.attribute("value").and_then(|value| value.tensor.as_ref()).filter(|_| is_constant(node))
        {
            node.outputs.iter().for_each(|output| self.add(output, tensor));
        } else if let Some(bound) = self.computed(node) {
            self.bounds.extend(node.outputs.iter().map(|&output| (output, bound)));
        }
    }

    fn computed(&self, node: &Node) -> Option<Bound> {
        let input = |index| self.bound(node, index);
        // Zero and one, of any shape.
        let unit = Bound { count: f64::INFINITY, ..Bound::default() };
        Some(match node.op_type {
            "Constant" => node.attributes.iter().find_map(|attribute| match attribute.name {
                "value_int" => Some(Bound::of_values(&[attribute.integer as f64], true)),
                "value_float" => Some(Bound::of_values(&[attribute.float.into()], true)),
                "value_ints" => {
                    let values: Vec<f64> = attribute.integers.iter().map(|&integer| integer as f64).collect();
                    Some(Bound::of_values(&values, true))
                }
                "value_floats" => {
                    let values: Vec<f64> = attribute.floats.iter().map(|&float| float.into()).collect();
                    Some(Bound::of_values(&values, true))
                }
                _ => None,
            })?,
            "Shape" => match (node.inputs.first().and_then(|name| self.axes.get(name)), input(0)) {
                // A list's only size is its length.
                (_, Some(list)) if list.is_list && list.count.is_finite() => {
                    Bound { bits: list.count.max(1.0).log2(), count: 1.0, is_list: true, ..Bound::default() }
                }
                (bits, _) => Bound {
                    bits: bits.copied().unwrap_or_default(),
                    count: MOST_AXES,
                    is_list: true,
                    ..Bound::default()
                },
            },
            "Identity" | "Cast" | "Abs" | "Neg" | "Floor" | "Ceil" => input(0)?,
            "Unsqueeze" | "Squeeze" | "Reshape" | "Transpose" => {
                let bound = input(0)?;
                // A Reshape to one axis is told by its shape, of one element.
                let is_list = bound.count <= 1.0 || (node.op_type == "Reshape" && input(1)?.count <= 1.0);
                Bound { is_list, ..bound }
            }
            "Slice" | "Split" | "ReduceProd" => Bound { is_exact: false, ..input(0)? },
            "Concat" => (0..node.inputs.len()).map(input).try_fold(
                Bound { is_exact: true, is_list: true, is_constant: true, ..Bound::default() },
                |all, bound| Some(all.joined(bound?)),
            )?,
            "Gather" => {
                let (from, indices) = (input(0)?, input(1)?);
                // An element may be taken as often as there are indices.
                let bits = if from.bits == 0.0 { 0.0 } else { from.bits * indices.count.max(1.0) };
                let count = if from.is_list { indices.count } else { from.count * indices.count };
                let is_exact = from.is_list && indices.is_exact;
                Bound { bits, count, is_exact, is_list: from.is_list && indices.is_list, ..from }
            }
            "ConstantOfShape" => {
                let shape = input(0)?;
                let value = node.attribute("value").and_then(|value| value.tensor.as_ref());
                let is_unit =
                    value.is_none_or(|tensor| Bound::of_tensor(tensor).is_some_and(|value| value.bits == 0.0));
                // Of a shape that is known, not that of a run.
                let count = if shape.count <= 1.0 { shape.bits.exp2() } else { f64::INFINITY };
                is_unit.then_some(Bound { count, is_list: shape.count <= 1.0, ..Bound::default() })?
            }
            "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "And" | "Or" => {
                input(0).zip(input(1)).map_or(unit, |(left, right)| Bound { bits: 0.0, ..left.with(right) })
            }
            "Not" | "Sign" => input(0).map_or(unit, |bound| Bound { bits: 0.0, ..bound }),
            "Where" => input(0)?.with(input(1)?).with(input(2)?),
            "Min" | "Max" => {
                (1..node.inputs.len()).map(input).try_fold(input(0)?, |all, bound| Some(all.with(bound?)))?
            }
            "Add" | "Sub" => {
                let sum = input(0)?.with(input(1)?);
                Bound { bits: sum.bits + sum.count, ..sum }
            }
            "Mul" => {
                let (left, right) = (input(0)?, input(1)?);
                let product = left.with(right);
                let products = u32::from(!left.is_constant && !right.is_constant);
                Bound { products: product.products.saturating_add(products), ..product }
            }
            // What a run divides by may be near 0.
            "Div" | "Mod" if input(1)?.is_constant => input(0)?.with(input(1)?),
            _ => return None,
        })
    }
}

fn is_constant(node: &Node) -> bool {
    node.op_type == "Constant"
}

fn fail(node: &Node, expected: &str, got: &str) -> Result<(), Fault> {
    let name = node.outputs.first().copied().unwrap_or_default();
    Err(Fault { expected: format!("{expected} for the {} {name:?}", node.op_type), got: got.to_owned() })
}
