//! Results in columns: Parquet and Arrow files.

use std::{fs::File, io, sync::Arc};

use arrow_array::{ArrayRef, BooleanArray, Float32Array, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow_ipc::writer::FileWriter;
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use nimbert::rows::{Kind, Value};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};

use super::{
    input::Skipped,
    table::{Answer, Table, label_cell, plain},
};

/// Which kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    Parquet,
    Arrow,
}

enum Writer {
    Parquet(ArrowWriter<File>),
    Arrow(FileWriter<File>),
}

/// Values of a column that are not written yet.
enum Column {
    Text(Vec<Option<String>>),
    Score(Vec<Option<f32>>),
    Number(Vec<Option<f64>>),
    Integer(Vec<Option<i64>>),
    Boolean(Vec<Option<bool>>),
}

/// A file in the making: a [`Table`] in columns. What a skipped row lacks is null.
pub(super) struct Columns {
    schema: SchemaRef,
    writer: Writer,
    table: Table,
    columns: Vec<Column>,
}

impl Column {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Text => Self::Text(Vec::new()),
            Kind::Integer => Self::Integer(Vec::new()),
            Kind::Number => Self::Number(Vec::new()),
            Kind::Boolean => Self::Boolean(Vec::new()),
        }
    }

    fn data_type(&self) -> DataType {
        match self {
            Self::Text(_) => DataType::Utf8,
            Self::Score(_) => DataType::Float32,
            Self::Number(_) => DataType::Float64,
            Self::Integer(_) => DataType::Int64,
            Self::Boolean(_) => DataType::Boolean,
        }
    }

    fn push(&mut self, value: Option<&Value>) {
        let value = value.filter(|value| !value.is_null());
        match self {
            Self::Text(values) => values.push(value.map(plain)),
            Self::Score(values) => values.push(value.and_then(Value::as_f64).map(|score| score as f32)),
            // JSON has no infinities: they come as text.
            Self::Number(values) => {
                values.push(value.and_then(|value| value.as_f64().or_else(|| value.as_str()?.parse().ok())));
            }
            Self::Integer(values) => values.push(value.and_then(Value::as_i64)),
            Self::Boolean(values) => values.push(value.and_then(Value::as_bool)),
        }
    }

    fn take(&mut self) -> ArrayRef {
        match self {
            Self::Text(values) => Arc::new(StringArray::from(std::mem::take(values))),
            Self::Score(values) => Arc::new(Float32Array::from(std::mem::take(values))),
            Self::Number(values) => Arc::new(Float64Array::from(std::mem::take(values))),
            Self::Integer(values) => Arc::new(Int64Array::from(std::mem::take(values))),
            Self::Boolean(values) => Arc::new(BooleanArray::from(std::mem::take(values))),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Text(values) => values.is_empty(),
            Self::Score(values) => values.is_empty(),
            Self::Number(values) => values.is_empty(),
            Self::Integer(values) => values.is_empty(),
            Self::Boolean(values) => values.is_empty(),
        }
    }
}

impl Columns {
    pub(super) fn new(file: File, kind: FileKind, table: &Table) -> io::Result<Self> {
        let mut columns = vec![Column::of(Kind::Text)];
        for task in &table.tasks {
            columns.extend([Column::of(Kind::Text), Column::Score(Vec::new())]);
            columns.extend(task.labels.iter().map(|_| Column::Score(Vec::new())));
            columns.extend(task.extras.iter().map(|extra| Column::of(extra.kind())));
        }
        columns.extend(table.kept.iter().map(|(_, kind)| Column::of(*kind)));
        columns.extend(table.has_errors.then(|| Column::of(Kind::Text)));
        let fields = table.columns().into_iter().zip(&columns).enumerate();
        // A text and its scores are missing only where a row may have been skipped.
        let own = columns.len() - table.kept.len();
        let is_nullable = |index: usize| table.has_errors || index >= own;
        let fields = fields.map(|(index, (name, column))| Field::new(name, column.data_type(), is_nullable(index)));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let writer = match kind {
            FileKind::Arrow => Writer::Arrow(FileWriter::try_new(file, &schema).map_err(of_arrow)?),
            FileKind::Parquet => {
                let compression = Compression::ZSTD(ZstdLevel::default());
                let properties = WriterProperties::builder().set_compression(compression).build();
                let writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties));
                Writer::Parquet(writer.map_err(of_parquet)?)
            }
        };
        Ok(Self { schema, writer, table: table.clone(), columns })
    }

    pub(super) fn push(&mut self, answer: Answer<'_>) {
        let own = self.columns.len() - self.table.kept.len() - usize::from(self.table.has_errors);
        let mut columns = self.columns.iter_mut();
        let mut push = |value: Option<&Value>| columns.next().expect("a column for each value").push(value);
        match answer {
            Answer::Classified(text, prediction) => {
                push(Some(&text.text.as_str().into()));
                for (columns, prediction) in self.table.tasks.iter().zip(prediction.tasks()) {
                    push(Some(&label_cell(prediction).into()));
                    push(Some(&prediction.score.into()));
                    prediction.scores.iter().for_each(|(_, score)| push(Some(&(*score).into())));
                    columns.extras.iter().for_each(|extra| push(Some(&extra.value(prediction))));
                }
                self.table.kept.iter().for_each(|(name, _)| push(text.kept.get(name)));
                if self.table.has_errors {
                    push(None);
                }
            }
            Answer::Skipped(Skipped { bad, kept }) => {
                (0..own).for_each(|_| push(None));
                self.table.kept.iter().for_each(|(name, _)| push(kept.get(name)));
                push(Some(&bad.to_string().into()));
            }
        }
    }

    /// Writes the rows that were pushed.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.columns.first().is_none_or(Column::is_empty) {
            return Ok(());
        }
        let columns = self.columns.iter_mut().map(Column::take).collect();
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(of_arrow)?;
        match &mut self.writer {
            Writer::Parquet(writer) => writer.write(&batch).map_err(of_parquet),
            Writer::Arrow(writer) => writer.write(&batch).map_err(of_arrow),
        }
    }

    /// Writes what is left, and the end of the file, which tells where all columns are.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        match self.writer {
            Writer::Parquet(writer) => writer.close().map(drop).map_err(of_parquet),
            Writer::Arrow(mut writer) => writer.finish().map_err(of_arrow),
        }
    }
}

fn of_arrow(error: ArrowError) -> io::Error {
    match error {
        ArrowError::IoError(_, error) => error,
        other => io::Error::other(other),
    }
}

fn of_parquet(error: parquet::errors::ParquetError) -> io::Error {
    io::Error::other(error)
}
