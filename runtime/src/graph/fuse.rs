//! Graphs with operators of our own where several of ONNX Runtime's stand ([`crate::fused`]).
//!
//! What is replaced is what `nimbert-train` writes for integers: the way of numbers from one product of bytes to the next.
//! Whatever is only similar stays. The graph was checked before.

use super::{
    check::{FLOAT, UINT8, is_bias_of},
    fault::Fault,
    model::{Model, Node},
    operators::MICROSOFT,
    pack::{MASK, pack},
    rewrite::{Changes, Part, Wiring, float_attribute, integer_attribute, node, rewrite},
};
use crate::fused::{ADD_LAYER_NORM_QUANTIZE, ATTENTION_QUANTIZE, BIAS_GELU_QUANTIZE, DOMAIN, EPSILON, HEADS};

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

impl<'a> Fusion<'a> {
    fn changes(&self) -> Changes {
        let mut changes = Changes::new();
        for (place, node) in self.0.nodes.iter().enumerate() {
            let fused = match (node.domain, node.op_type) {
                (MICROSOFT, "BiasGelu") => self.bias_gelu(place, node),
                (MICROSOFT, "QAttention") => self.attention(place, node),
                ("" | "ai.onnx", "LayerNormalization") => self.add_layer_norm(place, node),
                _ => None,
            };
            changes.extend(fused.into_iter().flatten());
        }
        changes
    }

    fn bias_gelu(&self, place: usize, gelu: &Node<'a>) -> Option<Vec<(usize, Vec<Part>)>> {
        let [x, bias] = gelu.inputs[..] else { return None };
        let quantize = self.only_quantize(gelu).filter(|_| self.0.is_of_type(bias, FLOAT))?;
        let inputs = [x, bias, quantize.scale, quantize.zero_point];
        let fused = node((DOMAIN, BIAS_GELU_QUANTIZE), &inputs, &[quantize.bytes], &[]);
        Some(vec![(place, vec![fused]), (quantize.place, Vec::new())])
    }

    /// The sum before a LayerNormalization, of a product and what went into its block; and its bytes, beside those who read the
    /// numbers.
    fn add_layer_norm(&self, place: usize, norm: &Node<'a>) -> Option<Vec<(usize, Vec<Part>)>> {
        let ([x, weight, bias], [y]) = (&norm.inputs[..], &norm.outputs[..]) else { return None };
        let is_usual = norm.attributes.iter().all(|attribute| match attribute.name {
            "epsilon" => true,
            "axis" => attribute.integer == -1,
            "stash_type" => attribute.integer == 1,
            _ => false,
        });
        let is_vector = |name: &str| self.0.is_of_type(name, FLOAT) && self.0.rank(name) == Some(1);
        let is_usual = is_usual && is_vector(weight) && is_vector(bias);
        let quantize = self.0.readers(y).iter().find_map(|reader| self.quantize(*reader))?;
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
        let inputs = [a, b, weight, bias, quantize.scale, quantize.zero_point];
        let fused = node(
            (DOMAIN, ADD_LAYER_NORM_QUANTIZE),
            &inputs,
            &[y, quantize.bytes],
            &[float_attribute(EPSILON, epsilon)],
        );
        Some(vec![(first, vec![fused]), (place, Vec::new()), (quantize.place, Vec::new())])
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
