//! The texts of a file of rows, as [`nimbert::rows`] reads them.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use nimbert::rows::{ReadOptions, Reader, text};

/// The option by which messages of the library name the column.
const COLUMN_OPTION: &str = "--text-column";

/// One text a row, or why the row cannot be read.
pub type Texts = Arc<[Result<String, String>]>;

/// What was read of a file.
#[derive(Debug)]
pub struct Source {
    /// Its texts.
    pub texts: Texts,
    /// The line of a row that may hold further ones, where a quote is missing.
    pub open_quote: Option<u64>,
}

/// Reads all texts. A row that cannot be read stays a row, so that all others keep their number.
///
/// # Errors
/// The library's message for a file that cannot be read to its end; none if `stop` became true.
pub fn read(path: &Path, column: &str, stop: &AtomicBool) -> Result<Source, Option<String>> {
    let reader = Reader::open(path, &ReadOptions::default()).map_err(|error| Some(error.to_string()))?;
    reader.expect_column(column, COLUMN_OPTION).map_err(|error| Some(error.to_string()))?;
    let name = path.display().to_string();
    let mut texts = Vec::new();
    let mut open_quote = None;
    for row in reader.rows(None) {
        if stop.load(Ordering::Relaxed) {
            return Err(None);
        }
        let row = match row {
            Ok(row) => row,
            Err(error) if error.is_last() => return Err(Some(error.to_string())),
            Err(error) => {
                texts.push(Err(error.to_string()));
                continue;
            }
        };
        if row.may_hold_rows {
            open_quote = open_quote.or(Some(row.line));
        }
        let field = row.field(column, COLUMN_OPTION, &name).map_err(|error| error.to_string());
        let missing = || format!("{name}:{}: expected a text in column {column:?}, found none", row.line);
        texts.push(field.and_then(|value| text(value).ok_or_else(missing)));
    }
    if texts.is_empty() {
        return Err(Some(format!("{name}: expected rows, found none")));
    }
    Ok(Source { texts: texts.into(), open_quote })
}
