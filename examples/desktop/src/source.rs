//! The texts of a file of rows, as [`nimbert::rows`] reads them.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use nimbert::rows::{ReadOptions, Reader, RowsError, text};

/// The option by which messages of the library name the column.
const COLUMN_OPTION: &str = "--text-column";

/// One text a row, or why the row cannot be read.
pub type Texts = Arc<[Result<String, String>]>;

/// Reads all texts. A row that cannot be read stays a row, so that all others keep their number.
///
/// # Errors
/// The library's message for a file of which nothing can be read; none if `stop` became true.
pub fn read(path: &Path, column: &str, stop: &AtomicBool) -> Result<Texts, Option<String>> {
    let reader = Reader::open(path, &ReadOptions::default()).map_err(|error| Some(error.to_string()))?;
    reader.expect_column(column, COLUMN_OPTION).map_err(|error| Some(error.to_string()))?;
    let name = path.display().to_string();
    let mut texts = Vec::new();
    for row in reader.rows(None) {
        if stop.load(Ordering::Relaxed) {
            return Err(None);
        }
        let row = match row {
            Ok(row) => row,
            Err(error @ RowsError::Io { .. }) => return Err(Some(error.to_string())),
            Err(error) => {
                texts.push(Err(error.to_string()));
                continue;
            }
        };
        let field = row.field(column, COLUMN_OPTION, &name).map_err(|error| error.to_string());
        let missing = || format!("{name}:{}: expected a text in column {column:?}, found none", row.line);
        texts.push(field.and_then(|value| text(value).ok_or_else(missing)));
    }
    if texts.is_empty() {
        return Err(Some(format!("{name}: expected rows, found none")));
    }
    Ok(texts.into())
}
