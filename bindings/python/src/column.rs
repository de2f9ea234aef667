//! Texts as Python has them: strings of any iterable, or a column of Arrow's, which is read where it lies.

#![allow(unsafe_code, reason = "Arrow's PyCapsule interface hands over C structs")]

use std::ffi::{c_char, c_void};

use arrow_array::{
    Array, ArrayRef,
    cast::AsArray,
    ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi_and_data_type},
    ffi_stream::FFI_ArrowArrayStream,
    make_array,
};
use arrow_schema::DataType;
use pyo3::{exceptions::PyTypeError, prelude::*, pybacked::PyBackedStr, types::PyCapsule};

use crate::error::exception;

/// The texts of a call.
pub(crate) enum Column {
    Strings(Vec<PyBackedStr>),
    /// Chunks of strings without nulls, none of them empty.
    Arrow(Vec<ArrayRef>),
}

/// Why a column is not taken.
enum Fault {
    /// What follows the argument's name in a message.
    Input(String),
    /// Whoever makes the arrays has failed.
    Stream(std::io::Error),
}

impl From<String> for Fault {
    fn from(message: String) -> Self {
        Self::Input(message)
    }
}

impl Column {
    /// Reads the argument `name`: what `__arrow_c_stream__` or `__arrow_c_array__` gave, or an iterable of strings, of which the first is
    /// called row `first`.
    ///
    /// # Errors
    /// An exception that names the first row that is no string.
    pub(crate) fn read(name: &str, object: &Bound<'_, PyAny>, first: usize) -> PyResult<Self> {
        let py = object.py();
        let wrong = |message: String| exception(py, "input", &format!("{name}{message}"), None);
        // Without the interpreter's lock: whoever makes the arrays may have threads that wait for it.
        let chunks = if let Ok(capsule) = object.cast::<PyCapsule>() {
            let stream = taken_stream(capsule)?;
            py.detach(move || of_stream(stream))
        } else if let Ok((schema, array)) = object.extract::<(Bound<'_, PyCapsule>, Bound<'_, PyCapsule>)>() {
            let (schema, array) = taken_array(&schema, &array)?;
            py.detach(move || {
                of_type(&schema).and_then(|data_type| chunks(&data_type, vec![array])).map_err(Fault::Input)
            })
        } else {
            let string = |(row, object): (usize, PyResult<Bound<'_, PyAny>>)| {
                object?
                    .extract::<PyBackedStr>()
                    .map_err(|error| wrong(format!("[{}]: {}", first + row, error.value(py))))
            };
            return Ok(Self::Strings(object.try_iter()?.enumerate().map(string).collect::<PyResult<_>>()?));
        };
        chunks.map(Self::Arrow).map_err(|fault| match fault {
            Fault::Input(message) => wrong(message),
            Fault::Stream(error) => error.into(),
        })
    }

    pub(crate) fn texts(&self) -> Vec<&str> {
        match self {
            Self::Strings(strings) => strings.iter().map(PyBackedStr::as_str).collect(),
            Self::Arrow(chunks) => chunks.iter().flat_map(|chunk| texts(chunk)).collect(),
        }
    }
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// The type of a column, if it is one of texts.
///
/// # Errors
/// What follows the argument's name in a message.
fn of_type(schema: &FFI_ArrowSchema) -> Result<DataType, String> {
    let data_type = DataType::try_from(schema).map_err(|error| format!(": {error}"))?;
    // A column without rows need not have a type.
    match data_type == DataType::Null || is_text(&data_type) {
        true => Ok(data_type),
        false => Err(not_text(&data_type)),
    }
}

fn not_text(data_type: &DataType) -> String {
    format!(": expected a column of strings, found {data_type}")
}

/// The arrays of a type.
///
/// # Errors
/// What follows the argument's name in a message.
fn chunks(data_type: &DataType, arrays: Vec<FFI_ArrowArray>) -> Result<Vec<ArrayRef>, String> {
    if !is_text(data_type) && arrays.iter().any(|array| !array.is_empty()) {
        return Err(not_text(data_type));
    }
    let mut rows = 0;
    let chunk = |array| {
        // SAFETY: an array that was exported together with this type.
        let data = unsafe { from_ffi_and_data_type(array, data_type.clone()) };
        let chunk = data.and_then(|mut data| {
            data.align_buffers();
            // What is called UTF-8 need not be.
            data.validate_full().map(|()| make_array(data))
        });
        let chunk = chunk.map_err(|error| format!(": {error}"))?;
        if let Some(null) = chunk.logical_nulls().and_then(|nulls| nulls.iter().position(|is_valid| !is_valid)) {
            return Err(format!("[{}]: expected a string, found null", rows + null));
        }
        rows += chunk.len();
        Ok(chunk)
    };
    // An empty one need not have buffers.
    arrays.into_iter().filter(|array| !array.is_empty()).map(chunk).collect()
}

/// The texts of an array for which [`is_text`] holds. A null is empty: dictionaries may have one that no row refers to.
fn texts(array: &dyn Array) -> Vec<&str> {
    match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().iter().map(Option::unwrap_or_default).collect(),
        DataType::LargeUtf8 => array.as_string::<i64>().iter().map(Option::unwrap_or_default).collect(),
        DataType::Utf8View => array.as_string_view().iter().map(Option::unwrap_or_default).collect(),
        _ => {
            let dictionary = array.as_any_dictionary();
            let values = texts(dictionary.values());
            dictionary.normalized_keys().into_iter().map(|key| values[key]).collect()
        }
    }
}

/// Arrow's struct of a type, as C has it: the crate's does not tell whether it was released.
#[repr(C)]
struct Schema {
    strings: [*const c_char; 3],
    numbers: [i64; 2],
    others: [*const c_void; 2],
    release: Option<unsafe extern "C" fn(*mut Schema)>,
    private_data: *const c_void,
}

/// Whether a type is none any more: its strings are gone.
fn is_released(schema: &FFI_ArrowSchema) -> bool {
    // SAFETY: it is a struct of C of this layout, and all of its fields are plain values.
    unsafe { (*std::ptr::from_ref(schema).cast::<Schema>()).release.is_none() }
}

/// What `__arrow_c_array__` gives.
fn taken_array(
    schema: &Bound<'_, PyCapsule>,
    array: &Bound<'_, PyCapsule>,
) -> PyResult<(FFI_ArrowSchema, FFI_ArrowArray)> {
    let schema = schema.pointer_checked(Some(c"arrow_schema"))?.cast();
    let array = array.pointer_checked(Some(c"arrow_array"))?.cast();
    // SAFETY: capsules of these names hold these structs. They are taken, which leaves released ones there.
    let (schema, array) =
        unsafe { (FFI_ArrowSchema::from_raw(schema.as_ptr()), FFI_ArrowArray::from_raw(array.as_ptr())) };
    match is_released(&schema) || array.is_released() {
        true => Err(PyTypeError::new_err("expected an Arrow array, found one that was read already")),
        false => Ok((schema, array)),
    }
}

/// What `__arrow_c_stream__` gives.
fn taken_stream(capsule: &Bound<'_, PyCapsule>) -> PyResult<FFI_ArrowArrayStream> {
    let pointer = capsule.pointer_checked(Some(c"arrow_array_stream"))?.cast();
    // SAFETY: a capsule of this name holds this struct. It is taken, which leaves a released one there.
    let stream = unsafe { FFI_ArrowArrayStream::from_raw(pointer.as_ptr()) };
    match stream.get_schema.is_some() && stream.get_next.is_some() {
        true => Ok(stream),
        false => Err(PyTypeError::new_err("expected an Arrow stream, found one that was read already")),
    }
}

/// A stream's arrays, to its end, if it is one of texts.
fn of_stream(mut stream: FFI_ArrowArrayStream) -> Result<Vec<ArrayRef>, Fault> {
    let (Some(get_schema), Some(get_next)) = (stream.get_schema, stream.get_next) else {
        unreachable!("a stream that was taken has both");
    };
    // The system's error numbers, or 0.
    let succeed = |code| if code == 0 { Ok(()) } else { Err(Fault::Stream(std::io::Error::from_raw_os_error(code))) };
    let (mut schema, mut arrays) = (FFI_ArrowSchema::empty(), Vec::new());
    // SAFETY: the stream's own function, with it and a place for what it gives.
    succeed(unsafe { get_schema(&mut stream, &mut schema) })?;
    if is_released(&schema) {
        return Err(Fault::Input(": expected a column of strings, found a stream without a type".to_owned()));
    }
    // Before all of it is read.
    let data_type = of_type(&schema)?;
    loop {
        let mut array = FFI_ArrowArray::empty();
        // SAFETY: as above.
        succeed(unsafe { get_next(&mut stream, &mut array) })?;
        if array.is_released() {
            return Ok(chunks(&data_type, arrays)?);
        }
        arrays.push(array);
    }
}
