//! Types of inputs, outputs and values between.

use super::{
    fault::Fault,
    wire::{fields, once},
};

/// A `ValueInfoProto`.
#[derive(Debug, Default)]
pub(super) struct ValueInfo<'a> {
    pub(super) name: &'a str,
    pub(super) kind: Option<Type>,
}

/// A `TypeProto`.
#[derive(Debug)]
pub(super) enum Type {
    Tensor {
        /// `TensorProto.DataType`.
        elem_type: i32,
        /// How many axes there are, where that is said.
        rank: Option<usize>,
    },
    /// A sequence, map, optional or sparse tensor.
    Other,
}

impl<'a> ValueInfo<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, Fault> {
        let (mut name, mut kind) = (None, None);
        for field in fields(message) {
            match field? {
                (1, value) => once(&mut name, value.text()?, "name")?,
                (2, value) => once(&mut kind, Type::parse(value.bytes()?)?, "type")?,
                _ => {}
            }
        }
        Ok(Self { name: name.unwrap_or_default(), kind: kind.flatten() })
    }
}

impl Type {
    fn parse(message: &[u8]) -> Result<Option<Self>, Fault> {
        let mut kind = None;
        for field in fields(message) {
            match field? {
                (1, value) => once(&mut kind, Self::parse_tensor(value.bytes()?)?, "value of a type")?,
                // A denotation is a comment.
                (6, _) => {}
                _ => once(&mut kind, Self::Other, "value of a type")?,
            }
        }
        Ok(kind)
    }

    fn parse_tensor(message: &[u8]) -> Result<Self, Fault> {
        let (mut elem_type, mut rank) = (None, None);
        for field in fields(message) {
            match field? {
                (1, value) => once(&mut elem_type, value.integer32()?, "elem_type")?,
                (2, value) => once(&mut rank, parse_rank(value.bytes()?)?, "shape")?,
                _ => {}
            }
        }
        Ok(Self::Tensor { elem_type: elem_type.unwrap_or_default(), rank })
    }
}

/// How many dimensions a `TensorShapeProto` has.
fn parse_rank(message: &[u8]) -> Result<usize, Fault> {
    fields(message).try_fold(0, |rank, field| Ok(rank + usize::from(field?.0 == 1)))
}
