//! Graphs that compute texts without what fills them up: between the embeddings and the last layer the rows of all texts lie one
//! behind the other. What is computed there for a token depends on it alone, but for attention, which is told where texts end.
//!
//! Then texts of any lengths can be run together, which costs no more than their tokens.

use std::collections::HashSet;

use super::{
    check::INPUTS,
    fault::Fault,
    model::{Model, Node},
    operators::MICROSOFT,
    rewrite::{Changes, Part, Wiring, message, node, rewrite},
    wire::Value,
};
use crate::fused::{ADD_LAYER_NORM, ATTENTION, BIAS_GELU, DOMAIN, PACK, UNPACK};

/// The key among a graph's own properties that says it is such a one.
pub(crate) const PACKED: &str = "nimbert.packed";
/// The input that tells how many texts there are, and to what width they are filled up; all inputs have that shape.
pub(super) const MASK: &str = "attention_mask";

/// A graph with fused operators without padding, or none where something in it needs the padding.
///
/// # Errors
/// If it is no graph.
pub(super) fn pack(model: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
    let parsed = Model::parse(model)?;
    let Some(changes) = changes(&Wiring::new(&parsed)) else { return Ok(None) };
    let mut packed = rewrite(model, &parsed, &changes)?;
    let property = message(&[(1, Value::Bytes(PACKED.as_bytes())), (2, Value::Bytes(b"true"))]);
    Value::Bytes(&property).write(&mut packed, 14);
    Ok(Some(packed))
}

fn changes(wiring: &Wiring<'_>) -> Option<Changes> {
    // All attention is told the same lengths.
    let mut attentions = wiring.nodes.iter().filter(|node| is_attention(node));
    let lengths = *attentions.next()?.inputs.get(1)?;
    if attentions.any(|node| node.inputs.get(1) != Some(&lengths)) {
        return None;
    }
    // Normalized embeddings as a matrix: a row a token.
    let width_of = |node: &Node<'_>| {
        let norm = wiring.maker(node.inputs.first()?).filter(|(_, norm)| norm.op_type == "LayerNormalization");
        wiring.dims(norm?.1.inputs.get(1)?).filter(|width| matrix_width(wiring, node) == width.first().copied())
    };
    let start = wiring.nodes.iter().position(|node| width_of(node).is_some())?;
    let width = matrix_width(wiring, &wiring.nodes[start]);
    let ([texts, _], [rows]) = (&wiring.nodes[start].inputs[..], &wiring.nodes[start].outputs[..]) else { return None };
    // Before the first that reads the rows; lengths must be known there.
    let first_reader = *wiring.readers(rows).iter().min()?;
    if wiring.maker(lengths)?.0 > first_reader || first_reader == wiring.nodes.len() {
        return None;
    }
    let mut changes = Changes::from([(start, Vec::new())]);
    // What is a row a token, of all texts one behind the other.
    let mut by_token = HashSet::from([*rows]);
    for (place, follower) in wiring.nodes.iter().enumerate().skip(start + 1) {
        if !follower.inputs.iter().any(|name| by_token.contains(name)) {
            continue;
        }
        let is_constant = |name: &str| name.is_empty() || wiring.is_constant(name);
        // What is added to each row, not a row of its own to each.
        let is_vector =
            |name: &str| name.is_empty() || by_token.contains(name) || wiring.rank(name).is_some_and(|rank| rank < 2);
        let is_known = follower.inputs.iter().all(|name| by_token.contains(name) || is_constant(name));
        let stays_by_token = match (follower.domain, follower.op_type) {
            (DOMAIN, ATTENTION) => true,
            (DOMAIN, BIAS_GELU | ADD_LAYER_NORM) => is_known,
            (MICROSOFT, "MatMulIntegerToFloat" | "BiasGelu" | "FastGelu") => is_known,
            ("", "MatMul" | "Gemm") => {
                let is_by_constant = follower.inputs.get(1).is_some_and(|name| is_constant(name));
                let is_plain = follower.attribute("transA").is_none_or(|attribute| attribute.integer == 0);
                is_plain && is_known && is_by_constant && follower.inputs.iter().skip(2).all(|name| is_vector(name))
            }
            ("", "Add" | "Mul") => follower.inputs.iter().all(|name| is_vector(name)),
            ("", "QuantizeLinear" | "LayerNormalization") => is_known,
            // What attention gives is a matrix by now.
            ("", "Reshape") if matrix_width(wiring, follower).is_some() => {
                let of_attention = wiring.maker(follower.inputs[0]).is_some_and(|(_, node)| is_attention(node));
                of_attention && matrix_width(wiring, follower) == width
            }
            ("", "Reshape") if is_by_text(wiring, follower) => {
                let ([rows, _], [texts]) = (&follower.inputs[..], &follower.outputs[..]) else { return None };
                let is_product = |op_type: &str| matches!(op_type, "MatMulIntegerToFloat" | "MatMul");
                let product = wiring.only_reader(texts).filter(|(_, node)| is_product(node.op_type));
                let attention = product.and_then(|(_, product)| wiring.only_reader(product.outputs.first()?));
                let is_for_attention = attention.is_some_and(|(_, node)| is_attention(node));
                let instead = match is_for_attention {
                    true => node(("", "Identity"), &[rows], &[texts], &[]),
                    false => node((DOMAIN, UNPACK), &[rows, lengths, MASK], &[texts], &[]),
                };
                changes.insert(place, vec![instead]);
                if !is_for_attention {
                    continue;
                }
                true
            }
            _ => false,
        };
        if !stays_by_token {
            return None;
        }
        let outputs = follower.outputs.iter().filter(|name| !name.is_empty());
        // It would say the shape that they had.
        if outputs.clone().any(|name| wiring.has_type(name)) {
            return None;
        }
        by_token.extend(outputs);
    }
    let is_output = |name: &&str| wiring.readers(name).contains(&wiring.nodes.len());
    let reader = changes.entry(first_reader).or_insert_with(|| vec![Part::Itself]);
    reader.insert(0, node((DOMAIN, PACK), &[texts, lengths], &[rows], &[]));
    (!by_token.iter().any(is_output)).then_some(changes)
}

fn is_attention(node: &Node<'_>) -> bool {
    node.domain == DOMAIN && node.op_type == ATTENTION
}

/// The width of the matrix of as many rows as there are, if that is what a node makes.
fn matrix_width(wiring: &Wiring<'_>, node: &Node<'_>) -> Option<i64> {
    let is_plain = node.op_type == "Reshape" && node.domain.is_empty() && node.attributes.is_empty();
    match wiring.integers(node.inputs.get(1)?)?[..] {
        [-1, width] if is_plain && width > 0 => Some(width),
        _ => None,
    }
}

/// Whether a node gives rows the shape of the texts: of the ids, and one number more, which can only be the width of the rows.
pub(super) fn is_by_text(wiring: &Wiring<'_>, node: &Node<'_>) -> bool {
    let shape = node.inputs.get(1).and_then(|shape| wiring.maker(shape));
    let Some((_, shape)) = shape.filter(|(_, shape)| shape.op_type == "Concat") else { return false };
    let [of_ids, width] = shape.inputs[..] else { return false };
    let is_of_ids = |node: &Node<'_>| {
        let is_whole = node.op_type == "Shape" && node.attributes.is_empty();
        is_whole && node.inputs.first().is_some_and(|ids| INPUTS.contains(ids))
    };
    node.attributes.is_empty()
        && shape.attribute("axis").is_some_and(|axis| axis.integer == 0)
        && wiring.maker(of_ids).is_some_and(|(_, of_ids)| is_of_ids(of_ids))
        && wiring.dims(width) == Some(&[1])
}
