//! Answers: as Python's objects, and as a table of Arrow's.

use std::{ops::Range, sync::Arc};

use arrow_array::{
    Array, ArrayRef, BooleanArray, Float32Array, RecordBatch, RecordBatchIterator, StringArray, StructArray,
    builder::{ListBuilder, StringBuilder},
    ffi_stream::FFI_ArrowArrayStream,
};
use arrow_schema::{DataType, Field, FieldRef};
use nimbert::{Prediction, Task, prediction::escaped};
use pyo3::{
    prelude::*,
    types::{IntoPyDict, PyCapsule, PyTuple},
};

/// The answers of one call, in its order.
#[pyclass(frozen, module = "nimbert._nimbert")]
pub(crate) struct Rows {
    pub(crate) predictions: Vec<Prediction>,
    /// What they are the answers to.
    pub(crate) tasks: Vec<Task>,
}

#[pymethods]
impl Rows {
    fn __len__(&self) -> usize {
        self.predictions.len()
    }

    /// The fields of a `Prediction` in Python.
    fn row<'py>(&self, py: Python<'py>, index: usize) -> PyResult<Bound<'py, PyTuple>> {
        fields(py, &self.predictions[index])
    }

    /// What `__arrow_c_stream__` returns.
    fn arrow_stream<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        let batch = py.detach(|| self.batch());
        let schema = batch.schema();
        let stream = FFI_ArrowArrayStream::new(Box::new(RecordBatchIterator::new([Ok(batch)], schema)));
        PyCapsule::new_with_value(py, stream, c"arrow_array_stream")
    }
}

/// Why a text gets a label.
#[pyclass(frozen, module = "nimbert._nimbert")]
pub(crate) struct Explanation {
    pub(crate) explained: nimbert::explain::Explanation,
    /// Where its words stand, in characters.
    pub(crate) ranges: Vec<Range<usize>>,
}

#[pymethods]
impl Explanation {
    /// The fields of a `Prediction`.
    fn prediction<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        fields(py, &self.explained.prediction)
    }

    /// Of each word: where it begins and ends, whether it is one of the second text, and its attribution.
    fn words(&self) -> Vec<(usize, usize, bool, f64)> {
        let words = self.explained.words.iter().zip(&self.ranges);
        words.map(|(word, range)| (range.start, range.end, word.is_of_pair, word.attribution)).collect()
    }

    /// The label that is explained, the value that is, that of no words, unread words, and what the attributions are.
    fn about(&self) -> (&str, f64, f64, usize, &'static str) {
        let explained = &self.explained;
        let label = &explained.prediction.scores[explained.label_id].0;
        (label, explained.value, explained.base_value, explained.unread, explained.attribution.name())
    }
}

/// Those of the further tasks lie in a list.
fn fields<'py>(py: Python<'py>, row: &Prediction) -> PyResult<Bound<'py, PyTuple>> {
    let Prediction { label, score, labels, abstained, logits, set, distance, unknown, task, .. } = row;
    let scores = row.scores.iter().into_py_dict(py)?;
    let further = row.further.iter().map(|row| fields(py, row)).collect::<PyResult<Vec<_>>>()?;
    (label, score, labels, abstained, scores, logits, set, distance, unknown, task, further).into_pyobject(py)
}

impl Rows {
    /// Those of the first task, and, where there are further ones, a struct of a struct for each.
    fn batch(&self) -> RecordBatch {
        let columns = |(index, task): (usize, &Task)| {
            let rows: Vec<&Prediction> = self.predictions.iter().filter_map(|row| row.tasks().nth(index)).collect();
            columns(&rows, &task.labels)
        };
        let mut of_tasks = self.tasks.iter().enumerate().map(columns);
        let mut all = of_tasks.next().expect("a classifier has a task");
        let further = self.tasks[1..].iter().zip(of_tasks).map(|(task, columns)| -> (FieldRef, ArrayRef) {
            let answers = StructArray::from(RecordBatch::try_from_iter(columns).expect(ONE_LENGTH));
            let name = escaped(task.name.as_deref().unwrap_or_default());
            (Arc::new(Field::new(name, answers.data_type().clone(), false)), Arc::new(answers))
        });
        let further: Vec<_> = further.collect();
        if !further.is_empty() {
            all.push(("further", Arc::new(StructArray::from(further))));
        }
        RecordBatch::try_from_iter(all).expect(ONE_LENGTH)
    }
}

const ONE_LENGTH: &str = "columns of one length";

/// The columns of one task's answers.
fn columns(rows: &[&Prediction], labels: &[String]) -> Vec<(&'static str, ArrayRef)> {
    let mut held = ListBuilder::new(StringBuilder::new());
    let mut sets = ListBuilder::new(StringBuilder::new());
    rows.iter().for_each(|row| sets.append_option(row.set.as_ref().map(|set| set.iter().map(Some))));
    rows.iter().for_each(|row| held.append_value(row.labels.iter().map(Some)));
    let scores = labels.iter().enumerate().map(|(id, label)| -> (FieldRef, ArrayRef) {
        let scores = rows.iter().map(|row| row.scores[id].1);
        // The name of a field ends at a NUL.
        let field = Field::new(escaped(label), DataType::Float32, false);
        (Arc::new(field), Arc::new(Float32Array::from_iter_values(scores)))
    });
    vec![
        ("label", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.label)))),
        ("score", Arc::new(Float32Array::from_iter_values(rows.iter().map(|row| row.score)))),
        ("labels", Arc::new(held.finish())),
        ("abstained", Arc::new(rows.iter().map(|row| row.abstained).collect::<BooleanArray>())),
        ("scores", Arc::new(StructArray::from(scores.collect::<Vec<_>>()))),
        ("set", Arc::new(sets.finish())),
        ("distance", Arc::new(rows.iter().map(|row| row.distance).collect::<Float32Array>())),
        ("unknown", Arc::new(rows.iter().map(|row| row.unknown).collect::<BooleanArray>())),
    ]
}
