//! ServeGen: a CSV of rates and gap laws per client and 10-minute window, and gzipped JSON lines
//! with length histograms per client and 6-hour window.
//!
//! Source: ServeGen, arXiv 2505.09999.

use std::collections::BTreeMap;
use std::io::BufRead;

use serde::Deserialize;
use specrouter_routing::units::Span;
use specrouter_routing::workload::{ClientLoad, ClientWindow, GapShape, Histogram};

use super::error::FileError;
use super::table::{Lines, Row, Schema, Table};

pub(super) const SCHEMA: Schema = Schema {
    required: &["client", "window_start_s", "rate_rps", "cv", "dist", "shape", "scale_s"],
    optional: &[],
};

/// Length of a window of rates.
const RATE_WINDOW_S: u64 = 600;

/// Length of a window of lengths.
const LENGTH_WINDOW_S: u64 = 21_600;

/// Latest beginning of a window: a leap year's end.
const MAX_START_S: u64 = 366 * 86_400;

/// Highest rate of one client in requests per second.
const MAX_RATE_PER_S: f64 = 1e5;

const FIELDS: &str = "client, window_start_s, input_tokens and output_tokens";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    client: u32,
    window_start_s: u64,
    input_tokens: Vec<(u32, f64)>,
    output_tokens: Vec<(u32, f64)>,
}

/// Histograms by client and window of lengths.
struct Lengths {
    histograms: Vec<Histogram>,
    index: BTreeMap<(u32, u64), u32>,
    /// Share of outputs of 0 tokens that were left out, and in how many histograms.
    dropped: (f64, u64),
}

/// The clients of a pair of files, and notes.
///
/// Gaps of rows whose law the source did not fit are gamma with their CV, or exponential without
/// one. The scale is not used: the gaps fill the window. Outputs of 0 tokens, which the source
/// counts, are left out of the histograms, and a note says so.
///
/// # Errors
/// [`FileError`], for the first line of either file that cannot be read, and for clients without
/// lengths.
pub(super) fn read<R: BufRead, S: BufRead>(
    rates: Lines<R>,
    lengths: Lines<S>,
    limit: usize,
) -> Result<(ClientLoad, Vec<String>), FileError> {
    let (rates_path, lengths_path) = (rates.path().to_path_buf(), lengths.path().to_path_buf());
    let mut table = Table::new(rates, SCHEMA, limit)?;
    let lengths = read_lengths(lengths, limit)?;
    let mut seen: BTreeMap<(u32, u64), ()> = BTreeMap::new();
    let mut rows = Vec::new();
    while let Some(row) = table.next()? {
        let client = row.whole(0, u32::MAX.into())? as u32;
        let start = row.whole(1, MAX_START_S)?;
        if !start.is_multiple_of(RATE_WINDOW_S) {
            return Err(row.value(1, format!("a multiple of {RATE_WINDOW_S} seconds")));
        }
        let line = row.place.line;
        if seen.insert((client, start), ()).is_some() {
            return Err(FileError::Twice { path: rates_path, line, client, window_start_s: start });
        }
        let rate = row.number(2, MAX_RATE_PER_S)?;
        let gaps = gap_shape(&row)?;
        let window_start_s = start / LENGTH_WINDOW_S * LENGTH_WINDOW_S;
        let Some(&histogram) = lengths.index.get(&(client, window_start_s)) else {
            return Err(FileError::MissingLengths {
                path: lengths_path,
                rates: rates_path,
                line,
                client,
                window_start_s,
            });
        };
        rows.push(ClientWindow {
            client,
            window: (start / RATE_WINDOW_S) as u32,
            requests: (rate * RATE_WINDOW_S as f64).round() as u32,
            gaps,
            histogram,
        });
    }
    let window = Span::from_nanos(RATE_WINDOW_S * 1_000_000_000);
    let load = ClientLoad::new(rows, lengths.histograms, window)
        .map_err(|source| FileError::Clients { path: rates_path, source })?;
    let mut notes = Vec::new();
    if lengths.dropped.1 > 0 {
        notes.push(format!(
            "{}: {} histograms have outputs of 0 tokens, at most a share of {:.2e}; these are left out",
            lengths_path.display(),
            lengths.dropped.1,
            lengths.dropped.0,
        ));
    }
    Ok((load, notes))
}

fn gap_shape(row: &Row<'_>) -> Result<GapShape, FileError> {
    let fitted = || {
        let shape = row.number(5, 1000.0)?;
        if shape < 0.01 { Err(row.value(5, "a shape of 0.01 to 1000")) } else { Ok(shape) }
    };
    match row.text(4) {
        Some("gamma") => fitted().map(GapShape::Gamma),
        Some("weibull") => fitted().map(GapShape::Weibull),
        Some("") if row.text(3) == Some("") => Ok(GapShape::Exponential),
        Some("") => {
            let cv = row.number(3, 10.0)?;
            if cv < 0.04 {
                Err(row.value(3, "a CV of 0.04 to 10 where no law is fitted"))
            } else {
                Ok(GapShape::Gamma(1.0 / (cv * cv)))
            }
        }
        _ => Err(row.value(4, "gamma, weibull or nothing")),
    }
}

fn read_lengths<R: BufRead>(mut lines: Lines<R>, limit: usize) -> Result<Lengths, FileError> {
    let path = lines.path().to_path_buf();
    let mut lengths = Lengths { histograms: Vec::new(), index: BTreeMap::new(), dropped: (0.0, 0) };
    while let Some((place, text)) = lines.next()? {
        let number = place.line;
        if lengths.histograms.len() == limit {
            return Err(FileError::TooManyRows { path, line: number, limit });
        }
        let mut line: Line = serde_json::from_str(text).map_err(|error| place.json(FIELDS, &error))?;
        if !line.window_start_s.is_multiple_of(LENGTH_WINDOW_S) || line.window_start_s > MAX_START_S {
            let expected = format!("a multiple of {LENGTH_WINDOW_S} seconds, at most {MAX_START_S}");
            return Err(place.value("window_start_s", expected, &line.window_start_s.to_string()));
        }
        let none: f64 = line.output_tokens.iter().filter(|bin| bin.0 == 0).map(|bin| bin.1).sum();
        if none > 0.0 {
            lengths.dropped = (lengths.dropped.0.max(none), lengths.dropped.1 + 1);
            line.output_tokens.retain(|bin| bin.0 > 0);
        }
        let histogram = Histogram::new(&line.input_tokens, &line.output_tokens)
            .map_err(|source| FileError::ClientLine { path: path.clone(), line: number, source })?;
        let (client, window_start_s) = (line.client, line.window_start_s);
        if lengths.index.insert((client, window_start_s), lengths.histograms.len() as u32).is_some() {
            return Err(FileError::Twice { path, line: number, client, window_start_s });
        }
        lengths.histograms.push(histogram);
    }
    if lengths.histograms.is_empty() {
        return Err(FileError::Empty {
            path,
            expected: format!("a JSON object a line with {FIELDS}").into(),
        });
    }
    Ok(lengths)
}
