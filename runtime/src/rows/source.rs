//! A file's bytes as UTF-8: decompressed, decoded, without a byte order mark. That they are text is found out here as far as
//! their beginning tells; whether all of them are UTF-8, by those who read rows.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use encoding_rs::{Decoder, DecoderResult};

use super::{BadRow, RowsError, TextEncoding, bad_row};

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Zstd,
}

impl Compression {
    /// What a name's ending says.
    pub(super) fn of(path: &Path) -> Option<Self> {
        match path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase().as_str() {
            "gz" | "gzip" => Some(Self::Gzip),
            "zst" | "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// What a file's first bytes say that is no text in UTF-8: the bytes, what they are, and what to do.
const SIGNATURES: [(&[u8], &str); 9] = [
    (b"\xff\xfe", "UTF-16 by its byte order mark: --encoding utf-16 reads it"),
    (b"\xfe\xff", "UTF-16 by its byte order mark: --encoding utf-16 reads it"),
    (b"\x1f\x8b", "gzip: a name that ends in .gz, such as rows.csv.gz, says so"),
    (b"\x28\xb5\x2f\xfd", "zstd: a name that ends in .zst, such as rows.csv.zst, says so"),
    (b"PK\x03\x04", "a ZIP archive or a workbook of Excel: save the table as CSV"),
    (b"\xd0\xcf\x11\xe0", "a document of an older Office: save the table as CSV"),
    (b"PAR1", "Parquet: a name that ends in .parquet says so"),
    (b"BZh", "bzip2: unpack it first"),
    (b"\xfd7zX", "xz: unpack it first"),
];
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Opens `path`, or standard input if it is `-`; with it comes the size in bytes, where it is known. Nothing is read yet.
pub(super) fn open(
    path: &Path,
    name: &str,
    encoding: Option<TextEncoding>,
    bytes: Arc<AtomicU64>,
) -> Result<(Box<dyn Read + Send>, Option<u64>), RowsError> {
    let failed = |reason| RowsError::Io { name: name.to_owned(), reason };
    let (inner, total): (Box<dyn Read + Send>, _) = if path == Path::new("-") {
        (Box::new(io::stdin()), None)
    } else {
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(BadRow { line: None, is_last: true, ..bad_row(name, 0, "a file", "a folder") }.into());
        }
        (Box::new(file), metadata.is_file().then_some(metadata.len()))
    };
    let counted = Counted { inner, bytes };
    let unpacked: Box<dyn Read + Send> = match Compression::of(path) {
        None => Box::new(counted),
        Some(Compression::Gzip) => Box::new(Gzip(flate2::bufread::MultiGzDecoder::new(BufReader::new(counted)))),
        Some(Compression::Zstd) => Box::new(Zstd { frame: None, rest: Some(BufReader::new(counted)) }),
    };
    let text: Box<dyn Read + Send> = match encoding {
        None => Box::new(Utf8 { inner: unpacked, head: None }),
        Some(TextEncoding(encoding)) => Box::new(Decoded {
            inner: unpacked,
            name: encoding.name(),
            decoder: encoding.new_decoder(),
            input: Vec::new(),
            output: Vec::new(),
            given: 0,
            is_at_end: false,
            is_malformed: false,
        }),
    };
    Ok((text, total))
}

/// What is wrong with a file's content, on its way through [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("expected {expected}, found {got}")]
struct BadContent {
    expected: String,
    got: String,
}

fn bad_content(expected: impl Into<String>, got: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, BadContent { expected: expected.into(), got: got.into() })
}

/// An error of reading at `line` of the file `name`.
pub(super) fn rows_error(error: io::Error, name: &str, line: u64) -> RowsError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<BadContent>()) {
        Some(BadContent { expected, got }) => {
            let line = (line > 1).then_some(line);
            BadRow { line, is_last: true, ..bad_row(name, 0, expected, got) }.into()
        }
        None => RowsError::Io { name: name.to_owned(), reason: error },
    }
}

/// Counts what was read.
struct Counted<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Gzip, whose faults are the file's, and none of the system's.
struct Gzip<R: io::BufRead>(flate2::bufread::MultiGzDecoder<R>);

impl<R: io::BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| of_file("gzip that is whole", error))
    }
}

/// A fault of unpacking: the system's, or the file's.
fn of_file(expected: &str, error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(_) => error,
        None => bad_content(expected, error.to_string()),
    }
}

/// One zstd frame after the other.
struct Zstd<R: io::BufRead> {
    frame: Option<ruzstd::decoding::StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>,
    rest: Option<R>,
}

impl<R: io::BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                let read = frame.read(buffer).map_err(|error| of_file("zstd", error))?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
                if let (Some(expected), Some(got)) =
                    (frame.decoder.get_checksum_from_data(), frame.decoder.get_calculated_checksum())
                    && expected != got
                {
                    return Err(bad_content(
                        "zstd that is undamaged",
                        format!("the checksum {got:08x} instead of {expected:08x}"),
                    ));
                }
                self.rest = self.frame.take().map(|frame| frame.into_inner());
            }
            let Some(mut rest) = self.rest.take() else { return Ok(0) };
            if rest.fill_buf()?.is_empty() {
                return Ok(0);
            }
            let frame = ruzstd::decoding::StreamingDecoder::new(rest);
            self.frame = Some(frame.map_err(|error| bad_content("zstd", error.to_string()))?);
        }
    }
}

/// UTF-8 as it stands there, without its byte order mark; what begins like something else is an error.
struct Utf8<R> {
    inner: R,
    /// What was read to look at it; none: nothing yet.
    head: Option<io::Cursor<Vec<u8>>>,
}

impl<R: Read> Utf8<R> {
    fn head(&mut self) -> io::Result<Vec<u8>> {
        let mut head = vec![0; 1 << 14];
        let mut filled = 0;
        // What comes slowly through a pipe is not waited for, unless it may become one of the signatures.
        let is_open = |bytes: &[u8]| {
            let signatures = SIGNATURES.iter().map(|(signature, _)| *signature).chain([BYTE_ORDER_MARK]);
            bytes.is_empty()
                || signatures.into_iter().any(|signature| signature.len() > bytes.len() && signature.starts_with(bytes))
        };
        while is_open(&head[..filled]) {
            match self.inner.read(&mut head[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        head.truncate(filled);
        let found = SIGNATURES.iter().find(|(signature, _)| head.starts_with(signature)).map(|(_, what)| *what);
        let zeros = |start: usize| head.len() >= 4 && head[start..4].iter().step_by(2).all(|&byte| byte == 0);
        match found {
            Some(what) => Err(bad_content("text in UTF-8", what)),
            None if zeros(0) != zeros(1) => {
                Err(bad_content("text in UTF-8", "UTF-16 by its zeros: --encoding utf-16le or utf-16be reads it"))
            }
            None => Ok(head.strip_prefix(BYTE_ORDER_MARK).map_or_else(|| head.clone(), <[u8]>::to_vec)),
        }
    }
}

impl<R: Read> Read for Utf8<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.head.is_none() {
            self.head = Some(io::Cursor::new(self.head()?));
        }
        match self.head.as_mut().map_or(Ok(0), |head| head.read(buffer))? {
            0 => self.inner.read(buffer),
            read => Ok(read),
        }
    }
}

/// Text in another encoding as UTF-8. A byte order mark is obeyed, and is no part of the text.
struct Decoded<R> {
    inner: R,
    name: &'static str,
    decoder: Decoder,
    input: Vec<u8>,
    output: Vec<u8>,
    /// So much of the output has been read.
    given: usize,
    is_at_end: bool,
    /// Behind the output stand bytes that are no text.
    is_malformed: bool,
}

impl<R: Read> Decoded<R> {
    fn fill(&mut self) -> io::Result<()> {
        const CHUNK: usize = 1 << 14;
        if self.input.is_empty() {
            self.input.resize(CHUNK, 0);
            let read = self.inner.read(&mut self.input)?;
            self.input.truncate(read);
            self.is_at_end = read == 0;
        }
        self.output.resize(3 * CHUNK + 16, 0);
        self.given = 0;
        let (result, read, written) =
            self.decoder.decode_to_utf8_without_replacement(&self.input, &mut self.output, self.is_at_end);
        self.input.drain(..read);
        self.output.truncate(written);
        self.is_malformed = matches!(result, DecoderResult::Malformed(..));
        Ok(())
    }
}

impl<R: Read> Read for Decoded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.output.len() {
            // Said when what is before it has been read.
            if self.is_malformed {
                return Err(bad_content(format!("text in {}", self.name), "bytes that are none"));
            }
            if self.is_at_end {
                return Ok(0);
            }
            self.fill()?;
        }
        let read = (&self.output[self.given..]).read(buffer)?;
        self.given += read;
        Ok(read)
    }
}
