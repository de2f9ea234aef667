//! Files as they are found, and what is made of them.

use std::io::Write;

use super::*;

/// All rows of a file as lists of values, and errors as messages without the folder.
fn read_as(name: &str, content: &[u8], options: &ReadOptions) -> Vec<Result<Vec<Value>, String>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    let short = |error: &dyn fmt::Display| error.to_string().replace(&format!("{}/", folder.path().display()), "");
    match Reader::open(&path, options) {
        Err(error) => vec![Err(short(&error))],
        Ok(reader) => reader.rows(None).map(|row| row.map(|row| row.values).map_err(|error| short(&error))).collect(),
    }
}

fn read(name: &str, content: impl AsRef<[u8]>) -> Vec<Result<Vec<Value>, String>> {
    read_as(name, content.as_ref(), &ReadOptions::default())
}

fn good(rows: &[&[&str]]) -> Vec<Result<Vec<Value>, String>> {
    rows.iter().map(|row| Ok(row.iter().map(|&text| Value::from(text)).collect())).collect()
}

/// The lines on which rows begin.
fn lines(name: &str, content: &str) -> Vec<u64> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    let reader = Reader::open(&path, &ReadOptions::default()).unwrap();
    reader.rows(None).map(|row| row.unwrap().line).collect()
}

#[track_caller]
fn assert_error(rows: &[Result<Vec<Value>, String>], index: usize, parts: &[&str]) {
    let error = rows[index].as_ref().unwrap_err();
    parts.iter().for_each(|part| assert!(error.contains(part), "no {part:?} in {error:?}"));
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(content, ruzstd::encoding::CompressionLevel::Fastest)
}

/// A frame with one raw block, and the checksum that it says it has (RFC 8878, 3.1.1).
fn zstd_with_checksum() -> Vec<u8> {
    let content = b"nimbert reads zstd";
    let mut hasher = twox_hash::XxHash64::with_seed(0);
    std::hash::Hasher::write(&mut hasher, content);
    let checksum = std::hash::Hasher::finish(&hasher) as u32;
    // One segment whose size follows in a byte, with a checksum; then the last block, raw, of that size.
    let block = (content.len() as u32) << 3 | 1;
    let header = [0x28, 0xb5, 0x2f, 0xfd, 0b0010_0100, content.len() as u8];
    [&header[..], &block.to_le_bytes()[..3], content, &checksum.to_le_bytes()].concat()
}

#[test]
fn every_line_is_a_text() {
    assert_eq!(read("x.txt", b"\xef\xbb\xbfone\r\n\ntwo"), good(&[&["one"], &[""], &["two"]]));
    assert_eq!(read("x", ""), []);
    let rows = read("x.txt", b"one\nt\xe9wo\nthree\n");
    assert_error(&rows, 1, &["x.txt:2:2: expected UTF-8, found the byte 0xe9", "\"é\" in windows-1252", "--encoding"]);
    assert_eq!((&rows[0], &rows[2]), (&good(&[&["one"]])[0], &good(&[&["three"]])[0]));
}

#[test]
fn delimited_rows_have_the_line_on_which_they_begin() {
    let content =
        b"\xef\xbb\xbfid,text\r\n1,\"two\r\nlines, \"\"quoted\"\"\"\r\n\r\n2\r\n3,three\r\n4,\xff\r\n5,5\" pipe\r\n";
    let rows = read("x.csv", content);
    assert_eq!(rows[0], good(&[&["1", "two\r\nlines, \"quoted\""]])[0]);
    assert_error(&rows, 1, &["x.csv:5: expected 2 fields, as in the header, found 1"]);
    assert_error(&rows, 3, &["x.csv:7:3: expected UTF-8, found the byte 0xff"]);
    assert_eq!(rows[4], good(&[&["5", "5\" pipe"]])[0]);
    assert_eq!(read("x.csv", "a\n"), []);
    assert_eq!(read("x.csv", "a\n  \n\nb\n"), good(&[&["  "], &["b"]]));
    assert_error(&read("x.csv", " \n"), 0, &["x.csv: expected a header and rows, found an empty file"]);
}

#[test]
fn lines_may_end_in_carriage_returns_alone() {
    assert_eq!(lines("x.csv", "a,b\rc,d\r\re,f"), [2, 4]);
    assert_eq!(lines("x.jsonl", "{}\r{}\r\n\r{}"), [1, 2, 4]);
    assert_eq!(read("x.txt", "a\rb\r\nc"), good(&[&["a"], &["b"], &["c"]]));
    assert_error(&read("x.csv", "a,b\rc,d\re\r"), 1, &["x.csv:3: expected 2 fields"]);
}

/// A table of forty rows in which two fields begin with a quote: they were twenty-five.
#[test]
fn a_quote_of_tsv_is_a_character_unless_the_field_is_quoted_from_end_to_end() {
    let row = |index: usize| match index {
        7 => "\"Great film\tpos\n".to_owned(),
        23 => "\"Bad\" she said\tneg\n".to_owned(),
        30 => "he said \"no\"\tneg\n".to_owned(),
        _ => format!("text {index}\tpos\n"),
    };
    let content: String = std::iter::once("text\tlabel\n".to_owned()).chain((0..40).map(row)).collect();
    let rows = read("x.tsv", &content);
    assert_eq!(rows.len(), 40);
    assert_eq!(
        [&rows[7], &rows[23]].map(Clone::clone),
        *good(&[&["\"Great film", "pos"], &["\"Bad\" she said", "neg"]])
    );
    let framed = "text\tlabel\n\"say \"\"hi\"\"\"\ta\n\"tab\there\"\tb\n\"\"\tc\n";
    assert_eq!(read("x.tsv", framed), good(&[&["say \"hi\"", "a"], &["tab\there", "b"], &["", "c"]]));
    let as_characters = ReadOptions { quoting: Quoting::None, ..ReadOptions::default() };
    assert_eq!(read_as("x.tsv", b"a\n\"b\"\n", &as_characters), good(&[&["\"b\""]]));
    assert_eq!(read_as("x.csv", b"a,b\n\"b,\"c\n", &as_characters), good(&[&["\"b", "\"c"]]));
    let as_csv = ReadOptions { quoting: Quoting::Csv, ..ReadOptions::default() };
    assert_eq!(read_as("x.tsv", b"a\tb\n\"b\nc\"\td\n", &as_csv), good(&[&["b\nc", "d"]]));
    assert_error(&read("x.tsv", "a\tb\n\"b\nc\"\td\n"), 0, &["x.tsv:2: expected 2 fields", "--quoting csv"]);
}

#[test]
fn quotes_that_would_swallow_rows_are_errors() {
    let rows = read("x.csv", "text,label\n\"is \\\"fine\\\"\",a\nnext,b\n");
    assert_error(&rows, 0, &["x.csv:2:7: expected a delimiter", "found 'f'", "written twice", "--quoting none"]);
    assert_eq!(rows[1], good(&[&["next", "b"]])[0]);
    let rows = read("x.csv", "text,label\n\"Great,a\nb,c\n\"Bad,d\ne,f\n");
    assert_error(&rows, 0, &["x.csv:4:2:", "of the field that opens in line 2", "found 'B'"]);
    assert_eq!(rows[1..], good(&[&["e", "f"]]));
    let rows = read("x.csv", "text,label\na,b\n\"open,c\nd,e\n");
    assert_error(&rows, 1, &["x.csv:3: expected a closing quote, found the end of the file", "--quoting none"]);
    assert_eq!(rows.len(), 2);
    // Closed by a quote that was none: it may be a text in four lines, so it is said.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.csv");
    std::fs::write(
        &path,
        "text,label\n\"Great,a\nb,c\nd,e\nand so\",f\n\"one,\ntwo\nthree\",g\n\"12 inch,h\n6 foot\",i\n\"a\nb\",j\n",
    )
    .unwrap();
    let rows = Reader::open(&path, &ReadOptions::default()).unwrap().rows(None);
    assert_eq!(rows.map(|row| row.unwrap().may_hold_rows).collect::<Vec<_>>(), [true, false, true, false]);
}

#[test]
fn columns_have_names_of_their_own() {
    assert_error(&read("x.csv", "a,text,a\n1,2,3\n"), 0, &["x.csv:1: expected a name of its own", "\"a\" twice"]);
    assert_error(&read("x.jsonl", "{\"a\": 1, \"a\": 2}\n"), 0, &["x.jsonl:1", "the key \"a\" twice"]);
    assert_error(&read("x.jsonl", "{\"a\": [{\"b\": 1, \"b\": 2}]}\n"), 0, &["x.jsonl:1", "the key \"b\" twice"]);
    // Many of them, each of which another may be the same as.
    let keys = |count: usize| (0..count).map(|key| format!("\"{key}\": 0, ")).collect::<String>();
    for (count, repeated) in [(1, 0), (31, 30), (32, 0), (32, 31), (33, 32), (100, 0), (100, 99)] {
        let line = format!("{{{}\"{repeated}\": 1}}\n", keys(count));
        assert_error(&read("x.jsonl", line), 0, &["x.jsonl:1", &format!("the key \"{repeated}\" twice")]);
    }
    assert_eq!(read("x.csv", "a,,\n1,2,3\n"), good(&[&["1", "2", "3"]]));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.csv");
    std::fs::write(&path, "\nid;text\n1;2\n").unwrap();
    let reader = Reader::open(&path, &ReadOptions::default()).unwrap();
    let message = reader.expect_column("text", "--text-column").unwrap_err().to_string();
    assert!(
        message.contains("x.csv:2: expected a column \"text\" (see --text-column)") && message.contains("--delimiter"),
        "{message}"
    );
    let semicolon = ReadOptions { delimiter: Some(";".parse().unwrap()), ..ReadOptions::default() };
    assert!(Reader::open(&path, &semicolon).unwrap().expect_column("text", "--text-column").is_ok());
}

#[test]
fn a_line_before_the_header_may_say_what_separates() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.csv");
    let write = |content: &str| std::fs::write(&path, content).unwrap();
    let told = |delimiter: &str| ReadOptions { delimiter: Some(delimiter.parse().unwrap()), ..ReadOptions::default() };
    for (content, options) in [
        ("\u{feff}sep=;\r\ntext;label\r\na,b;c\r\n", ReadOptions::default()),
        ("sep=;\ntext;label\na,b;c\n", told(";")),
        ("sep=|\ntext|label\na,b|c\n", ReadOptions::default()),
        ("sep=,\ntext,label\n\"a,b\",c\n", ReadOptions::default()),
        ("sep=\t\ntext\tlabel\na,b\tc\n", ReadOptions::default()),
    ] {
        write(content);
        let reader = Reader::open(&path, &options).unwrap();
        assert_eq!(reader.columns().unwrap(), ["text", "label"], "{content:?}");
        let rows: Vec<Row> = reader.rows(None).map(Result::unwrap).collect();
        assert_eq!((rows.len(), rows[0].line), (1, 3), "{content:?}");
        assert_eq!(rows[0].values, ["a,b", "c"].map(Value::from), "{content:?}");
    }
    write("sep=;\ntext;label\na,b;c\n");
    let error = Reader::open(&path, &told("|")).err().unwrap().to_string();
    assert!(error.contains("x.csv:1: expected '|' between fields, as --delimiter says, found sep=;"), "{error}");
    // It says nothing more than that.
    write("sep=a\nb\n");
    assert_eq!(Reader::open(&path, &ReadOptions::default()).unwrap().columns().unwrap(), ["sep=a"]);
}

#[test]
fn json_is_an_object_a_line_or_an_array_of_them() {
    let content = "{\"text\": \"one\"}\n\n{\"text\": 2.50}\n5\n{\n{\"text\": null}\n";
    let rows = read("x.jsonl", content);
    assert_eq!(rows[0], good(&[&["one"]])[0]);
    assert_eq!(rows[1], Ok(vec![serde_json::json!(2.5)]));
    assert_error(
        &rows,
        2,
        &["x.jsonl:4:1: expected a JSON object, found invalid type: integer `5`, expected an object"],
    );
    assert_error(&rows, 3, &["x.jsonl:5:1: expected a JSON object, found EOF", "an array of objects"]);
    assert_eq!(rows[4], Ok(vec![Value::Null]));
    let array = "\n[ {\"text\": \"a, ] \\\" b\"},\n {\"text\":\n  \"c\"}, 7,{\"text\": [1, {\"x\": \"]\"}]} ]\n";
    for name in ["x.json", "x.jsonl"] {
        let rows = read(name, array);
        assert_eq!(rows[..2], good(&[&["a, ] \" b"], &["c"]]));
        assert_error(&rows, 2, &[&format!("{name}:4"), "expected an object"]);
        assert_eq!((rows.len(), &rows[3]), (4, &Ok(vec![serde_json::json!([1, {"x": "]"}])])));
    }
    assert_eq!(lines("x.json", "[{},\n{}\n,\n\n{}]"), [1, 2, 5]);
    assert_eq!(read("x.json", "[]"), []);
    assert_error(&read("x.json", "[{},"), 1, &["x.json:1: expected the array's closing bracket, found the end"]);
    assert_error(&read("x.json", "[{},,{}]"), 1, &["x.json:1: expected an object, found a comma"]);
    assert_error(&read("x.json", "[{},\r{},\r\n7]"), 2, &["x.json:3"]);
    assert_error(&read("x.jsonl", "  7\n 7\n"), 0, &["x.jsonl:1:3: expected a JSON object"]);
    assert_error(&read("x.jsonl", "  7\n 7\n"), 1, &["x.jsonl:2:2: expected a JSON object"]);
    // A column counts from where the line begins, not from where the row does.
    assert_error(&read("x.json", "[{}, 7]"), 1, &["x.json:1:6: expected a JSON object"]);
    assert_error(&read("x.json", "\n  [{},\n{\n  7}]"), 1, &["x.json:4:3: expected a JSON object"]);
    assert_error(&read("x.json", "[{}]\n{}"), 0, &["x.json:2: expected nothing behind the array"]);
}

#[test]
fn compressed_files_are_read_as_what_they_hold() {
    let csv = b"text\nfirst\n";
    for (name, content) in [
        ("x.csv.gz", gzip(csv)),
        ("x.CSV.GZ", [gzip(b"text\nfi"), gzip(b"rst\n")].concat()),
        ("x.csv.zst", zstd(csv)),
        ("x.csv.zst", [zstd(b"text\nfi"), zstd(b"rst\n")].concat()),
        ("x.jsonl.gz", gzip(b"{\"text\": \"first\"}")),
        ("x.txt.gz", gzip(b"first")),
    ] {
        assert_eq!(read(name, content), good(&[&["first"]]), "{name}");
    }
    assert_error(&read("x.csv", gzip(csv)), 0, &["x.csv: expected text in UTF-8, found gzip", ".csv.gz"]);
    assert_error(&read("x.csv", b"PK\x03\x04...."), 0, &["a workbook of Excel"]);
    assert_error(&read("x.csv.gz", csv), 0, &["x.csv.gz: expected gzip that is whole, found"]);
    assert_error(&read("x.csv.zst", csv), 0, &["x.csv.zst", "zstd"]);
    let cut = gzip(&b"text\nfirst\n".repeat(10_000));
    let rows = read("x.csv.gz", &cut[..cut.len() / 2]);
    assert!(rows.last().unwrap().is_err(), "a cut file ended without a word");
    let whole = zstd_with_checksum();
    assert_eq!(read("x.txt.zst", &whole), good(&[&["nimbert reads zstd"]]));
    let mut flipped = whole.clone();
    flipped[12] ^= 1;
    assert_error(&read("x.txt.zst", &flipped), 0, &["x.txt.zst: expected zstd", "checksum"]);
    let cut = zstd(&b"text\nfirst\n".repeat(10_000));
    assert!(read("x.csv.zst", &cut[..cut.len() - 3]).last().unwrap().is_err());
}

#[test]
fn other_encodings_are_named_and_read_if_they_are_told() {
    let as_encoding = |name: &str| ReadOptions { encoding: Some(name.parse().unwrap()), ..ReadOptions::default() };
    let wide = |text: &str, bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
    let content = "\u{feff}text\r\ncafé ☕\r\n";
    for bytes in [wide(content, u16::to_le_bytes), wide(content, u16::to_be_bytes)] {
        assert_error(&read("x.csv", &bytes), 0, &["x.csv: expected text in UTF-8, found UTF-16", "--encoding utf-16"]);
        assert_eq!(read_as("x.csv", &bytes, &as_encoding("utf-16")), good(&[&["café ☕"]]));
    }
    let bare = wide("text\nx\n", u16::to_le_bytes);
    assert_error(&read("x.csv", &bare), 0, &["UTF-16 by its zeros"]);
    assert_eq!(read_as("x.csv", &bare, &as_encoding("utf-16le")), good(&[&["x"]]));
    assert_eq!(read_as("x.txt", b"caf\xe9 \x93a\x94", &as_encoding("windows-1252")), good(&[&["café “a”"]]));
    let half = [bare, vec![0x00, 0xd8, b'x', 0]].concat();
    assert_error(&read_as("x.csv", &half, &as_encoding("utf-16le")), 1, &["expected text in UTF-16LE"]);
    assert!("utf-7".parse::<TextEncoding>().is_err());
}

#[test]
fn a_row_that_is_too_large_is_bad_and_the_next_is_read() {
    let long = "x".repeat(MAX_ROW_BYTES + 1);
    for (name, content) in [
        ("x.csv", format!("text\na\n{long}\nb\n")),
        ("x.txt", format!("a\n{long}\nb\n")),
        ("x.jsonl", format!("{{\"text\":\"a\"}}\n{{\"text\":\"{long}\"}}\n{{\"text\":\"b\"}}\n")),
        ("x.json", format!("[{{\"text\":\"a\"}},\n{{\"text\":\"{long}\"}},\n{{\"text\":\"b\"}}]\n")),
    ] {
        let rows = read(name, content);
        assert_eq!(rows.len(), 3, "{name}");
        assert_error(&rows, 1, &["expected at most 16777216 bytes a row, found more"]);
        assert_eq!(rows[2], good(&[&["b"]])[0]);
    }
    // A quoted field ends with its quote, on whichever line; no line of it is a row.
    for field in
        [format!("\"b\n{long}\nc\""), format!("\"{long}, c\""), format!("\"{long}\nc\""), format!("\"b\n{long}\"")]
    {
        let rows = read("x.csv", format!("text\na\n{field}\nd\n"));
        assert_eq!(rows.len(), 3);
        assert_error(&rows, 1, &["x.csv:3: expected at most 16777216 bytes a row, found more"]);
        assert_eq!(rows[2], good(&[&["d"]])[0]);
    }
    for open in [format!("\"b\n{long}"), format!("\"{long}\nc"), format!("\"{}", "line\n".repeat(MAX_ROW_BYTES / 4))] {
        let rows = read("x.csv", format!("text\na\n{open}\nd\n"));
        assert_eq!(rows.len(), 2);
        assert_error(&rows, 1, &["x.csv:3: expected at most 16777216 bytes a row, found more; is a quote not closed?"]);
    }
}

#[test]
fn options_that_a_format_has_no_use_for_are_refused() {
    let semicolon = ReadOptions { delimiter: Some(";".parse().unwrap()), ..ReadOptions::default() };
    assert_error(&read_as("x.jsonl", b"{}", &semicolon), 0, &["x.jsonl: expected a .csv or .tsv file for --delimiter"]);
    let no_quotes = ReadOptions { quoting: Quoting::None, ..ReadOptions::default() };
    assert_error(&read_as("x.txt", b"a", &no_quotes), 0, &["x.txt: expected a .csv or .tsv file for --quoting"]);
}

#[test]
fn what_cannot_be_opened_says_why() {
    let error = |path: &str, format: Option<Format>| {
        let options = ReadOptions { format, ..ReadOptions::default() };
        Reader::open(Path::new(path), &options).map(drop).unwrap_err().to_string()
    };
    assert!(error("no/such.csv", None).contains("no/such.csv: No such file"));
    assert!(error(".", Some(Format::Csv)).contains("expected a file, found a folder"));
    assert!(error("x.xlsx", None).contains("x.xlsx: expected a name that ends in .csv"));
    assert!(error("-", Some(Format::Parquet)).contains("standard input: expected a file for --format parquet"));
}

#[cfg(feature = "parquet-rows")]
mod of_parquet {
    use ::parquet::{
        basic::{BrotliLevel, Compression},
        data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type},
        file::{metadata::KeyValue, properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };

    use super::*;

    /// Two rows: a text, bytes, a class, a number that is missing in the second, and two kinds of lists.
    pub(super) fn write(path: &Path, compression: Compression, bytes: &[u8]) {
        let schema = "message rows {
            required binary text (UTF8);
            required binary bytes;
            required int64 class;
            required double number;
            optional group tags (LIST) { repeated group list { required binary element (UTF8); } }
            repeated int64 bare;
        }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let features = r#"{"info": {"features": {"class": {"names": ["no", "yes"], "_type": "ClassLabel"},
            "text": {"dtype": "string", "_type": "Value"}}}}"#;
        let metadata = vec![KeyValue::new("huggingface".to_owned(), Some(features.to_owned()))];
        let properties =
            WriterProperties::builder().set_compression(compression).set_key_value_metadata(Some(metadata));
        let file = std::fs::File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties.build())).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let strings = |texts: &[&[u8]]| texts.iter().map(|&text| ByteArray::from(text.to_vec())).collect::<Vec<_>>();
        for texts in [strings(&[b"one, two", b"three"]), strings(&[b"fine", bytes])] {
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
            column.close().unwrap();
        }
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&[1, 0], None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<DoubleType>().write_batch(&[0.0, f64::NAN], None, None).unwrap();
        column.close().unwrap();
        // The first row has the tags a and b, the second none.
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&strings(&[b"a", b"b"]), Some(&[2, 2, 1]), Some(&[0, 1, 0]))
            .unwrap();
        column.close().unwrap();
        // Likewise two numbers and none.
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&[5, 6], Some(&[1, 1, 0]), Some(&[0, 1, 0])).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn values_keep_their_kinds_in_every_compression() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        for compression in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(Default::default()),
            Compression::ZSTD(Default::default()),
            Compression::LZ4_RAW,
            Compression::LZ4,
            Compression::BROTLI(BrotliLevel::default()),
        ] {
            write(&path, compression, b"too");
            let reader = Reader::open_any(&path, &ReadOptions::default()).unwrap();
            assert_eq!(reader.class_names("class").unwrap(), ["no", "yes"]);
            assert_eq!(reader.class_names("text"), None);
            let kinds = [Kind::Text, Kind::Text, Kind::Integer, Kind::Number, Kind::Text, Kind::Text];
            assert_eq!(reader.kinds(), kinds);
            let rows: Vec<Vec<Value>> = reader.rows(None).map(|row| row.unwrap().values).collect();
            let expected = [
                serde_json::json!(["one, two", "fine", 1, 0.0, ["a", "b"], [5, 6]]),
                serde_json::json!(["three", "too", 0, null, [], []]),
            ];
            assert_eq!(rows, expected.map(|row| row.as_array().unwrap().clone()), "{compression}");
        }
        let reader = Reader::open_any(&path, &ReadOptions::default()).unwrap();
        let rows: Vec<Row> = reader.rows(Some(vec!["number".to_owned()])).map(Result::unwrap).collect();
        assert_eq!((&*rows[0].columns, rows[1].line), (&["number".to_owned()][..], 2));
    }

    #[test]
    fn bytes_are_text_in_utf8_or_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        write(&path, Compression::SNAPPY, b"t\xffo");
        let reader = Reader::open_any(&path, &ReadOptions::default()).unwrap();
        let error = reader.rows(None).nth(1).unwrap().unwrap_err().to_string();
        assert!(error.contains("x.parquet:2: expected UTF-8, found the byte 0xff in column \"bytes\""), "{error}");
        std::fs::write(&path, b"no parquet").unwrap();
        let error = Reader::open_any(&path, &ReadOptions::default()).map(drop).unwrap_err().to_string();
        assert!(error.contains("expected a Parquet file"), "{error}");
    }
}
