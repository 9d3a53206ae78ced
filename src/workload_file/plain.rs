//! Plain CSV: arrival_s, prompt_tokens, output_tokens and optionally class, in any order.

use std::io::BufRead;

use specrouter_routing::ids::ClassId;
use specrouter_routing::workload::FileRow;

use super::error::FileError;
use super::table::{Lines, Schema, Table};

pub(super) const SCHEMA: Schema =
    Schema { required: &["arrival_s", "prompt_tokens", "output_tokens"], optional: &["class"] };

/// Most classes that a file may bring with it.
const MAX_CLASSES: usize = 1024;

/// The rows in the file's order, and the class names that their ids stand for: `known` ones when
/// there are any, else those of the file by first appearance.
///
/// # Errors
/// [`FileError`], for the first row that cannot be read.
pub(super) fn read<R: BufRead>(
    lines: Lines<R>,
    known: &[String],
    limit: usize,
) -> Result<(Vec<FileRow>, Vec<String>), FileError> {
    let mut table = Table::new(lines, SCHEMA, limit)?;
    let mut names = known.to_vec();
    let mut rows = Vec::new();
    while let Some(row) = table.next()? {
        let class = match row.text(3) {
            None => None,
            Some(name) => Some(match names.iter().position(|known| known == name) {
                Some(index) => index,
                None if !known.is_empty() => {
                    return Err(row.value(3, format!("a class of the scenario ({})", known.join(", "))));
                }
                None if name.is_empty() || names.len() == MAX_CLASSES => {
                    return Err(row.value(3, format!("a class name, at most {MAX_CLASSES} in all")));
                }
                None => {
                    names.push(name.to_owned());
                    names.len() - 1
                }
            }),
        };
        rows.push(FileRow {
            arrival: row.seconds(0)?,
            prompt_tokens: row.tokens(1)?,
            output_tokens: row.tokens(2)?,
            class: class.map(|index| ClassId(index as u16)),
            terms: None,
        });
    }
    Ok((rows, names))
}
