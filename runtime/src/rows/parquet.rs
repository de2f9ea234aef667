//! Apache Parquet, as data sets on model hubs come in.

use std::{
    fs::File,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parquet::{
    basic::{ConvertedType, LogicalType, Repetition, TimeUnit, Type as PhysicalType},
    errors::ParquetError,
    file::reader::{FileReader as _, SerializedFileReader},
    record::{Field, reader::RowIter},
    schema::types::{Type, TypePtr},
};
use serde_json::{Map, Number};

use super::{BadRow, Item, Kind, Reader, Row, RowsError, Value, bad_row};

/// Where `datasets` keeps what it knows of the columns.
const DATASETS_KEY: &str = "huggingface";

pub(super) fn open(path: &Path, name: String) -> Result<Reader, RowsError> {
    let file = File::open(path).map_err(|reason| RowsError::Io { name: name.clone(), reason })?;
    let reader = SerializedFileReader::new(file).map_err(|error| whole(&name, "a Parquet file", in_words(&error)))?;
    let metadata = reader.metadata().file_metadata();
    let fields = metadata.schema().get_fields();
    let columns: Vec<String> = fields.iter().map(|field| field.name().to_owned()).collect();
    if let Some(repeated) = columns.iter().enumerate().find(|(index, column)| columns[..*index].contains(column)) {
        return Err(whole(&name, "a name of its own for each column", format!("{:?} twice", repeated.1)).into());
    }
    let kinds = fields.iter().map(|field| kind(field)).collect();
    let pairs = metadata.key_value_metadata().into_iter().flatten();
    let of_datasets = pairs.filter(|pair| pair.key == DATASETS_KEY).find_map(|pair| pair.value.as_deref());
    let class_names = of_datasets.map(class_names).unwrap_or_default();
    let total = Some(metadata.num_rows() as u64);
    let progress: Arc<AtomicU64> = Arc::default();
    let read = Arc::clone(&progress);
    Ok(Reader {
        name: name.clone(),
        columns: Some(columns.into()),
        header_line: None,
        kinds,
        class_names,
        progress,
        total,
        rows: Box::new(move |wanted| match rows(reader, wanted, &name) {
            Ok((records, fields)) => {
                let columns = fields.iter().map(|field| field.name().to_owned()).collect();
                let nanoseconds = fields.iter().map(|field| Nanoseconds::of(field)).collect();
                Box::new(Records { records, name, columns, nanoseconds, number: 0, read })
            }
            Err(bad) => Box::new(std::iter::once(Err(bad.into()))),
        }),
    })
}

fn whole(name: &str, expected: &str, got: impl Into<String>) -> BadRow {
    BadRow { line: None, is_last: true, ..bad_row(name, 0, expected, got) }
}

/// The library's reason as people say it.
fn in_words(error: &ParquetError) -> String {
    let message = error.to_string();
    match message.split_once("Disabled feature at compile time: ") {
        Some((_, codec)) => {
            format!("{codec} compression, which nimbert does not read: write it with zstd, snappy or gzip")
        }
        None => message,
    }
}

/// Records of a file, and what the schema says of their columns.
type Table = (RowIter<'static>, Vec<TypePtr>);

fn rows(reader: SerializedFileReader<File>, wanted: Option<Vec<String>>, name: &str) -> Result<Table, BadRow> {
    let schema = reader.metadata().file_metadata().schema().clone();
    let rows = RowIter::from_file_into(Box::new(reader));
    let mut fields = schema.get_fields().to_vec();
    let Some(wanted) = wanted else { return Ok((rows, fields)) };
    fields.retain(|field| wanted.iter().any(|name| name == field.name()));
    let schema = Type::group_type_builder(schema.name()).with_fields(fields.clone()).build();
    let rows = schema.and_then(|schema| rows.project(Some(schema)));
    Ok((rows.map_err(|error| whole(name, "a Parquet file", in_words(&error)))?, fields))
}

struct Records {
    records: RowIter<'static>,
    name: String,
    columns: Arc<[String]>,
    /// Of each column, if it has such.
    nanoseconds: Vec<Option<Nanoseconds>>,
    number: u64,
    read: Arc<AtomicU64>,
}

impl Iterator for Records {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        let record = self.records.next()?;
        self.number += 1;
        self.read.store(self.number, Ordering::Relaxed);
        let (name, number) = (&self.name, self.number);
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let bad = bad_row(name, number, "a row", in_words(&error));
                return Some(Err(BadRow { is_last: true, ..bad }.into()));
            }
        };
        let values = record.get_column_iter().zip(&self.nanoseconds).map(|((column, field), nanoseconds)| {
            if let (Field::Long(time), Some(nanoseconds)) = (field, nanoseconds) {
                return Ok(Value::String(nanoseconds.text(*time)));
            }
            value(field).map_err(|byte| {
                let got = format!("the byte 0x{byte:02x} in column {column:?}");
                RowsError::from(bad_row(name, number, "UTF-8", got))
            })
        });
        Some(values.collect::<Result<Vec<_>, _>>().map(|values| Row {
            line: number,
            columns: Arc::clone(&self.columns),
            values,
            may_hold_rows: false,
        }))
    }
}

/// What the schema says of a column. Dates, decimals, lists and so on are text, as they are written; times of the kind INT96, which are
/// obsolete, in milliseconds, to which the library cuts them.
fn kind(field: &Type) -> Kind {
    // A column that repeats without a group around it is a list too.
    let info = field.get_basic_info();
    if !field.is_primitive() || (info.has_repetition() && info.repetition() == Repetition::REPEATED) {
        return Kind::Text;
    }
    let is_integer = |converted| {
        use ConvertedType::{INT_8, INT_16, INT_32, INT_64, NONE, UINT_8, UINT_16, UINT_32};
        matches!(converted, NONE | INT_8 | INT_16 | INT_32 | INT_64 | UINT_8 | UINT_16 | UINT_32)
    };
    match field.get_physical_type() {
        _ if Nanoseconds::of(field).is_some() => Kind::Text,
        PhysicalType::BOOLEAN => Kind::Boolean,
        PhysicalType::INT32 | PhysicalType::INT64 if is_integer(info.converted_type()) => Kind::Integer,
        PhysicalType::FLOAT | PhysicalType::DOUBLE => Kind::Number,
        _ => Kind::Text,
    }
}

/// What integers mean that the library takes for numbers, since it knows of microseconds only.
#[derive(Clone, Copy)]
enum Nanoseconds {
    /// Since 1970.
    Timestamp,
    /// Since midnight.
    Time,
}

impl Nanoseconds {
    /// Of a column; what is within lists and groups stays a number.
    fn of(field: &Type) -> Option<Self> {
        match field.get_basic_info().logical_type_ref()? {
            LogicalType::Timestamp { unit: TimeUnit::NANOS, .. } => Some(Self::Timestamp),
            LogicalType::Time { unit: TimeUnit::NANOS, .. } => Some(Self::Time),
            _ => None,
        }
    }

    /// As the library writes microseconds: `2026-11-30 12:00:00.123456789 +00:00`, `12:00:00.123456789`.
    fn text(self, time: i64) -> String {
        let (micros, nanos) = (time.div_euclid(1000), format!("{:03}", time.rem_euclid(1000)));
        match self {
            Self::Timestamp => Field::TimestampMicros(micros).to_string().replacen(" +", &(nanos + " +"), 1),
            Self::Time => Field::TimeMicros(micros).to_string() + &nanos,
        }
    }
}

/// A value in JSON; the first byte that is none of UTF-8 if it is binary and no text.
fn value(field: &Field) -> Result<Value, u8> {
    let float = |number: f64, shortest: String| match shortest.parse::<f64>().ok().and_then(Number::from_f64) {
        Some(number) => Value::Number(number),
        // What pandas writes for a number that is missing.
        None if number.is_nan() => Value::Null,
        None => Value::String(shortest),
    };
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => Value::Bool(*value),
        Field::Byte(number) => Value::from(*number),
        Field::Short(number) => Value::from(*number),
        Field::Int(number) => Value::from(*number),
        Field::Long(number) => Value::from(*number),
        Field::UByte(number) => Value::from(*number),
        Field::UShort(number) => Value::from(*number),
        Field::UInt(number) => Value::from(*number),
        Field::ULong(number) => Value::from(*number),
        // The shortest number that is the same in 32 bits.
        Field::Float(number) => float(f64::from(*number), number.to_string()),
        Field::Double(number) => float(*number, number.to_string()),
        Field::Str(text) => Value::String(text.clone()),
        Field::Bytes(bytes) => match str::from_utf8(bytes.data()) {
            Ok(text) => Value::String(text.to_owned()),
            Err(error) => return Err(bytes.data()[error.valid_up_to()]),
        },
        Field::ListInternal(list) => Value::Array(list.elements().iter().map(value).collect::<Result<_, _>>()?),
        Field::Group(group) => {
            let fields = group.get_column_iter().map(|(name, field)| Ok((name.clone(), value(field)?)));
            Value::Object(fields.collect::<Result<Map<_, _>, u8>>()?)
        }
        other => Value::String(other.to_string()),
    })
}

/// The names of class labels by column, from what `datasets` has written: `info.features.COLUMN`, which is a `ClassLabel`
/// or a list of them.
fn class_names(metadata: &str) -> Vec<(String, Vec<String>)> {
    let metadata: Value = serde_json::from_str(metadata).unwrap_or_default();
    let Some(features) = metadata.pointer("/info/features").and_then(Value::as_object) else { return Vec::new() };
    let names = |feature: &Value| -> Option<Vec<String>> {
        let feature = feature.get("feature").unwrap_or(feature);
        let is_class_label = feature.get("_type").is_some_and(|kind| kind == "ClassLabel");
        let names = feature.get("names").filter(|_| is_class_label)?.as_array()?;
        names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
    };
    features.iter().filter_map(|(column, feature)| Some((column.clone(), names(feature)?))).collect()
}
