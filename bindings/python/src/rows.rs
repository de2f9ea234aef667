//! Answers: as Python's objects, and as a table of Arrow's.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Float32Array, RecordBatch, RecordBatchIterator, StringArray, StructArray,
    builder::{ListBuilder, StringBuilder},
    ffi_stream::FFI_ArrowArrayStream,
};
use arrow_schema::{DataType, Field, FieldRef};
use nimbert::{Prediction, prediction::escaped};
use pyo3::{
    prelude::*,
    types::{IntoPyDict, PyCapsule, PyTuple},
};

/// The answers of one call, in its order.
#[pyclass(frozen, module = "nimbert._nimbert")]
pub(crate) struct Rows {
    pub(crate) predictions: Vec<Prediction>,
    pub(crate) labels: Vec<String>,
}

#[pymethods]
impl Rows {
    fn __len__(&self) -> usize {
        self.predictions.len()
    }

    /// The fields of a `Prediction` in Python.
    fn row<'py>(&self, py: Python<'py>, index: usize) -> PyResult<Bound<'py, PyTuple>> {
        let row = &self.predictions[index];
        let Prediction { label, score, labels, abstained, logits, set, distance, unknown, .. } = row;
        let scores = row.scores.iter().into_py_dict(py)?;
        (label, score, labels, abstained, scores, logits, set, distance, unknown).into_pyobject(py)
    }

    /// What `__arrow_c_stream__` returns.
    fn arrow_stream<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        let batch = py.detach(|| self.batch());
        let schema = batch.schema();
        let stream = FFI_ArrowArrayStream::new(Box::new(RecordBatchIterator::new([Ok(batch)], schema)));
        PyCapsule::new_with_value(py, stream, c"arrow_array_stream")
    }
}

impl Rows {
    fn batch(&self) -> RecordBatch {
        let rows = &self.predictions;
        let mut labels = ListBuilder::new(StringBuilder::new());
        let mut sets = ListBuilder::new(StringBuilder::new());
        rows.iter().for_each(|row| sets.append_option(row.set.as_ref().map(|set| set.iter().map(Some))));
        rows.iter().for_each(|row| labels.append_value(row.labels.iter().map(Some)));
        let scores = self.labels.iter().enumerate().map(|(id, label)| -> (FieldRef, ArrayRef) {
            let scores = rows.iter().map(|row| row.scores[id].1);
            // The name of a field ends at a NUL.
            let field = Field::new(escaped(label), DataType::Float32, false);
            (Arc::new(field), Arc::new(Float32Array::from_iter_values(scores)))
        });
        let columns: [(&str, ArrayRef); 8] = [
            ("label", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.label)))),
            ("score", Arc::new(Float32Array::from_iter_values(rows.iter().map(|row| row.score)))),
            ("labels", Arc::new(labels.finish())),
            ("abstained", Arc::new(rows.iter().map(|row| row.abstained).collect::<BooleanArray>())),
            ("scores", Arc::new(StructArray::from(scores.collect::<Vec<_>>()))),
            ("set", Arc::new(sets.finish())),
            ("distance", Arc::new(rows.iter().map(|row| row.distance).collect::<Float32Array>())),
            ("unknown", Arc::new(rows.iter().map(|row| row.unknown).collect::<BooleanArray>())),
        ];
        RecordBatch::try_from_iter(columns).expect("columns of one length")
    }
}
