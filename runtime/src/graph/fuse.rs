//! Graphs with operators of our own where several of ONNX Runtime's stand ([`crate::fused`]).
//!
//! What is replaced is what `nimbert-train` writes for integers: the way of numbers from one product of bytes to the next; and its
//! attention of floats, with which padding can go from graphs of floats too. Where a way between bytes begins and ends with operators of
//! ours, each row of its bytes has a scale and a zero point, which the product leaves to the operator behind it: rows differ, and one scale
//! for all of them costs most of what integers lose (benches/runs/2026-11-28-fidelity.md). Whatever is only similar stays. The graph was
//! checked before.

use std::collections::{HashMap, HashSet};

use super::{
    check::{FLOAT, UINT8, is_bias_of},
    fault::Fault,
    model::{Model, Node},
    operators::MICROSOFT,
    pack::{MASK, is_by_text, pack},
    rewrite::{Changes, Part, Wiring, constant, float_attribute, integer_attribute, node, rewrite},
};
use crate::fused::{ADD_LAYER_NORM, ATTENTION, BIAS_GELU, DOMAIN, EPSILON, HEADS, ROW_ZERO_POINT};

/// Of a LayerNormalization that does not say it.
const USUAL_EPSILON: f32 = 1e-5;

/// The graph with fused operators, and without padding between them if it can be so; none where there is nothing to fuse.
///
/// # Errors
/// If it is no graph.
pub(super) fn fuse(model: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
    let parsed = Model::parse(model)?;
    let changes = Fusion(Wiring::new(&parsed)).changes();
    if changes.is_empty() {
        return Ok(None);
    }
    let fused = rewrite(model, &parsed, &changes)?;
    Ok(Some(pack(&fused)?.unwrap_or(fused)))
}

/// What is looked for in a graph.
struct Fusion<'a>(Wiring<'a>);

/// A QuantizeLinear to bytes by one scale, perhaps of numbers whose channels are multiplied before.
struct Quantize<'a> {
    /// Where its nodes are.
    places: Vec<usize>,
    factors: Option<&'a str>,
    scale: &'a str,
    zero_point: &'a str,
    bytes: &'a str,
}

/// What stands behind a product of bytes, and perhaps before the next.
struct Way<'a> {
    /// Where ours goes. All other nodes of it go.
    place: usize,
    /// What it reads of the product, which nothing else reads.
    product: &'a str,
    middle: Middle<'a>,
    quantize: Option<Quantize<'a>>,
}

/// What is computed there.
enum Middle<'a> {
    /// GELU of a sum.
    Gelu { bias: &'a str },
    /// The sum with another matrix, normalized, which others read too; `place` is that of the normalization.
    Norm { place: usize, residual: &'a str, weight: &'a str, bias: &'a str, epsilon: f32, y: &'a str },
    /// Attention of floats, whose product is part of it.
    FloatAttention { node: &'a Node<'a>, heads: i64 },
    /// The same of bytes, and what makes a matrix of it, if something does: its place and the shape.
    Attention { node: &'a Node<'a>, heads: i64, reshape: Option<(usize, &'a str)> },
}

/// What goes with bytes whose rows have scales and zero points of their own, by its names.
struct Rows {
    /// What a product leaves of them to its reader.
    left: String,
    /// What it takes for their zero point.
    zero_point: String,
}

impl Rows {
    fn of(bytes: &str) -> Self {
        let [left, zero_point] = ["rows", "rows/zero_point"].map(|part| format!("{bytes}/{part}"));
        Self { left, zero_point }
    }
}

/// The sums of a product's weights, by which its reader makes up for the rows' own zero points.
fn sums_of(product: &str) -> String {
    format!("{product}/sums")
}

impl<'a> Way<'a> {
    /// Operators of ours in its places. `read` goes with the bytes that the product reads, if their rows have scales, and `own` with its
    /// own bytes.
    fn fused(&self, read: Option<(&Rows, i64)>, own: Option<&Rows>) -> Vec<(usize, Vec<Part>)> {
        let Self { place, product, middle, quantize } = self;
        let others = quantize.iter().flat_map(|quantize| &quantize.places);
        let mut made: Vec<(usize, Vec<Part>)> = others.map(|other| (*other, Vec::new())).collect();
        let bytes = match (middle, quantize) {
            // Bytes become a matrix where numbers did.
            (Middle::Attention { node: attention, reshape: Some((place, shape)), .. }, Some(quantize)) => {
                let output = attention.outputs[0];
                made.push((*place, vec![node(("", "Reshape"), &[output, shape], &[quantize.bytes], &[])]));
                Some(output)
            }
            (_, quantize) => quantize.as_ref().map(|quantize| quantize.bytes),
        };
        // What all of bytes have behind their own inputs, and outputs.
        let product = match middle {
            Middle::Attention { .. } | Middle::FloatAttention { .. } => format!("{product}/product"),
            _ => (*product).to_owned(),
        };
        let (product, sums) = (product.as_str(), sums_of(&product));
        let mut tail = read.map_or(["", ""], |(rows, _)| [&rows.left, &sums]).to_vec();
        if let Some(Quantize { factors, scale, zero_point, .. }) = quantize {
            tail.push(factors.unwrap_or_default());
            tail.extend(own.map_or(vec![*zero_point, scale], |rows| vec![rows.zero_point.as_str()]));
        }
        let written = bytes.into_iter().chain(own.map(|rows| rows.left.as_str()));
        let mut parts = match middle {
            Middle::Gelu { bias } => {
                let inputs = [&[product, bias], &tail[..]].concat();
                vec![node((DOMAIN, BIAS_GELU), &inputs, &written.collect::<Vec<_>>(), &[])]
            }
            Middle::Norm { place, residual, weight, bias, epsilon, y } => {
                made.push((*place, Vec::new()));
                let inputs = [&[product, residual, weight, bias], &tail[..]].concat();
                let outputs: Vec<&str> = [*y].into_iter().chain(written).collect();
                vec![node((DOMAIN, ADD_LAYER_NORM), &inputs, &outputs, &[float_attribute(EPSILON, *epsilon)])]
            }
            Middle::Attention { node: attention, heads, .. } => {
                let [x, weight, bias, scale, weight_scale, lengths, zero_point] = attention.inputs[..7] else {
                    return Vec::new();
                };
                let weight_zero_point = attention.inputs.get(7).copied().unwrap_or_default();
                let factors = [x, weight, scale, weight_scale, zero_point, weight_zero_point];
                let mut parts = byte_product(product, factors, read);
                let inputs = [&[product, lengths, bias], &tail[..]].concat();
                let heads = integer_attribute(HEADS, *heads);
                let outputs: Vec<&str> = [""].into_iter().chain(written).collect();
                parts.push(node((DOMAIN, ATTENTION), &inputs, &outputs, &[heads]));
                parts
            }
            Middle::FloatAttention { node: attention, heads } => {
                let [x, weight, bias, lengths] = attention.inputs[..] else { return Vec::new() };
                let heads = integer_attribute(HEADS, *heads);
                vec![
                    node(("", "MatMul"), &[x, weight], &[product], &[]),
                    node((DOMAIN, ATTENTION), &[product, lengths, bias], &[attention.outputs[0]], &[heads]),
                ]
            }
        };
        if let Some(rows) = own {
            parts.insert(0, constant(&rows.zero_point, (UINT8, &[]), &[ROW_ZERO_POINT]));
        }
        made.push((*place, parts));
        made
    }

    /// Whether its product is part of attention of bytes, and what has the product's name, or attention's.
    fn key(&self) -> (bool, &'a str) {
        (matches!(self.middle, Middle::Attention { .. }), self.product)
    }

    /// Whether each channel has a factor, if channels are multiplied: one for all would be a factor too.
    fn has_factors_that_fit(&self, wiring: &Wiring<'a>) -> bool {
        let factors = self.quantize.as_ref().and_then(|quantize| quantize.factors);
        factors.is_none_or(|factors| {
            self.width(wiring).is_some_and(|width| wiring.dims(factors) == Some([width].as_slice()))
        })
    }

    /// The numbers of a row of what it makes; none: the graph does not say.
    fn width(&self, wiring: &Wiring<'a>) -> Option<i64> {
        match self.middle {
            Middle::Gelu { bias } | Middle::Norm { bias, .. } => wiring.dims(bias)?.first().copied(),
            Middle::Attention { node, .. } | Middle::FloatAttention { node, .. } => {
                wiring.dims(node.inputs.get(2)?)?.first().map(|all| all / 3)
            }
        }
    }
}

/// The names of what is computed of a product's weights.
const PARTS: [&str; 5] = ["one", "ones", "integer_sums", "float_sums", "sums"];

/// The product called `output` of bytes and a weight with their scales and zero points; `rows` go with the bytes, of which each has so many,
/// if these have scales and zero points by row, which the product leaves to its reader, with the sums of its weights.
fn byte_product(
    output: &str,
    [bytes, weight, scale, weight_scale, zero_point, weight_zero_point]: [&str; 6],
    rows: Option<(&Rows, i64)>,
) -> Vec<Part> {
    let product = |scale: &str, zero_point: &str| {
        let inputs = [bytes, weight, scale, weight_scale, zero_point, weight_zero_point];
        node((MICROSOFT, "MatMulIntegerToFloat"), &inputs, &[output], &[])
    };
    let Some((rows, width)) = rows else { return vec![product(scale, zero_point)] };
    let [one, ones, integers, floats, sums] = PARTS.map(|part| format!("{output}/{part}"));
    let of_ones = vec![1; width.unsigned_abs() as usize];
    // Constants, which ONNX Runtime computes when it loads the graph: without the weights as floats, which would be large.
    vec![
        constant(&one, (FLOAT, &[]), &1.0f32.to_le_bytes()),
        constant(&ones, (UINT8, &[1, width.unsigned_abs()]), &of_ones),
        node(("", "MatMulInteger"), &[&ones, weight], &[&integers], &[]),
        node(("", "Cast"), &[&integers], &[&floats], &[integer_attribute("to", FLOAT.into())]),
        node(("", "Mul"), &[&floats, weight_scale], &[&sums], &[]),
        product(&one, &rows.zero_point),
    ]
}

/// By what a way knows its product.
fn key_of<'a>(product: &Node<'a>) -> (bool, &'a str) {
    (is_attention(product), product.outputs[0])
}

impl<'a> Fusion<'a> {
    fn changes(&self) -> Changes {
        let ways = self.0.nodes.iter().enumerate().filter_map(|at| self.way(at));
        let ways: Vec<Way<'a>> = ways.filter(|way| way.has_factors_that_fit(&self.0)).collect();
        let keys: HashSet<(bool, &str)> = ways.iter().map(Way::key).collect();
        // By products whose bytes have a scale a row: those bytes, and the width of a row.
        let mut by_row: HashMap<(bool, &str), (&str, i64)> = HashMap::new();
        let mut changes = Changes::new();
        for way in &ways {
            let (Some(quantize), Some(width)) = (&way.quantize, way.width(&self.0)) else { continue };
            for (place, product) in self.products_by_row((quantize, width), &keys).into_iter().flatten() {
                by_row.insert(key_of(product), (quantize.bytes, width));
                let [bytes, weight, scale, weight_scale, zero_point, ..] = product.inputs[..] else { continue };
                if !is_attention(product) {
                    let factors = [bytes, weight, scale, weight_scale, zero_point, ""];
                    let rows = Some((&Rows::of(quantize.bytes), width));
                    changes.insert(place, byte_product(product.outputs[0], factors, rows));
                }
            }
        }
        let rows: HashSet<&str> = by_row.values().map(|(bytes, _)| *bytes).collect();
        for way in &ways {
            let read = by_row.get(&way.key()).map(|(bytes, width)| (Rows::of(bytes), *width));
            let own = way.quantize.as_ref().filter(|quantize| rows.contains(quantize.bytes));
            let is_of_floats = matches!(way.middle, Middle::FloatAttention { .. });
            if read.is_some() || way.quantize.is_some() || is_of_floats {
                let own = own.map(|quantize| Rows::of(quantize.bytes));
                changes.extend(way.fused(read.as_ref().map(|(rows, width)| (rows, *width)), own.as_ref()));
            }
        }
        changes
    }

    /// The products that read bytes of that width, if a way of `keys` begins behind each of them; none where one reads them by another scale
    /// than they are made with, as rows of another width, with a weight that is no constant matrix or has a zero point, or adds a bias,
    /// which the scale is not for.
    fn products_by_row(
        &self,
        (quantize, width): (&Quantize<'a>, i64),
        keys: &HashSet<(bool, &str)>,
    ) -> Option<Vec<(usize, &'a Node<'a>)>> {
        let mut products = Vec::new();
        for &reader in self.0.readers(quantize.bytes) {
            let node = self.0.nodes.get(reader)?;
            match node.op_type {
                // The same rows, by text.
                "Reshape" => {
                    let readers = self.0.readers(node.outputs.first()?);
                    let is_attention = |place: &usize| self.0.nodes.get(*place).is_some_and(is_attention);
                    if !is_by_text(&self.0, node) || !readers.iter().all(is_attention) {
                        return None;
                    }
                    products.extend(readers);
                }
                _ => products.push(reader),
            }
        }
        let known = |place: usize| {
            let product = self.0.nodes.get(place)?;
            let (weight, quantization, rest) = match product.inputs[..] {
                [_, weight, _, scale, _, _, zero, ref rest @ ..] if is_attention(product) => {
                    (weight, [scale, zero], rest)
                }
                [_, weight, scale, _, zero, ref rest @ ..] if product.op_type == "MatMulIntegerToFloat" => {
                    (weight, [scale, zero], rest)
                }
                _ => return None,
            };
            let is_plain =
                quantization == [quantize.scale, quantize.zero_point] && rest.iter().all(|name| name.is_empty());
            // Stored in fewer bits, it is made by nodes.
            let is_matrix = match self.0.dims(weight) {
                Some(dims) => dims.len() == 2 && dims[0] == width,
                None => self.0.is_constant(weight),
            };
            let output = *product.outputs.first()?;
            let parts = PARTS.iter().flat_map(|part| [format!("{output}/{part}"), format!("{output}/product/{part}")]);
            let is_free = parts.into_iter().all(|name| self.0.is_free(&name));
            (is_plain && is_matrix && is_free && keys.contains(&key_of(product))).then_some((place, product))
        };
        let products: Vec<_> = products.into_iter().map(known).collect::<Option<_>>()?;
        let Rows { left, zero_point } = Rows::of(quantize.bytes);
        let is_free = self.0.is_free(&left) && self.0.is_free(&zero_point);
        (!products.is_empty() && is_free).then_some(products)
    }

    /// What begins at a node, if it is known.
    fn way(&self, (place, node): (usize, &'a Node<'a>)) -> Option<Way<'a>> {
        match (node.domain, node.op_type) {
            ("" | "ai.onnx", "LayerNormalization") => self.add_layer_norm(place, node),
            (MICROSOFT, "BiasGelu") => self.bias_gelu(place, node),
            (MICROSOFT, "QAttention") => self.attention(place, node),
            (MICROSOFT, "Attention") => self.float_attention(place, node),
            _ => None,
        }
    }

    fn bias_gelu(&self, place: usize, gelu: &'a Node<'a>) -> Option<Way<'a>> {
        let ([product, bias], [y]) = (&gelu.inputs[..], &gelu.outputs[..]) else { return None };
        let quantize =
            self.only_quantize(y).filter(|_| self.0.is_of_type(bias, FLOAT) && self.0.rank(bias) == Some(1))?;
        let is_own = self.0.only_reader(product).is_some_and(|(reader, _)| reader == place);
        is_own.then_some(Way { place, product, middle: Middle::Gelu { bias }, quantize: Some(quantize) })
    }

    /// The sum before a LayerNormalization, of a product and what went into its block.
    fn add_layer_norm(&self, place: usize, norm: &'a Node<'a>) -> Option<Way<'a>> {
        let ([x, weight, bias], [y]) = (&norm.inputs[..], &norm.outputs[..]) else { return None };
        let is_usual = norm.attributes.iter().all(|attribute| match attribute.name {
            "epsilon" => true,
            "axis" => attribute.integer == -1,
            "stash_type" => attribute.integer == 1,
            _ => false,
        });
        let is_vector = |name: &str| self.0.is_of_type(name, FLOAT) && self.0.rank(name) == Some(1);
        let is_usual = is_usual && is_vector(weight) && is_vector(bias);
        let quantize = self.0.readers(y).iter().find_map(|reader| self.quantize(*reader));
        let (sum_place, sum) = self.0.maker(x)?;
        // Both have the shape of the block's input then; elsewhere ONNX Runtime may repeat the smaller one.
        let is_product = |name: &str| {
            let is_own = self.0.only_reader(name).is_some_and(|(reader, _)| reader == sum_place);
            is_own && self.0.maker(name).is_some_and(|(_, node)| node.op_type == "MatMulIntegerToFloat")
        };
        let (product, residual) = match sum.inputs[..] {
            [a, b] if is_product(a) && self.is_normalized(b) => (a, b),
            [a, b] if is_product(b) && self.is_normalized(a) => (b, a),
            _ => return None,
        };
        if !is_usual || sum.op_type != "Add" || !sum.domain.is_empty() || self.0.readers(x).len() > 1 {
            return None;
        }
        let epsilon = norm.attribute("epsilon").map_or(USUAL_EPSILON, |attribute| attribute.float);
        let middle = Middle::Norm { place, residual, weight, bias, epsilon, y };
        Some(Way { place: sum_place, product, middle, quantize })
    }

    /// The name and the number of heads of attention by these inputs, if it is as `nimbert-train` writes it.
    fn usual_attention(&self, attention: &'a Node<'a>, [weight, bias, lengths]: [&str; 3]) -> Option<(&'a str, i64)> {
        let is_usual = attention.attributes.iter().all(|attribute| match attribute.name {
            "num_heads" => true,
            "unidirectional" => attribute.integer == 0,
            _ => false,
        });
        // ONNX Runtime would refuse another size when it loads the graph. Stored in fewer bits, the weight is made by nodes.
        let fits = self.0.is_of_type(bias, FLOAT)
            && match self.0.dims(weight) {
                None => self.0.is_constant(weight) && self.0.rank(bias) == Some(1),
                dims => is_bias_of(dims, self.0.dims(bias)),
            };
        let [output] = attention.outputs[..] else { return None };
        let is_free = self.0.is_free(&format!("{output}/product"));
        let heads = attention.attribute("num_heads")?.integer;
        (is_usual && fits && is_free && self.is_lengths(lengths)).then_some((output, heads))
    }

    /// Attention of floats, whose product becomes a node of its own.
    fn float_attention(&self, place: usize, attention: &'a Node<'a>) -> Option<Way<'a>> {
        let [_, weight, bias, lengths] = attention.inputs[..] else { return None };
        let (product, heads) = self.usual_attention(attention, [weight, bias, lengths])?;
        let middle = Middle::FloatAttention { node: attention, heads };
        // All of an Attention is of one type.
        let is_of_floats = self.0.tensor(weight).is_none_or(|tensor| tensor.data_type == FLOAT);
        is_of_floats.then_some(Way { place, product, middle, quantize: None })
    }

    /// Attention of quantized queries, keys and values, whose product becomes a node of its own.
    fn attention(&self, place: usize, attention: &'a Node<'a>) -> Option<Way<'a>> {
        let [_, weight, bias, _, _, lengths, _, ref rest @ ..] = attention.inputs[..] else { return None };
        let (output, heads) = self.usual_attention(attention, [weight, bias, lengths])?;
        if rest.len() > 1 {
            return None;
        }
        let reshape = self.0.only_reader(output).filter(|(_, reader)| {
            reader.op_type == "Reshape" && reader.attributes.is_empty() && !self.0.has_type(output)
        });
        let reshape = reshape.and_then(|(place, node)| Some((place, *node.inputs.get(1)?, *node.outputs.first()?)));
        let quantize = self.only_quantize(reshape.map_or(output, |(_, _, matrix)| matrix))?;
        let reshape = reshape.map(|(place, shape, _)| (place, shape));
        let middle = Middle::Attention { node: attention, heads, reshape };
        Some(Way { place, product: output, middle, quantize: Some(quantize) })
    }

    /// Whether a value is how many tokens each text has: the sum of the mask's rows.
    fn is_lengths(&self, name: &str) -> bool {
        let Some((_, sum)) = self.0.maker(name).filter(|(_, sum)| sum.op_type == "ReduceSum") else { return false };
        let [mask, axes] = sum.inputs[..] else { return false };
        let is_mask = self.0.maker(mask).is_some_and(|(_, cast)| cast.op_type == "Cast" && cast.inputs == [MASK]);
        let drops_axis = sum.attribute("keepdims").is_some_and(|attribute| attribute.integer == 0);
        is_mask && drops_axis && self.0.integers(axes).is_some_and(|axes| axes == [1])
    }

    /// Whether a value is that of a LayerNormalization, perhaps as a matrix.
    fn is_normalized(&self, name: &str) -> bool {
        let maker = match self.0.maker(name) {
            Some((_, reshape)) if reshape.op_type == "Reshape" => {
                reshape.inputs.first().and_then(|name| self.0.maker(name))
            }
            maker => maker,
        };
        maker.is_some_and(|(_, maker)| maker.op_type == "LayerNormalization")
    }

    /// What makes bytes of a value, if nothing else reads it.
    fn only_quantize(&self, value: &str) -> Option<Quantize<'a>> {
        self.0.only_reader(value).and_then(|(reader, _)| self.quantize(reader))
    }

    /// The node there, or the one that reads alone what that one multiplies, if it makes bytes for products.
    fn quantize(&self, place: usize) -> Option<Quantize<'a>> {
        let node = self.0.nodes.get(place)?;
        if let ("" | "ai.onnx", "Mul", [_, factors], [multiplied]) =
            (node.domain, node.op_type, &node.inputs[..], &node.outputs[..])
        {
            let is_vector = self.0.is_of_type(factors, FLOAT) && self.0.rank(factors) == Some(1);
            let (behind, _) =
                self.0.only_reader(multiplied).filter(|(_, behind)| is_vector && behind.op_type == "QuantizeLinear")?;
            let quantize = self.quantize(behind)?;
            return Some(Quantize { places: vec![place, behind], factors: Some(factors), ..quantize });
        }
        let ([_, scale, zero_point], [bytes]) = (&node.inputs[..], &node.outputs[..]) else { return None };
        // With one scale an axis says nothing.
        let is_quantize = node.op_type == "QuantizeLinear" && node.attributes.iter().all(|other| other.name == "axis");
        let has_one_scale = [(scale, FLOAT), (zero_point, UINT8)].iter().all(|(name, data_type)| {
            let is_one = self.0.tensor(name).is_some_and(|tensor| tensor.dims.iter().all(|size| *size == 1));
            is_one && self.0.is_of_type(name, *data_type)
        });
        // What multiplies floats again was meant for ONNX Runtime's own fusions.
        let is_factor = |reader: &usize, bytes: &str| {
            self.0.nodes.get(*reader).is_some_and(|node| {
                matches!(node.op_type, "MatMulIntegerToFloat" | "QAttention") && node.inputs.first() == Some(&bytes)
            })
        };
        let mut readers = self.0.readers(bytes).iter();
        let is_for_products = readers.all(|reader| match self.0.nodes.get(*reader) {
            Some(reshape) if reshape.op_type == "Reshape" => {
                let shaped = reshape.outputs.first();
                shaped.is_some_and(|name| self.0.readers(name).iter().all(|reader| is_factor(reader, name)))
            }
            _ => is_factor(reader, bytes),
        });
        let places = vec![place];
        (is_quantize && has_one_scale && is_for_products).then_some(Quantize {
            places,
            factors: None,
            scale,
            zero_point,
            bytes,
        })
    }
}

fn is_attention(node: &Node<'_>) -> bool {
    node.domain == MICROSOFT && node.op_type == "QAttention"
}
