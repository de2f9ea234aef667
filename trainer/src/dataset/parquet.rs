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

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use nimbert::ProblemType;
    use parquet::{
        basic::Compression,
        data_type::{ByteArray, ByteArrayType, Int32Type},
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };

    use super::super::{Columns, Dataset};

    /// Two rows: a text, an id as label, and a list of tags.
    fn write(path: &Path) {
        let schema = "message rows {
            required binary text (UTF8);
            required int32 label;
            optional group tags (LIST) { repeated group list { required binary element (UTF8); } }
        }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = Arc::new(WriterProperties::builder().set_compression(Compression::SNAPPY).build());
        let file = std::fs::File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let strings = |texts: &[&str]| texts.iter().map(|&text| ByteArray::from(text)).collect::<Vec<_>>();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&strings(&["one, two", "three"]), None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int32Type>().write_batch(&[7, 8], None, None).unwrap();
        column.close().unwrap();
        // The first row has the tags a and b, the second none.
        let mut column = group.next_column().unwrap().unwrap();
        let values = strings(&["a", "b"]);
        column.typed::<ByteArrayType>().write_batch(&values, Some(&[2, 2, 1]), Some(&[0, 1, 0])).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn numbers_and_lists_are_labels() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.parquet");
        write(&path);
        let open = |columns: &Columns| Dataset::open(std::slice::from_ref(&path), columns);
        let dataset = open(&Columns::default()).unwrap();
        let rows = dataset.rows.iter().map(|row| (row.text.as_str(), row.labels[0].as_str(), row.line));
        assert_eq!(rows.collect::<Vec<_>>(), [("one, two", "7", 1), ("three", "8", 2)]);
        let tags = Columns { label: "tags".to_owned(), problem_type: ProblemType::MultiLabel, ..Columns::default() };
        let dataset = open(&tags).unwrap();
        assert_eq!((dataset.rows[0].labels.join(" "), dataset.rows[1].labels.len()), ("a b".to_owned(), 0));
        let error = open(&Columns { text: "body".to_owned(), ..Columns::default() }).unwrap_err().to_string();
        assert!(error.contains("--text-column") && error.contains("text, label, tags"), "{error}");
        std::fs::write(&path, b"no parquet").unwrap();
        assert!(open(&tags).unwrap_err().to_string().contains("expected a Parquet file"));
    }
}
