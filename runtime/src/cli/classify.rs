//! `nimbert classify`: texts from arguments, a file or standard input; a line of result for each, in input order.

use std::{
    fs,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use nimbert::{Classifier, Options, Prediction, TextInput};

use super::OutputError;

/// Texts that are read, classified and written together: memory stays bounded however long the input is.
const WINDOW: usize = 1024;

#[derive(clap::Args)]
#[command(after_help = "\
Without --json a line of output is: label, tab, score, tab, the text with its line breaks written as \\n. The label is
\"unsure\" under the bundle's threshold; where a text may have several labels, those that hold, or \"none\".
With --json it is one object: {\"label\":\"positive\",\"score\":0.98,\"scores\":{\"negative\":0.02,\"positive\":0.98}}")]
pub(super) struct Args {
    /// The bundle's folder
    bundle: PathBuf,
    /// Texts to classify
    #[arg(value_name = "TEXT", conflicts_with = "input", required_unless_present = "input")]
    texts: Vec<String>,
    /// A file of texts: .csv or .tsv (with a header), .jsonl, else one text a line; - for lines on standard input
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Column or key of the text in a .csv, .tsv or .jsonl file
    #[arg(long, default_value = "text", value_name = "NAME")]
    text_column: String,
    /// Column or key of the second text, for a classifier of pairs
    #[arg(long, value_name = "NAME", requires = "input")]
    text_pair_column: Option<String>,
    /// Where results go; a file appears when it is complete
    #[arg(long, default_value = "-", value_name = "FILE")]
    output: PathBuf,
    /// The bundle's graph of that name [default: the first that was made for the device]
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// Show the N most likely labels
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    top_k: Option<u16>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    session: super::SessionArgs,
}

/// A text, and the second one of a pair.
struct Text {
    text: String,
    pair: Option<String>,
}

impl<'a> From<&'a Text> for TextInput<'a> {
    fn from(Text { text, pair }: &'a Text) -> Self {
        Self { text, pair: pair.as_deref() }
    }
}

/// Texts in input order; an error names file and line.
type Texts<'a> = Box<dyn Iterator<Item = anyhow::Result<Text>> + 'a>;

/// The names of the columns that are read.
struct Columns<'a> {
    text: &'a str,
    pair: Option<&'a str>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let texts: Texts<'_> = match &args.input {
        None => Box::new(args.texts.iter().map(|text| Ok(Text { text: text.clone(), pair: None }))),
        Some(path) => open_input(path, Columns { text: &args.text_column, pair: args.text_pair_column.as_deref() })?,
    };
    let options = Options { session: args.session.options(), variant: args.variant.clone(), ..Options::default() };
    let classifier = Classifier::open(&args.bundle, &options)?;
    if args.output == Path::new("-") {
        return write_all(&classifier, texts, args, &mut BufWriter::new(io::stdout().lock()));
    }
    // Behind a link, so that the link stays; a device or a pipe is written to, not replaced.
    let output = fs::canonicalize(&args.output).unwrap_or_else(|_| args.output.clone());
    let cannot_write = |reason: io::Error| OutputError { path: args.output.clone(), reason };
    if fs::metadata(&output).is_ok_and(|metadata| !metadata.is_file()) {
        let file = fs::OpenOptions::new().write(true).open(&output).map_err(cannot_write)?;
        return write_all(&classifier, texts, args, &mut BufWriter::new(file));
    }
    let partial = output.with_added_extension(format!("partial-{}", std::process::id()));
    let file = fs::File::create(&partial).map_err(cannot_write)?;
    let result = write_all(&classifier, texts, args, &mut BufWriter::new(file))
        .and_then(|()| Ok(fs::rename(&partial, &output).map_err(cannot_write)?));
    if result.is_err() {
        // The error that is being reported says more than one of removing what may not be there.
        let _ = fs::remove_file(&partial);
    }
    result
}

fn write_all(
    classifier: &Classifier,
    mut texts: Texts<'_>,
    args: &Args,
    output: &mut impl Write,
) -> anyhow::Result<()> {
    let cannot_write = |reason: io::Error| OutputError { path: args.output.clone(), reason };
    loop {
        let window: Vec<Text> = texts.by_ref().take(WINDOW).collect::<anyhow::Result<_>>()?;
        if window.is_empty() {
            return Ok(output.flush().map_err(cannot_write)?);
        }
        for (text, prediction) in window.iter().zip(classifier.classify_batch(&window)?) {
            write_line(output, &text.text, &prediction, args).map_err(cannot_write)?;
        }
    }
}

fn write_line(output: &mut impl Write, text: &str, prediction: &Prediction, args: &Args) -> io::Result<()> {
    let top_k = args.top_k.map(usize::from);
    if args.json {
        return writeln!(output, "{}", prediction.to_json(top_k));
    }
    match top_k {
        None => write!(output, "{}\t{:.4}\t", prediction.summary(), prediction.score)?,
        Some(k) => {
            for (label, score) in prediction.top(k) {
                write!(output, "{label}\t{score:.4}\t")?;
            }
        }
    }
    writeln!(output, "{}", text.replace('\r', "\\r").replace('\n', "\\n"))
}

fn open_input<'a>(path: &'a Path, columns: Columns<'a>) -> anyhow::Result<Texts<'a>> {
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    let has_columns = matches!(extension.as_deref(), Some("csv" | "tsv" | "jsonl" | "ndjson"));
    if columns.pair.is_some() && !has_columns {
        bail!("{}: expected a .csv, .tsv or .jsonl file for --text-pair-column", path.display());
    }
    let one = |line: anyhow::Result<String>| Ok(Text { text: line?, pair: None });
    if path == Path::new("-") {
        return Ok(Box::new(lines(io::stdin().lock(), "standard input".into()).map(one)));
    }
    let file = fs::File::open(path).with_context(|| format!("{}", path.display()))?;
    let name = path.display().to_string();
    match extension.as_deref() {
        Some("csv") => csv_columns(file, name, columns, b','),
        Some("tsv") => csv_columns(file, name, columns, b'\t'),
        Some("jsonl" | "ndjson") => {
            let rows = lines(BufReader::new(file), name.clone()).enumerate();
            Ok(Box::new(rows.filter(|(_, line)| !matches!(line, Ok(line) if line.trim().is_empty())).map(
                move |(index, line)| {
                    let value: serde_json::Value = serde_json::from_str(&line?).map_err(|error| {
                        let column = error.column();
                        anyhow::anyhow!("{name}:{}:{column}: expected a JSON object, found none", index + 1)
                    })?;
                    let field = |column: &str| match value.get(column) {
                        Some(serde_json::Value::String(text)) => Ok(text.clone()),
                        Some(value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_))) => {
                            Ok(value.to_string())
                        }
                        _ => bail!("{name}:{}: expected an object with the string {column:?}", index + 1),
                    };
                    Ok(Text { text: field(columns.text)?, pair: columns.pair.map(field).transpose()? })
                },
            )))
        }
        _ => Ok(Box::new(lines(BufReader::new(file), name).map(one))),
    }
}

fn lines<'a>(reader: impl BufRead + 'a, name: String) -> impl Iterator<Item = anyhow::Result<String>> + 'a {
    reader.lines().enumerate().map(move |(index, line)| {
        let line = line.with_context(|| format!("{name}:{}", index + 1))?;
        // A byte order mark belongs to the file, not to its first line.
        Ok(if index == 0 { line.trim_start_matches('\u{feff}').to_owned() } else { line })
    })
}

fn csv_columns<'a>(file: fs::File, name: String, columns: Columns<'_>, delimiter: u8) -> anyhow::Result<Texts<'a>> {
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(file);
    let headers = reader.headers().with_context(|| name.clone())?.clone();
    let position = |column: &str, option: &str| {
        headers.iter().position(|header| header == column).with_context(|| {
            let found: Vec<_> = headers.iter().collect();
            format!("{name}:1: expected a column {column:?} (see {option}), found {}", found.join(", "))
        })
    };
    let text = position(columns.text, "--text-column")?;
    let pair = columns.pair.map(|column| position(column, "--text-pair-column")).transpose()?;
    Ok(Box::new(reader.into_records().map(move |record| {
        let record = record.with_context(|| name.clone())?;
        Ok(Text { text: record[text].to_owned(), pair: pair.map(|pair| record[pair].to_owned()) })
    })))
}
