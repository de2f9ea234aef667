//! Results in columns: Parquet and Arrow files.

use std::{fs::File, io, sync::Arc};

use arrow_array::{ArrayRef, Float32Array, RecordBatch, StringArray};
use arrow_ipc::writer::FileWriter;
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use nimbert::Prediction;
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};

/// Which kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Parquet,
    Arrow,
}

enum Writer {
    Parquet(ArrowWriter<File>),
    Arrow(FileWriter<File>),
}

/// A file in the making: the columns text, label, score, and the score of each label.
pub(super) struct Columns {
    schema: SchemaRef,
    writer: Writer,
    /// Rows that are not written yet.
    texts: Vec<String>,
    labels: Vec<String>,
    scores: Vec<f32>,
    label_scores: Vec<Vec<f32>>,
}

impl Columns {
    pub(super) fn new(file: File, kind: Kind, labels: &[String]) -> io::Result<Self> {
        let text = |name: &str| Field::new(name, DataType::Utf8, false);
        let number = |name: &str| Field::new(name, DataType::Float32, false);
        let fixed = [text("text"), text("label"), number("score")];
        let scores = labels.iter().map(|label| number(&format!("score {label}")));
        let schema = Arc::new(Schema::new(fixed.into_iter().chain(scores).collect::<Vec<_>>()));
        let writer = match kind {
            Kind::Arrow => Writer::Arrow(FileWriter::try_new(file, &schema).map_err(of_arrow)?),
            Kind::Parquet => {
                let compression = Compression::ZSTD(ZstdLevel::default());
                let properties = WriterProperties::builder().set_compression(compression).build();
                let writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties));
                Writer::Parquet(writer.map_err(of_parquet)?)
            }
        };
        let label_scores = vec![Vec::new(); labels.len()];
        Ok(Self { schema, writer, texts: vec![], labels: vec![], scores: vec![], label_scores })
    }

    pub(super) fn push(&mut self, text: &str, prediction: &Prediction) {
        self.texts.push(text.to_owned());
        self.labels.push(prediction.summary());
        self.scores.push(prediction.score);
        for (column, (_, score)) in self.label_scores.iter_mut().zip(&prediction.scores) {
            column.push(*score);
        }
    }

    /// Writes the rows that were pushed.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.texts.is_empty() {
            return Ok(());
        }
        let texts = |column: &mut Vec<String>| Arc::new(StringArray::from(std::mem::take(column))) as ArrayRef;
        let numbers = |column: &mut Vec<f32>| Arc::new(Float32Array::from(std::mem::take(column))) as ArrayRef;
        let mut columns = vec![texts(&mut self.texts), texts(&mut self.labels), numbers(&mut self.scores)];
        columns.extend(self.label_scores.iter_mut().map(numbers));
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
