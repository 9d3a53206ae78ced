//! Readers of workload files: what the `file:` of a scenario's `workload:` names.
//!
//! [`read`] opens what a [`WorkloadConfig`] names and gives the [`FileWorkload`] that
//! [`WorkloadConfig::resolve`] takes. CRLF, BOM, blank lines, gzip and rows out of order are read;
//! whatever cannot be read is an error with file, line, column, what was expected and what came.

mod azure;
mod error;
mod lengths;
mod mooncake;
mod plain;
mod servegen;
mod table;
#[cfg(test)]
mod tests;

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use specrouter_routing::units::Time;
use specrouter_routing::workload::{FileRow, FileSource, FileWorkload, Format, WorkloadConfig};

pub use error::FileError;
use error::shown;
use table::Lines;

/// Most rows of a file: 20 million requests are 480 MB in memory.
const MAX_ROWS: usize = 20_000_000;

/// Reads the file that `workload` names; `None` when it names none. Paths are taken as they stand.
///
/// # Errors
/// [`FileError`], naming file, line and column, what was expected and what came.
pub fn read(workload: &WorkloadConfig) -> Result<Option<FileWorkload>, FileError> {
    let Some(file) = &workload.file else { return Ok(None) };
    let classes: Vec<String> = workload.classes.iter().map(|class| class.name.clone()).collect();
    open(file, workload.format, workload.lengths_file.as_deref(), &classes).map(Some)
}

/// Reads a workload file.
///
/// - `format`: what it holds; told from its first line when `None`.
/// - `lengths_file`: the histograms of a ServeGen file; found by its name when `None`
///   (`x_rates.csv` and `x_lengths.jsonl.gz`).
/// - `classes`: the scenario's class names, which a class column must use; when there are none,
///   the file's own names stand.
///
/// # Errors
/// [`FileError`], naming file, line and column, what was expected and what came.
pub fn open(
    path: &Path,
    format: Option<Format>,
    lengths_file: Option<&Path>,
    classes: &[String],
) -> Result<FileWorkload, FileError> {
    let companion = |rates: &Path| {
        let lengths = lengths_file.map_or_else(|| companion_name(rates), Path::to_path_buf);
        if lengths_file.is_none() && !lengths.is_file() {
            return Err(FileError::NoLengths { path: rates.to_path_buf(), tried: lengths });
        }
        Ok(Lines::new(&lengths, table::open(&lengths)?))
    };
    read_lines(Lines::new(path, table::open(path)?), format, companion, classes, MAX_ROWS)
}

/// `x_rates.csv` is accompanied by `x_lengths.jsonl.gz`.
fn companion_name(rates: &Path) -> PathBuf {
    let name = rates.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let stem = name.strip_suffix("_rates.csv").or_else(|| name.strip_suffix(".csv")).unwrap_or(name);
    rates.with_file_name(format!("{stem}_lengths.jsonl.gz"))
}

fn read_lines<R: BufRead, S: BufRead>(
    mut lines: Lines<R>,
    format: Option<Format>,
    companion: impl FnOnce(&Path) -> Result<Lines<S>, FileError>,
    classes: &[String],
    limit: usize,
) -> Result<FileWorkload, FileError> {
    let path = lines.path().to_path_buf();
    let format = match format {
        Some(format) => format,
        None => guess(&mut lines)?,
    };
    let mut notes = Vec::new();
    let mut class_names = Vec::new();
    let source = match format {
        Format::AzureCsv => recorded(azure::read(lines, limit)?, &path, &mut notes),
        Format::MooncakeJsonl => {
            notes.push("prefix sharing (hash_ids) is not modelled: every prompt is prefilled whole".into());
            recorded(mooncake::read(lines, limit)?, &path, &mut notes)
        }
        Format::Servegen => {
            let lengths = companion(&path)?;
            notes.push(format!("lengths are drawn from {}", lengths.path().display()));
            let (load, more) = servegen::read(lines, lengths, limit)?;
            notes.extend(more);
            FileSource::Clients(Arc::new(load))
        }
        Format::LengthsCsv => FileSource::Lengths(lengths::read(lines, limit)?.into()),
        Format::PromptsJsonl => return Err(FileError::Prompts { path }),
        Format::Csv => {
            let (rows, names) = plain::read(lines, classes, limit)?;
            class_names = names;
            recorded(rows, &path, &mut notes)
        }
    };
    Ok(FileWorkload { name: path.display().to_string(), format, source, class_names, notes })
}

/// Puts rows in order of arrival and counts time from the first one.
fn recorded(mut rows: Vec<FileRow>, path: &Path, notes: &mut Vec<String>) -> FileSource {
    let mut latest = Time::ZERO;
    let mut late = 0u64;
    for row in &rows {
        late += u64::from(row.arrival < latest);
        latest = latest.max(row.arrival);
    }
    if late > 0 {
        notes.push(format!(
            "{}: {late} of {} rows were out of order and are put in order of arrival",
            path.display(),
            rows.len()
        ));
        // Stable: rows of the same moment keep the file's order.
        rows.sort_by_key(|row| row.arrival);
    }
    let first = rows.first().map_or(Time::ZERO, |row| row.arrival);
    for row in &mut rows {
        row.arrival = Time::ZERO + (row.arrival - first);
    }
    FileSource::Recorded(rows.into())
}

/// The format, by the first line.
fn guess<R: BufRead>(lines: &mut Lines<R>) -> Result<Format, FileError> {
    let path = lines.path().to_path_buf();
    let known = [
        (Format::AzureCsv, "azure_csv", azure::SCHEMA),
        (Format::Servegen, "servegen", servegen::SCHEMA),
        (Format::LengthsCsv, "lengths_csv", lengths::SCHEMA),
        (Format::Csv, "csv", plain::SCHEMA),
    ];
    let expected = || {
        let mut words = String::from("the first line of a known format: ");
        for (_, name, schema) in &known {
            words.push_str(&format!("{} ({name}); ", schema.required.join(",")));
        }
        words.push_str("or a JSON object (mooncake_jsonl)");
        words.into()
    };
    let Some(first) = lines.peek()? else {
        return Err(FileError::Empty { path, expected: expected() });
    };
    if first.starts_with('{') {
        return Ok(Format::MooncakeJsonl);
    }
    match known.iter().find(|(_, _, schema)| schema.positions(first).is_some()) {
        Some((format, _, _)) => Ok(*format),
        None => {
            let got = shown(first);
            Err(FileError::Header { path, line: lines.number(), expected: expected(), got })
        }
    }
}
