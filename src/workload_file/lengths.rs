//! Lengths without arrivals: input_tokens, output_tokens.

use std::io::BufRead;

use super::error::FileError;
use super::table::{Lines, Schema, Table};

pub(super) const SCHEMA: Schema = Schema { required: &["input_tokens", "output_tokens"], optional: &[] };

/// `(prompt, output)` pairs in the file's order.
///
/// # Errors
/// [`FileError`], for the first row that cannot be read.
pub(super) fn read<R: BufRead>(lines: Lines<R>, limit: usize) -> Result<Vec<(u32, u32)>, FileError> {
    let mut table = Table::new(lines, SCHEMA, limit)?;
    let mut pairs = Vec::new();
    while let Some(row) = table.next()? {
        pairs.push((row.tokens(0)?, row.tokens(1)?));
    }
    Ok(pairs)
}
