//! Errors and panics as exceptions, whose classes are in `python/nimbert/_errors.py`.

use pyo3::{intern, prelude::*};

/// What the library answers, or the exception for its error; for a panic, as [`nimbert::guard::guarded`] has it, too.
pub(crate) fn raised<T>(py: Python<'_>, answer: Result<nimbert::Result<T>, String>) -> PyResult<T> {
    let error = match answer {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error,
        Err(panic) => return Err(exception(py, "panic", &panic, None)),
    };
    let errno = if let nimbert::Error::Io { reason, .. } = &error { reason.raw_os_error() } else { None };
    Err(exception(py, error.kind().name(), &error.to_string(), errno))
}

/// The exception for an error of a kind, with the system's number if it has one.
pub(crate) fn exception(py: Python<'_>, kind: &str, message: &str, errno: Option<i32>) -> PyErr {
    let errors = py.import(intern!(py, "nimbert._errors"));
    let error = errors.and_then(|errors| errors.call_method1(intern!(py, "make"), (kind, message, errno)));
    error.map_or_else(|error| error, PyErr::from_value)
}
