//! Parquet and Arrow files, in and out.

mod common;

use std::{fs::File, path::Path, sync::Arc};

use arrow_array::{
    Array, ArrayRef, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    Time64NanosecondArray, TimestampNanosecondArray,
};
use arrow_ipc::reader::FileReader;
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};

/// Exit status and messages of a run.
fn classify(input: &Path, output: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = common::nimbert("classify");
    let finished = command.arg("--input").arg(input).arg("--output").arg(output).args(arguments).output().unwrap();
    (finished.status.code(), String::from_utf8(finished.stderr).unwrap())
}

/// Three rows: a number, and a text that one of them has not.
fn write(path: &Path) {
    let fields = [Field::new("id", DataType::Int32, false), Field::new("text", DataType::Utf8, true)];
    let schema = Arc::new(Schema::new(fields.to_vec()));
    let ids = Arc::new(Int32Array::from(vec![1, 2, 3]));
    let texts = Arc::new(StringArray::from(vec![Some("a great film"), None, Some("terrible")]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![ids, texts]).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// The second row was skipped: it has its number of the file, and what is wrong with it.
fn check(batch: &RecordBatch) {
    let schema = batch.schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["text", "label", "score", "score negative", "score positive", "id", "error"]);
    let strings = |column: usize| batch.column(column).as_any().downcast_ref::<StringArray>().unwrap().clone();
    assert_eq!(strings(0).iter().collect::<Vec<_>>(), [Some("a great film"), None, Some("terrible")]);
    assert_eq!(strings(1).iter().collect::<Vec<_>>(), [Some("positive"), None, Some("positive")]);
    let scores = batch.column(2).as_any().downcast_ref::<Float32Array>().unwrap();
    assert!((scores.value(0) - 0.819_857).abs() < 1e-4 && scores.is_null(1), "{}", scores.value(0));
    let ids = batch.column(5).as_any().downcast_ref::<Int64Array>().unwrap();
    assert_eq!(ids.iter().collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
    assert!(strings(6).value(1).contains("in.parquet:2: expected a string") && strings(6).is_null(0));
}

#[test]
fn a_file_of_columns_is_read_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let [input, parquet, arrow] = ["in.parquet", "out.parquet", "out.arrow"].map(|name| folder.path().join(name));
    write(&input);
    let (status, message) = classify(&input, &parquet, &[]);
    assert!(status == Some(2) && message.contains("in.parquet:2: expected a string as \"text\""), "{message}");
    for output in [&parquet, &arrow] {
        assert_eq!(classify(&input, output, &["--on-error", "skip"]).0, Some(0));
    }
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&parquet).unwrap()).unwrap().build().unwrap();
    let batches: Vec<_> = reader.map(Result::unwrap).collect();
    let reader = FileReader::try_new(File::open(&arrow).unwrap(), None).unwrap();
    let of_arrow: Vec<_> = reader.map(Result::unwrap).collect();
    assert_eq!((batches.len(), of_arrow.len()), (1, 1));
    batches.iter().chain(&of_arrow).for_each(check);
    // A number is a text too.
    assert_eq!(classify(&input, &arrow, &["--text-column", "id"]).0, Some(0));
    let names = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 3, "only the files that were asked for");
}

#[test]
fn numbers_and_times_stay_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let [input, output, lines] = ["in.parquet", "out.parquet", "out.jsonl"].map(|name| folder.path().join(name));
    let nanoseconds = DataType::Timestamp(TimeUnit::Nanosecond, None);
    let fields = [
        Field::new("text", DataType::Utf8, false),
        Field::new("number", DataType::Float64, false),
        Field::new("time", nanoseconds, false),
        Field::new("of day", DataType::Time64(TimeUnit::Nanosecond), false),
    ];
    let schema = Arc::new(Schema::new(fields.to_vec()));
    let texts = Arc::new(StringArray::from(vec!["a great film", "terrible", "dull"]));
    // Whole numbers that are no integers of 64 bits, and no numbers of JSON.
    let numbers = [1.7e18, f64::INFINITY, f64::NEG_INFINITY];
    // 1969 has times before the first one.
    let times = Arc::new(TimestampNanosecondArray::from(vec![1_700_000_000_123_456_789, -1, 0]));
    let of_day = Arc::new(Time64NanosecondArray::from(vec![0, 3_600_000_000_001, 86_399_999_999_999]));
    let columns: Vec<ArrayRef> = vec![texts, Arc::new(Float64Array::from(numbers.to_vec())), times, of_day];
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(&input).unwrap(), schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    for path in [&output, &lines] {
        let (status, message) = classify(&input, path, &[]);
        assert_eq!(status, Some(0), "{message}");
    }
    let mut reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&output).unwrap()).unwrap().build().unwrap();
    let batch = reader.next().unwrap().unwrap();
    let column = |name: &str| batch.column_by_name(name).unwrap();
    assert_eq!(column("number").as_any().downcast_ref::<Float64Array>().unwrap().values()[..], numbers);
    let times = column("time").as_any().downcast_ref::<StringArray>().unwrap();
    let expected = [
        "2023-11-14 22:13:20.123456789 +00:00",
        "1969-12-31 23:59:59.999999999 +00:00",
        "1970-01-01 00:00:00.000000000 +00:00",
    ];
    assert_eq!(times.iter().flatten().collect::<Vec<_>>(), expected);
    let of_day = column("of day").as_any().downcast_ref::<StringArray>().unwrap();
    let expected = ["00:00:00.000000000", "01:00:00.000000001", "23:59:59.999999999"];
    assert_eq!(of_day.iter().flatten().collect::<Vec<_>>(), expected);
    let lines = std::fs::read_to_string(lines).unwrap();
    assert!(lines.contains("1.7e18") || lines.contains("1.7e+18"), "{lines}");
}

#[test]
fn what_columns_cannot_do_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let [input, output] = ["in.parquet", "out.parquet"].map(|name| folder.path().join(name));
    write(&input);
    let fails = |arguments: &[&str], expected: &str| {
        let (status, message) = classify(&input, &output, arguments);
        assert!(status == Some(2) && message.contains(expected), "{message}");
    };
    fails(&["--resume"], "for --resume");
    fails(&["--top-k", "1"], "no --top-k");
    fails(&["--text-column", "body"], "the columns id, text");
    std::fs::write(&input, "no parquet").unwrap();
    fails(&[], "expected a Parquet file");
}
