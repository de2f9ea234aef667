//! Apache Parquet, as data sets on model hubs come in: flat columns of strings or numbers, labels also as lists of strings.

use parquet::{
    errors::ParquetError,
    file::reader::{FileReader as _, SerializedFileReader},
    record::Field,
};

use super::{FileReader, LabelField, Row, data_error};
use crate::error::{Error, Result};

impl FileReader<'_> {
    pub(super) fn parquet(self, rows: &mut Vec<Row>) -> Result<usize> {
        let Self { path, columns, .. } = self;
        let not_parquet = |error: ParquetError| data_error(path, None, "a Parquet file", error.to_string());
        let file = std::fs::File::open(path).map_err(|error| Error::io(path, error))?;
        let reader = SerializedFileReader::new(file).map_err(not_parquet)?;
        let names: Vec<String> = {
            let schema = reader.metadata().file_metadata().schema();
            schema.get_fields().iter().map(|field| field.name().to_owned()).collect()
        };
        let position = |name: &str, option: &str| {
            names.iter().position(|column| column == name).ok_or_else(|| {
                let got = format!("the columns {}", names.join(", "));
                data_error(path, None, &format!("a column {name:?} (see {option})"), got)
            })
        };
        let text_index = position(&columns.text, "--text-column")?;
        let label_index = position(&columns.label, "--label-column")?;
        let pair_index = columns.pair.as_ref().map(|pair| position(pair, "--text-pair-column")).transpose()?;
        for (line, record) in (1..).zip(reader.get_row_iter(None).map_err(not_parquet)?) {
            let record = record.map_err(|error| data_error(path, Some(line), "a row", error.to_string()))?;
            let fields: Vec<&Field> = record.get_column_iter().map(|(_, field)| field).collect();
            let text = |index: usize| {
                string(fields[index]).ok_or_else(|| {
                    let expected = format!("a string as {:?}", names[index]);
                    data_error(path, Some(line), &expected, fields[index].to_string())
                })
            };
            let label = match fields[label_index] {
                Field::ListInternal(list) => {
                    let labels: Option<Vec<String>> = list.elements().iter().map(string).collect();
                    let labels = labels.ok_or_else(|| {
                        data_error(path, Some(line), "a list of strings", fields[label_index].to_string())
                    })?;
                    LabelField::List(labels)
                }
                _ => LabelField::One(text(label_index)?),
            };
            rows.push(self.row(line, text(text_index)?, pair_index.map(text).transpose()?, label)?);
        }
        Ok(names.len())
    }
}

/// A value as text; none if it is missing or made of other values.
fn string(field: &Field) -> Option<String> {
    match field {
        Field::Str(text) => Some(text.clone()),
        Field::Bool(_)
        | Field::Byte(_)
        | Field::Short(_)
        | Field::Int(_)
        | Field::Long(_)
        | Field::UByte(_)
        | Field::UShort(_)
        | Field::UInt(_)
        | Field::ULong(_)
        | Field::Float(_)
        | Field::Double(_) => Some(field.to_string()),
        _ => None,
    }
}
