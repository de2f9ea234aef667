//! Tensors: their data is there, as much as their dimensions say, and nowhere else.

use super::{
    fault::Fault,
    wire::{MOST_PER_NODE, fields, once, push},
};

/// Axes of a tensor.
const MOST_AXES: usize = 8;
/// Elements of a tensor that are kept: sizes have no more.
pub(super) const MOST_KEPT: usize = 64;

/// A `TensorProto`.
#[derive(Debug, Default)]
pub(super) struct Tensor<'a> {
    pub(super) name: &'a str,
    pub(super) dims: Vec<i64>,
    /// `TensorProto.DataType`.
    pub(super) data_type: i32,
    pub(super) raw: Option<&'a [u8]>,
    /// Elements in the fields of typed data, by the field's number.
    pub(super) typed: [u64; 12],
    /// The first of them.
    pub(super) first: Vec<f64>,
    /// `TensorProto.DataLocation`.
    pub(super) location: i32,
    /// Keys and values.
    pub(super) external: Vec<(&'a str, &'a str)>,
    pub(super) is_segment: bool,
}

/// The file of a graph's large tensors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DataFile<'a> {
    /// Its name, beside the graph.
    pub(crate) name: &'a str,
    /// Its size.
    pub(crate) bytes: u64,
}

/// How a data type lies in memory.
#[derive(Debug, Clone, Copy)]
struct Element {
    bytes: u64,
    /// The number of the field for typed data.
    field: usize,
    is_float: bool,
}

/// What is known of `TensorProto.DataType`. Strings, complex numbers and what is smaller than a byte are not read.
fn element(data_type: i32) -> Option<Element> {
    let (bytes, field, is_float) = match data_type {
        1 => (4, 4, true),          // FLOAT
        2 | 3 | 9 => (1, 5, false), // UINT8, INT8, BOOL
        4 | 5 => (2, 5, false),     // UINT16, INT16
        6 => (4, 5, false),         // INT32
        7 => (8, 7, false),         // INT64
        10 | 16 => (2, 5, true),    // FLOAT16, BFLOAT16
        11 => (8, 10, true),        // DOUBLE
        12 => (4, 11, false),       // UINT32
        13 => (8, 11, false),       // UINT64
        _ => return None,
    };
    Some(Element { bytes, field, is_float })
}

/// Whether tensors may have that type.
pub(super) fn is_data_type(data_type: i64) -> bool {
    i32::try_from(data_type).is_ok_and(|data_type| element(data_type).is_some())
}

impl<'a> Tensor<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, Fault> {
        let mut tensor = Self::default();
        let (mut name, mut data_type, mut location) = (None, None, None);
        for field in fields(message) {
            let (number, value) = field?;
            match number {
                1 => {
                    for dim in value.integers()? {
                        push(&mut tensor.dims, dim?, MOST_AXES, "axes of a tensor")?;
                    }
                }
                2 => once(&mut data_type, value.integer32()?, "data_type")?,
                3 => tensor.is_segment = true,
                4 => value.fixed()?.iter().for_each(|bytes| tensor.keep(4, f32::from_le_bytes(*bytes).into())),
                5 | 7 => {
                    for integer in value.integers()? {
                        tensor.keep(number, integer? as f64);
                    }
                }
                6 => tensor.keep(number, 0.0),
                8 => once(&mut name, value.text()?, "name")?,
                9 => once(&mut tensor.raw, value.bytes()?, "raw_data")?,
                10 => value.fixed()?.iter().for_each(|bytes| tensor.keep(10, f64::from_le_bytes(*bytes))),
                11 => {
                    for integer in value.integers()? {
                        tensor.keep(number, integer?.cast_unsigned() as f64);
                    }
                }
                13 => {
                    let entry = parse_entry(value.bytes()?)?;
                    push(&mut tensor.external, entry, MOST_PER_NODE, "entries of external_data")?;
                }
                14 => once(&mut location, value.integer32()?, "data_location")?,
                _ => {}
            }
        }
        tensor.name = name.unwrap_or_default();
        tensor.data_type = data_type.unwrap_or_default();
        tensor.location = location.unwrap_or_default();
        Ok(tensor)
    }

    /// Counts an element of typed data.
    fn keep(&mut self, field: u32, element: f64) {
        self.typed[field as usize] += 1;
        if self.first.len() < MOST_KEPT {
            self.first.push(element);
        }
    }
}

impl Tensor<'_> {
    /// Checks the tensor; `data` is the file that it may lie in. A tensor within an attribute may lie in none.
    pub(super) fn check(&self, is_attribute: bool, data: Option<DataFile<'_>>) -> Result<(), Fault> {
        let fail = |expected: String, got: String| {
            Err(Fault { expected: format!("{expected} of the tensor {:?}", self.name), got })
        };
        let Some(element) = element(self.data_type) else {
            return fail("a numeric data_type".to_owned(), format!("the type {}", self.data_type));
        };
        let Some(elements) = self.elements() else {
            return fail("dims of at least 0 whose product has 63 bits".to_owned(), format!("{:?}", self.dims));
        };
        if elements == 0 && element.is_float {
            // ONNX Runtime reads before the first of no elements (LayerNormalization).
            return fail("elements".to_owned(), format!("none: {:?}", self.dims));
        }
        if elements == 0 && self.dims.iter().any(|&dim| dim > 1) {
            // They would be sizes that no data stands for.
            return fail("dims of 0 and 1".to_owned(), format!("no elements: {:?}", self.dims));
        }
        let Some(bytes) = elements.checked_mul(element.bytes) else {
            return fail("fewer bytes".to_owned(), format!("{:?}", self.dims));
        };
        let typed: u64 = self.typed.iter().sum();
        if self.is_segment {
            return fail("all of the data".to_owned(), "a segment".to_owned());
        }
        match (self.location, self.raw, typed) {
            (0, None, _) if !self.external.is_empty() => {
                fail("data within the graph".to_owned(), "external_data".to_owned())
            }
            (0, None, typed) if typed == elements && self.typed[element.field] == typed => Ok(()),
            (0, None, _) => fail(format!("{elements} elements"), format!("{typed}, or in another type's field")),
            (0, Some(raw), 0) if self.external.is_empty() && raw.len() as u64 == bytes => Ok(()),
            (0, Some(raw), 0) if self.external.is_empty() => fail(format!("{bytes} bytes"), raw.len().to_string()),
            (1, None, 0) if is_attribute => fail("data within the graph".to_owned(), "external_data".to_owned()),
            (1, None, 0) => self.check_external(bytes, data),
            (0 | 1, ..) => fail("data in one place".to_owned(), "several".to_owned()),
            (other, ..) => fail("a data_location of 0 or 1".to_owned(), other.to_string()),
        }
    }

    /// Checks that `bytes` of the tensor lie in `data`.
    fn check_external(&self, bytes: u64, data: Option<DataFile<'_>>) -> Result<(), Fault> {
        let fail = |expected: String, got: &str| {
            Err(Fault { expected: format!("{expected} for the tensor {:?}", self.name), got: got.to_owned() })
        };
        let (mut location, mut offset, mut length) = (None, None, None);
        for (index, &(key, value)) in self.external.iter().enumerate() {
            if self.external[..index].iter().any(|(before, _)| *before == key) {
                return fail("every key of external_data once".to_owned(), &format!("{key:?} found twice"));
            }
            match key {
                "location" => location = Some(value),
                "offset" | "length" => {
                    // `parse` would take a sign.
                    let number = value.parse().ok().filter(|_| value.bytes().all(|byte| byte.is_ascii_digit()));
                    let Some(number) = number else { return fail(format!("a number as {key}"), &format!("{value:?}")) };
                    *(if key == "offset" { &mut offset } else { &mut length }) = Some(number);
                }
                "checksum" => {}
                _ => {
                    return fail(
                        "location, offset, length and checksum in external_data".to_owned(),
                        &format!("{key:?}"),
                    );
                }
            }
        }
        let Some(data) = data else { return fail("a file of large tensors".to_owned(), "none") };
        if location != Some(data.name) {
            // Anything else is a path on the machine on which the graph is run.
            return fail(format!("the location {:?}", data.name), &format!("{location:?}"));
        }
        if length.is_some_and(|length: u64| length != bytes) {
            return fail(format!("a length of {bytes} bytes"), &format!("{length:?}"));
        }
        let end = offset.unwrap_or(0u64).checked_add(bytes);
        match end.is_some_and(|end| end <= data.bytes) {
            true => Ok(()),
            false => {
                fail(format!("{bytes} bytes from {offset:?} on in {}", data.name), &format!("{} in all", data.bytes))
            }
        }
    }

    /// How many elements the dimensions say.
    pub(super) fn elements(&self) -> Option<u64> {
        let product = self.dims.iter().try_fold(1i64, |product, &dim| product.checked_mul(dim).filter(|_| dim >= 0));
        product.map(i64::cast_unsigned)
    }

    /// The elements, if they are few and lie in the graph, and are no halves.
    pub(super) fn values(&self) -> Option<Vec<f64>> {
        let elements = self.elements().filter(|&elements| elements <= MOST_KEPT as u64)?;
        let Some(raw) = self.raw else {
            let is_whole = self.location == 0 && self.first.len() as u64 == elements;
            return (is_whole && !matches!(self.data_type, 10 | 16)).then(|| self.first.clone());
        };
        macro_rules! read {
            ($number:ty) => {
                raw.as_chunks().0.iter().map(|bytes| <$number>::from_le_bytes(*bytes) as f64).collect()
            };
        }
        Some(match self.data_type {
            1 => read!(f32),
            2 | 9 => read!(u8),
            3 => read!(i8),
            4 => read!(u16),
            5 => read!(i16),
            6 => read!(i32),
            7 => read!(i64),
            11 => read!(f64),
            12 => read!(u32),
            13 => read!(u64),
            _ => return None,
        })
    }
}

/// Key and value of a `StringStringEntryProto`.
fn parse_entry(message: &[u8]) -> Result<(&str, &str), Fault> {
    let (mut key, mut text) = (None, None);
    for field in fields(message) {
        match field? {
            (1, value) => once(&mut key, value.text()?, "key")?,
            (2, value) => once(&mut text, value.text()?, "value")?,
            _ => {}
        }
    }
    Ok((key.unwrap_or_default(), text.unwrap_or_default()))
}
