//! Graphs with operators of our own where several of ONNX Runtime's stand ([`crate::fused`]).
//!
//! What is replaced is what `nimbert-train` writes for integers: the way of numbers from one product of bytes to the next, and in
//! feed-forward blocks the scales of those products.
//! Whatever is only similar stays. The graph was checked before.

use std::collections::{HashMap, HashSet};

use super::{
    check::{FLOAT, UINT8, is_bias_of},
    fault::Fault,
    model::{Model, Node},
    operators::MICROSOFT,
    pack::{MASK, pack},
    rewrite::{Changes, Part, Wiring, constant, float_attribute, integer_attribute, node, rewrite},
};
use crate::fused::{
    ADD_LAYER_NORM_BY_ROW, ADD_LAYER_NORM_QUANTIZE, ATTENTION_QUANTIZE, BIAS_GELU_BY_ROW, BIAS_GELU_QUANTIZE, DOMAIN,
    EPSILON, GELU_ZERO_POINT, HEADS, NORM_ZERO_POINT, SCALED_ADD_LAYER_NORM, SCALED_ADD_LAYER_NORM_QUANTIZE,
};

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

/// A QuantizeLinear to bytes by one scale.
struct Quantize<'a> {
    place: usize,
    scale: &'a str,
    zero_point: &'a str,
    bytes: &'a str,
}

/// GELU of a sum, to bytes.
struct Gelu<'a> {
    place: usize,
    x: &'a str,
    bias: &'a str,
    quantize: Quantize<'a>,
}

/// A sum, normalized, and perhaps to bytes beside those who read the numbers.
struct Norm<'a> {
    sum: usize,
    place: usize,
    terms: [&'a str; 2],
    weight: &'a str,
    bias: &'a str,
    epsilon: f32,
    y: &'a str,
    quantize: Option<Quantize<'a>>,
}

impl Gelu<'_> {
    fn fused(&self) -> Vec<(usize, Vec<Part>)> {
        let Self { place, x, bias, quantize } = self;
        let inputs = [x, bias, quantize.scale, quantize.zero_point];
        let fused = node((DOMAIN, BIAS_GELU_QUANTIZE), &inputs, &[quantize.bytes], &[]);
        vec![(*place, vec![fused]), (quantize.place, Vec::new())]
    }
}

impl Norm<'_> {
    /// One operator for all of it; nothing where there are no bytes.
    fn fused(&self) -> Vec<(usize, Vec<Part>)> {
        let Self { terms: [a, b], weight, bias, y, quantize, .. } = self;
        let Some(Quantize { scale, zero_point, bytes, .. }) = quantize else { return Vec::new() };
        self.with((ADD_LAYER_NORM_QUANTIZE, &[a, b, weight, bias, scale, zero_point]), &[y, bytes])
    }

    /// An operator in the places of all of it.
    fn with(&self, (operator, inputs): (&str, &[&str]), outputs: &[&str]) -> Vec<(usize, Vec<Part>)> {
        let fused = node((DOMAIN, operator), inputs, outputs, &[float_attribute(EPSILON, self.epsilon)]);
        let others = [self.place].into_iter().chain(self.quantize.as_ref().map(|quantize| quantize.place));
        std::iter::once((self.sum, vec![fused])).chain(others.map(|place| (place, Vec::new()))).collect()
    }
}

impl<'a> Fusion<'a> {
    fn changes(&self) -> Changes {
        let mut changes = Changes::new();
        let places = || self.0.nodes.iter().enumerate();
        let norms = places().filter(|(_, node)| is_standard(node) && node.op_type == "LayerNormalization");
        let norms: Vec<Norm<'a>> = norms.filter_map(|(place, node)| self.add_layer_norm(place, node)).collect();
        changes.extend(norms.iter().flat_map(Norm::fused));
        let by_sum: HashMap<usize, &Norm<'a>> = norms.iter().map(|norm| (norm.sum, norm)).collect();
        let with_bytes = norms.iter().filter_map(|norm| Some((norm.quantize.as_ref()?.bytes, norm)));
        let by_bytes: HashMap<&str, &Norm<'a>> = with_bytes.collect();
        // Normalizations that have a form by row already: each has one.
        let mut taken = HashSet::new();
        for (place, node) in places().filter(|(_, node)| node.domain == MICROSOFT) {
            match node.op_type {
                "BiasGelu" => {
                    let Some(gelu) = self.bias_gelu(place, node) else { continue };
                    changes.extend(self.by_row(&gelu, &by_bytes, &by_sum, &mut taken).unwrap_or_else(|| gelu.fused()));
                }
                "QAttention" => changes.extend(self.attention(place, node).into_iter().flatten()),
                _ => {}
            }
        }
        changes
    }

    fn bias_gelu(&self, place: usize, gelu: &Node<'a>) -> Option<Gelu<'a>> {
        let [x, bias] = gelu.inputs[..] else { return None };
        let quantize = self.only_quantize(gelu).filter(|_| self.0.is_of_type(bias, FLOAT))?;
        Some(Gelu { place, x, bias, quantize })
    }

    /// The whole of a feed-forward block, from one normalization to the next, whose bytes have a scale a row: what both products of it
    /// give is to be multiplied by that, which is done where it is read. Rows differ: one scale for all of them costs most of what
    /// integers lose (benches/runs/2026-11-28-fidelity.md).
    fn by_row(
        &self,
        gelu: &Gelu<'a>,
        by_bytes: &HashMap<&str, &Norm<'a>>,
        by_sum: &HashMap<usize, &Norm<'a>>,
        taken: &mut HashSet<usize>,
    ) -> Option<Vec<(usize, Vec<Part>)>> {
        let (first_place, first) = self.0.maker(gelu.x)?;
        let (second_place, second) = self.0.only_reader(gelu.quantize.bytes)?;
        let [first_bytes, second_product] = [*first.inputs.first()?, *second.outputs.first()?];
        let before = by_bytes.get(first_bytes)?;
        let (sum, _) = self.0.only_reader(second_product)?;
        let behind = by_sum.get(&sum)?;
        let residual = match behind.terms {
            [a, b] if a == second_product => b,
            [a, b] if b == second_product => a,
            _ => return None,
        };
        let is_only_reader =
            |name: &str, place: usize| self.0.only_reader(name).is_some_and(|(other, _)| other == place);
        if !is_only_reader(first_bytes, first_place) || !is_only_reader(gelu.x, gelu.place) {
            return None;
        }
        let [first_scales, second_scales] = [first_bytes, gelu.quantize.bytes].map(|bytes| format!("{bytes}/scales"));
        if ![&first_scales, &second_scales].iter().all(|name| self.0.is_free(name)) {
            return None;
        }
        if [before, behind].iter().any(|norm| taken.contains(&norm.sum)) {
            return None;
        }
        let mut changes = before.with(
            (ADD_LAYER_NORM_BY_ROW, &[before.terms[0], before.terms[1], before.weight, before.bias]),
            &[before.y, first_bytes, &first_scales],
        );
        changes.push((first_place, self.unscaled(first, before.quantize.as_ref()?, NORM_ZERO_POINT)?));
        let inputs = [gelu.x, &first_scales, gelu.bias];
        let of_gelu = node((DOMAIN, BIAS_GELU_BY_ROW), &inputs, &[gelu.quantize.bytes, &second_scales], &[]);
        changes.extend([(gelu.place, vec![of_gelu]), (gelu.quantize.place, Vec::new())]);
        changes.push((second_place, self.unscaled(second, &gelu.quantize, GELU_ZERO_POINT)?));
        let inputs = [second_product, &second_scales, residual, behind.weight, behind.bias];
        changes.extend(match &behind.quantize {
            None => behind.with((SCALED_ADD_LAYER_NORM, &inputs), &[behind.y]),
            Some(Quantize { scale, zero_point, bytes, .. }) => {
                let inputs = [&inputs[..], &[scale, zero_point]].concat();
                behind.with((SCALED_ADD_LAYER_NORM_QUANTIZE, &inputs), &[behind.y, bytes])
            }
        });
        taken.extend([before.sum, behind.sum]);
        Some(changes)
    }

    /// A product of bytes around that zero point, without their scale; none where it reads them by another scale than they are made
    /// with, or adds a bias, which the scale is not for.
    fn unscaled(&self, product: &Node<'a>, quantize: &Quantize<'a>, zero_point: u8) -> Option<Vec<Part>> {
        let [bytes, weight, scale, weight_scale, zero, ref rest @ ..] = product.inputs[..] else { return None };
        let is_plain = product.op_type == "MatMulIntegerToFloat" && rest.get(1).is_none_or(|bias| bias.is_empty());
        let is_plain = is_plain && scale == quantize.scale && zero == quantize.zero_point;
        let output = *product.outputs.first()?;
        let [one, zero] = ["one", "zero_point"].map(|part| format!("{output}/{part}"));
        if !is_plain || !self.0.is_free(&one) || !self.0.is_free(&zero) {
            return None;
        }
        let inputs = [bytes, weight, &one, weight_scale, &zero, rest.first().copied().unwrap_or_default()];
        Some(vec![
            constant(&one, FLOAT, &1.0f32.to_le_bytes()),
            constant(&zero, UINT8, &[zero_point]),
            node((MICROSOFT, "MatMulIntegerToFloat"), &inputs, &[output], &[]),
        ])
    }

    /// The sum before a LayerNormalization, of a product and what went into its block.
    fn add_layer_norm(&self, place: usize, norm: &Node<'a>) -> Option<Norm<'a>> {
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
        let (first, sum) = self.0.maker(x)?;
        let [a, b] = sum.inputs[..] else { return None };
        // Both have the shape of the block's input then; elsewhere ONNX Runtime may repeat the smaller one.
        let is_product =
            |name: &str| self.0.maker(name).is_some_and(|(_, node)| node.op_type == "MatMulIntegerToFloat");
        let are_alike = is_product(a) && self.is_normalized(b) || is_product(b) && self.is_normalized(a);
        if !is_usual || sum.op_type != "Add" || !sum.domain.is_empty() || !are_alike || self.0.readers(x).len() > 1 {
            return None;
        }
        let epsilon = norm.attribute("epsilon").map_or(USUAL_EPSILON, |attribute| attribute.float);
        Some(Norm { sum: first, place, terms: [a, b], weight, bias, epsilon, y, quantize })
    }

    /// The product for queries, keys and values as a node of its own, and attention behind it.
    fn attention(&self, place: usize, attention: &Node<'a>) -> Option<Vec<(usize, Vec<Part>)>> {
        let [x, weight, bias, scale, weight_scale, lengths, zero_point, ref rest @ ..] = attention.inputs[..] else {
            return None;
        };
        let weight_zero_point = rest.first().copied().unwrap_or_default();
        let is_usual = attention.attributes.iter().all(|attribute| match attribute.name {
            "num_heads" => true,
            "unidirectional" => attribute.integer == 0,
            _ => false,
        });
        // ONNX Runtime looks at sizes in the one operator that it does not look at in the other.
        let fits = is_bias_of(self.0.dims(weight), self.0.dims(bias));
        if !is_usual || !fits || !self.is_lengths(lengths) || rest.len() > 1 || attention.outputs.len() > 1 {
            return None;
        }
        // Bytes become a matrix where numbers did.
        let output = *attention.outputs.first()?;
        let reshaped = self.0.only_reader(output).filter(|(_, reader)| {
            reader.op_type == "Reshape" && reader.attributes.is_empty() && !self.0.has_type(output)
        });
        let quantize = self.only_quantize(reshaped.map_or(attention, |(_, reshape)| reshape))?;
        let (mut changes, bytes) = (vec![(quantize.place, Vec::new())], reshaped.map_or(quantize.bytes, |_| output));
        if let Some((place, reshape)) = reshaped {
            let inputs = [output, *reshape.inputs.get(1)?];
            changes.push((place, vec![node(("", "Reshape"), &inputs, &[quantize.bytes], &[])]));
        }
        let product = format!("{output}/product");
        if !self.0.is_free(&product) {
            return None;
        }
        let inputs = [x, weight, scale, weight_scale, zero_point, weight_zero_point, bias];
        let of_product = node((MICROSOFT, "MatMulIntegerToFloat"), &inputs, &[&product], &[]);
        let heads = integer_attribute(HEADS, attention.attribute("num_heads")?.integer);
        let inputs = [&product, lengths, quantize.scale, quantize.zero_point];
        let fused = node((DOMAIN, ATTENTION_QUANTIZE), &inputs, &[bytes], &[heads]);
        changes.push((place, vec![of_product, fused]));
        Some(changes)
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

    /// What makes bytes of a node's output, if nothing else reads it.
    fn only_quantize(&self, node: &Node<'a>) -> Option<Quantize<'a>> {
        self.0.only_reader(node.outputs.first()?).and_then(|(reader, _)| self.quantize(reader))
    }

    /// The node there, if it makes bytes for products.
    fn quantize(&self, place: usize) -> Option<Quantize<'a>> {
        let node = self.0.nodes.get(place)?;
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
        (is_quantize && has_one_scale && is_for_products).then_some(Quantize { place, scale, zero_point, bytes })
    }
}

fn is_standard(node: &Node<'_>) -> bool {
    matches!(node.domain, "" | "ai.onnx")
}
