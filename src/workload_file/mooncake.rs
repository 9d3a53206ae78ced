//! Mooncake traces: a JSON object a line with timestamp (ms), input_length and output_length.
//!
//! `hash_ids` name the prompt's blocks for prefix sharing, which is not modelled; they are skipped.
//!
//! Source: Qin et al., "Mooncake", FAST 2025.

use std::io::BufRead;

use serde::Deserialize;
use specrouter_routing::units::Time;
use specrouter_routing::workload::{FileRow, MAX_LENGTH};

use super::error::{FileError, Place};
use super::table::Lines;

pub(super) const FIELDS: &str = "timestamp, input_length and output_length";

/// Numbers as they come, so that each is judged with its name.
#[derive(Deserialize)]
struct Line {
    timestamp: f64,
    input_length: f64,
    output_length: f64,
}

/// The rows in the file's order.
///
/// # Errors
/// [`FileError`], for the first line that cannot be read.
pub(super) fn read<R: BufRead>(mut lines: Lines<R>, limit: usize) -> Result<Vec<FileRow>, FileError> {
    let mut rows = Vec::new();
    let path = lines.path().to_path_buf();
    while let Some((place, text)) = lines.next()? {
        if rows.len() == limit {
            return Err(FileError::TooManyRows { path, line: place.line, limit });
        }
        let line: Line = serde_json::from_str(text).map_err(|error| place.json(FIELDS, &error))?;
        let expected = "milliseconds since the beginning, 0 or more and under 584 years";
        rows.push(FileRow {
            arrival: Time::from_seconds(line.timestamp * 1e-3)
                .map_err(|_| place.value("timestamp", expected, &line.timestamp.to_string()))?,
            prompt_tokens: tokens(place, "input_length", line.input_length)?,
            output_tokens: tokens(place, "output_length", line.output_length)?,
            class: None,
            terms: None,
        });
    }
    if rows.is_empty() {
        return Err(FileError::Empty {
            path,
            expected: format!("a JSON object a line with {FIELDS}").into(),
        });
    }
    Ok(rows)
}

fn tokens(place: Place<'_>, column: &'static str, tokens: f64) -> Result<u32, FileError> {
    if (1.0..=f64::from(MAX_LENGTH)).contains(&tokens) && tokens.fract().to_bits() == 0 {
        Ok(tokens as u32)
    } else {
        let expected = format!("a whole number of tokens, 1 to {MAX_LENGTH}");
        Err(place.value(column, expected, &tokens.to_string()))
    }
}
