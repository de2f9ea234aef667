//! Protobuf's wire format, read where it lies: a message is fields of a number and a value.
//!
//! Stricter than protobuf's own readers, so that what is accepted here means the same there: a known field of another
//! wire type, which they skip, is a fault.

use super::fault::Fault;

/// The longest varint that protobuf reads, in bytes.
const MOST_VARINT_BYTES: usize = 10;
/// The longest name; exporters write paths of modules, of some hundred bytes.
const MOST_NAME_BYTES: usize = 4096;

/// Inputs, outputs and attributes of a node, operator sets, entries of an external tensor; a Concat may have hundreds.
pub(super) const MOST_PER_NODE: usize = 1024;

/// A field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed64(&'a [u8; 8]),
    Fixed32(&'a [u8; 4]),
    Bytes(&'a [u8]),
}

/// The fields of one message, in the order in which they lie there. Nothing follows a fault.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

/// Reads `message` as fields.
pub(super) fn fields(message: &[u8]) -> Fields<'_> {
    Fields { rest: message }
}

/// Bytes that are no message.
pub(super) fn damaged(got: impl Into<String>) -> Fault {
    Fault { expected: "a graph in ONNX's format".to_owned(), got: got.into() }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = read_field(&mut self.rest);
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

impl<'a> Value<'a> {
    /// An `int64`, or an enumeration or `int32`, whose sign is extended to 64 bits.
    pub(super) fn integer(self) -> Result<i64, Fault> {
        match self {
            Self::Varint(bits) => Ok(bits.cast_signed()),
            other => Err(other.unexpected("an integer")),
        }
    }

    /// An `int32` or enumeration. Protobuf drops the upper half of a larger number; here it is a fault.
    pub(super) fn integer32(self) -> Result<i32, Fault> {
        let integer = self.integer()?;
        integer.try_into().map_err(|_| damaged(format!("{integer}, where a number has 32 bits")))
    }

    pub(super) fn float(self) -> Result<f32, Fault> {
        match self {
            Self::Fixed32(bytes) => Ok(f32::from_le_bytes(*bytes)),
            other => Err(other.unexpected("a float")),
        }
    }

    pub(super) fn bytes(self) -> Result<&'a [u8], Fault> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            other => Err(other.unexpected("bytes")),
        }
    }

    /// A name, short enough to be part of a message.
    pub(super) fn text(self) -> Result<&'a str, Fault> {
        let bytes = self.bytes()?;
        if bytes.len() > MOST_NAME_BYTES {
            return Err(damaged(format!("a name of {} bytes", bytes.len())));
        }
        std::str::from_utf8(bytes).map_err(|_| damaged("a name that is not UTF-8"))
    }

    /// The integers of a repeated field: one, or packed ones.
    pub(super) fn integers(self) -> Result<impl Iterator<Item = Result<i64, Fault>> + 'a, Fault> {
        let (mut single, mut packed) = match self {
            Self::Varint(bits) => (Some(bits), &[][..]),
            Self::Bytes(bytes) => (None, bytes),
            other => return Err(other.unexpected("integers")),
        };
        Ok(std::iter::from_fn(move || {
            let bits = match single.take() {
                Some(bits) => Ok(bits),
                None if packed.is_empty() => return None,
                None => read_varint(&mut packed),
            };
            Some(bits.map(u64::cast_signed))
        }))
    }

    /// The floating-point numbers of a repeated field: one, or packed ones. `N` is the size of each in bytes.
    pub(super) fn fixed<const N: usize>(self) -> Result<&'a [[u8; N]], Fault> {
        let bytes: &[u8] = match self {
            Self::Fixed32(bytes) if N == 4 => bytes,
            Self::Fixed64(bytes) if N == 8 => bytes,
            Self::Bytes(bytes) => bytes,
            other => return Err(other.unexpected("floats")),
        };
        match bytes.as_chunks() {
            (numbers, []) => Ok(numbers),
            _ => Err(damaged("packed floats that end within one")),
        }
    }

    fn unexpected(self, expected: &str) -> Fault {
        let got = match self {
            Self::Varint(_) => "a varint",
            Self::Fixed64(_) => "64 bits",
            Self::Fixed32(_) => "32 bits",
            Self::Bytes(_) => "bytes",
        };
        damaged(format!("{got} where {expected} should be"))
    }
}

fn read_field<'a>(rest: &mut &'a [u8]) -> Result<(u32, Value<'a>), Fault> {
    let tag = u32::try_from(read_varint(rest)?).map_err(|_| damaged("a field number of more than 29 bits"))?;
    let value = match tag & 7 {
        0 => Value::Varint(read_varint(rest)?),
        1 => Value::Fixed64(read_chunk(rest)?),
        2 => {
            let length = read_varint(rest)?;
            let (bytes, after) = usize::try_from(length)
                .ok()
                .and_then(|length| rest.split_at_checked(length))
                .ok_or_else(|| damaged(format!("a field of {length} bytes where {} are left", rest.len())))?;
            *rest = after;
            Value::Bytes(bytes)
        }
        5 => Value::Fixed32(read_chunk(rest)?),
        wire_type => return Err(damaged(format!("the wire type {wire_type}, which no field of a graph has"))),
    };
    match tag >> 3 {
        0 => Err(damaged("the field number 0")),
        number => Ok((number, value)),
    }
}

fn read_varint(rest: &mut &[u8]) -> Result<u64, Fault> {
    let mut bits = 0;
    for index in 0..MOST_VARINT_BYTES {
        let (&byte, after) = rest.split_first().ok_or_else(|| damaged("an end within a number"))?;
        *rest = after;
        // Of the tenth byte there is room for one bit.
        if index == MOST_VARINT_BYTES - 1 && byte > 1 {
            break;
        }
        bits |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Ok(bits);
        }
    }
    Err(damaged("a number of more than 64 bits"))
}

fn read_chunk<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], Fault> {
    let (chunk, after) = rest.split_first_chunk().ok_or_else(|| damaged("an end within a number"))?;
    *rest = after;
    Ok(chunk)
}

impl Value<'_> {
    /// Writes the field of that number behind what `message` has.
    pub(super) fn write(self, message: &mut Vec<u8>, number: u32) {
        let (wire_type, content): (u64, &[u8]) = match &self {
            Value::Varint(_) => (0, &[]),
            Value::Fixed64(bytes) => (1, &bytes[..]),
            Value::Bytes(bytes) => (2, bytes),
            Value::Fixed32(bytes) => (5, &bytes[..]),
        };
        write_varint(message, u64::from(number) << 3 | wire_type);
        match self {
            Value::Varint(bits) => write_varint(message, bits),
            Value::Bytes(bytes) => write_varint(message, bytes.len() as u64),
            Value::Fixed64(_) | Value::Fixed32(_) => {}
        }
        message.extend_from_slice(content);
    }
}

pub(super) fn write_varint(message: &mut Vec<u8>, mut bits: u64) {
    while bits >= 0x80 {
        message.push(bits as u8 | 0x80);
        bits >>= 7;
    }
    message.push(bits as u8);
}

/// Sets a field that is not repeated.
pub(super) fn once<T>(slot: &mut Option<T>, value: T, name: &str) -> Result<(), Fault> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(damaged(format!("{name} found twice"))),
    }
}

/// Adds to a repeated field.
pub(super) fn push<T>(list: &mut Vec<T>, value: T, most: usize, what: &str) -> Result<(), Fault> {
    if list.len() == most {
        return Err(Fault { expected: format!("at most {most} {what}"), got: "more".to_owned() });
    }
    list.push(value);
    Ok(())
}
