//! Apache Parquet: flat columns of strings or numbers.

use std::{fs::File, path::Path, sync::atomic::Ordering};

use anyhow::{Context, anyhow};
use parquet::{
    file::reader::{FileReader as _, SerializedFileReader},
    record::Field,
    schema::types::Type,
};

use super::{BadRow, Columns, Gone, Reader, Sink, Text};

/// Looks for the columns now, and reads the rows, and of them those columns only, when it is called.
pub(super) fn reader(path: &Path, columns: Columns, sink: Sink) -> anyhow::Result<Reader> {
    let name = path.display().to_string();
    let file = File::open(path).with_context(|| name.clone())?;
    let reader =
        SerializedFileReader::new(file).map_err(|error| anyhow!("{name}: expected a Parquet file, found {error}"))?;
    let metadata = reader.metadata().file_metadata();
    let fields = metadata.schema().get_fields();
    let field = |column: &str, option: &str| {
        fields.iter().find(|field| field.name() == column).cloned().with_context(|| {
            let found = fields.iter().map(|field| field.name()).collect::<Vec<_>>().join(", ");
            format!("{name}: expected a column {column:?} (see {option}), found the columns {found}")
        })
    };
    let mut wanted = vec![field(&columns.text, "--text-column")?];
    if let Some(pair) = &columns.pair {
        wanted.push(field(pair, "--text-pair-column")?);
    }
    let schema = Type::group_type_builder(metadata.schema().name()).with_fields(wanted).build()?;
    let rows = metadata.num_rows() as u64;
    let read = move || {
        // Nobody is there any more to be told.
        let _ = read(&reader, schema, &name, &columns, &sink);
    };
    Ok((Some(rows), Box::new(read)))
}

fn read(
    reader: &SerializedFileReader<File>,
    schema: Type,
    name: &str,
    columns: &Columns,
    sink: &Sink,
) -> Result<(), Gone> {
    let rows = match reader.get_row_iter(Some(schema)) {
        Ok(rows) => rows,
        Err(error) => return sink.send(Err(anyhow!("{name}: {error}"))),
    };
    for (number, record) in (1..).zip(rows) {
        let record = match record {
            Ok(record) => record,
            Err(error) => return sink.send(Err(anyhow!("{name}:{number}: {error}"))),
        };
        let text = |column: &str| {
            let field = record.get_column_iter().find(|(name, _)| *name == column).map(|(_, field)| field);
            field.and_then(string).ok_or_else(|| BadRow {
                place: format!("{name}:{number}"),
                expected: format!("a string as {column:?}"),
                got: field.map_or("none".to_owned(), Field::to_string),
            })
        };
        let row = text(&columns.text)
            .and_then(|first| Ok(Text { text: first, pair: columns.pair.as_deref().map(text).transpose()? }));
        sink.progress.store(number, Ordering::Relaxed);
        sink.send(Ok(row))?;
    }
    Ok(())
}

/// A value as text; none if it is missing or made of other values.
fn string(field: &Field) -> Option<String> {
    match field {
        Field::Str(text) => Some(text.clone()),
        Field::Null | Field::Group(_) | Field::ListInternal(_) | Field::MapInternal(_) | Field::Bytes(_) => None,
        number => Some(number.to_string()),
    }
}
