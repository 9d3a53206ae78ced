//! Lines and columns of text files: BOM, CRLF and blank lines are read, the rest is named.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use specrouter_routing::units::Time;
use specrouter_routing::workload::MAX_LENGTH;

use super::error::{FileError, Place, shown};

/// Most bytes of a line; the longest shipped one (a histogram) has 200,000.
const MAX_LINE: u64 = 16 << 20;

/// Most columns that any format has.
const MAX_COLUMNS: usize = 8;

/// Opens `path`, through gzip when it begins as gzip does.
///
/// # Errors
/// [`FileError::Open`], [`FileError::Folder`] and [`FileError::Read`].
pub(super) fn open(path: &Path) -> Result<Box<dyn BufRead>, FileError> {
    let refuse = |source| FileError::Open { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(refuse)?;
    if file.metadata().map_err(refuse)?.is_dir() {
        return Err(FileError::Folder { path: path.to_path_buf() });
    }
    decompressed(BufReader::new(file)).map_err(|source| FileError::Read {
        path: path.to_path_buf(),
        line: 0,
        source,
    })
}

/// `input`, through gzip when it begins as gzip does.
pub(super) fn decompressed(mut input: impl BufRead + 'static) -> io::Result<Box<dyn BufRead>> {
    if input.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
        Ok(Box::new(BufReader::new(MultiGzDecoder::new(input))))
    } else {
        Ok(Box::new(input))
    }
}

/// The lines of a file that are not blank.
pub(super) struct Lines<R> {
    path: PathBuf,
    input: R,
    number: u64,
    buffer: Vec<u8>,
    /// The current line is given again by the next call.
    kept: bool,
}

impl<R: BufRead> Lines<R> {
    pub fn new(path: &Path, input: R) -> Self {
        Self { path: path.to_path_buf(), input, number: 0, buffer: Vec::new(), kept: false }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lines read so far.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The next line that is not blank, without line end and BOM, and its place.
    pub fn next(&mut self) -> Result<Option<(Place<'_>, &str)>, FileError> {
        while !self.kept {
            if !self.read()? {
                return Ok(None);
            }
            self.kept = self.buffer.iter().any(|byte| !byte.is_ascii_whitespace());
        }
        self.kept = false;
        let binary = |got| FileError::Binary { path: self.path.clone(), line: self.number, got };
        if self.buffer.contains(&0) {
            return Err(binary("a byte of value 0"));
        }
        match std::str::from_utf8(&self.buffer) {
            Ok(text) => Ok(Some((Place { path: &self.path, line: self.number }, text.trim()))),
            Err(_) => Err(binary("bytes that are not UTF-8")),
        }
    }

    /// The next line, which the call after this gives again.
    pub fn peek(&mut self) -> Result<Option<&str>, FileError> {
        if self.next()?.is_none() {
            return Ok(None);
        }
        self.kept = true;
        Ok(std::str::from_utf8(&self.buffer).ok().map(str::trim))
    }

    /// Reads a line into the buffer; false at the end of the file.
    fn read(&mut self) -> Result<bool, FileError> {
        self.buffer.clear();
        let mut limited = (&mut self.input).take(MAX_LINE);
        let read = limited.read_until(b'\n', &mut self.buffer).map_err(|source| FileError::Read {
            path: self.path.clone(),
            line: self.number,
            source,
        })?;
        self.number += 1;
        if read as u64 == MAX_LINE && self.buffer.last() != Some(&b'\n') {
            return Err(FileError::LongLine { path: self.path.clone(), line: self.number, limit: MAX_LINE });
        }
        if self.number == 1 && self.buffer.starts_with(&[0xef, 0xbb, 0xbf]) {
            self.buffer.drain(..3);
        }
        Ok(read > 0)
    }
}

/// The columns of a CSV format.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schema {
    pub required: &'static [&'static str],
    pub optional: &'static [&'static str],
}

impl Schema {
    /// In words, for messages.
    pub fn words(&self) -> String {
        let mut words = format!("the columns {}", self.required.join(","));
        for name in self.optional {
            words.push_str(&format!(" and optionally {name}"));
        }
        words
    }

    /// Where each of required and then optional columns stands in `header`; `None` when this is
    /// another format's header.
    pub fn positions(&self, header: &str) -> Option<Vec<Option<usize>>> {
        let names: Vec<&str> = header.split(',').map(str::trim).collect();
        let position = |name: &&str| names.iter().position(|found| found == name);
        let positions: Vec<Option<usize>> = self.required.iter().chain(self.optional).map(position).collect();
        // Every required column is there, and every column that is there is known, once.
        let whole = positions[..self.required.len()].iter().all(Option::is_some);
        let known = positions.iter().flatten().count() == names.len();
        (whole && known).then_some(positions)
    }
}

/// A CSV file, row by row.
pub(super) struct Table<R> {
    lines: Lines<R>,
    schema: Schema,
    positions: Vec<Option<usize>>,
    columns: usize,
    rows: usize,
    limit: usize,
}

impl<R: BufRead> Table<R> {
    /// Reads the header; rows past `limit` are refused.
    pub fn new(mut lines: Lines<R>, schema: Schema, limit: usize) -> Result<Self, FileError> {
        let path = lines.path().to_path_buf();
        let Some((place, header)) = lines.next()? else {
            return Err(FileError::Empty { path, expected: schema.words().into() });
        };
        let Some(positions) = schema.positions(header) else {
            let (line, got) = (place.line, shown(header));
            return Err(FileError::Header { path, line, expected: schema.words().into(), got });
        };
        let columns = positions.iter().flatten().count();
        Ok(Self { lines, schema, positions, columns, rows: 0, limit })
    }

    /// The next row; `None` at the end of the file.
    ///
    /// # Errors
    /// Rows with too few or too many fields, more rows than the limit, and a file without any.
    pub fn next(&mut self) -> Result<Option<Row<'_>>, FileError> {
        let Self { lines, schema, positions, columns, rows, limit } = self;
        // The path is copied where it is needed: an error ends the reading.
        let path = lines.path().to_path_buf();
        let Some((place, text)) = lines.next()? else {
            return if *rows == 0 { Err(FileError::NoRows { path }) } else { Ok(None) };
        };
        if *rows == *limit {
            return Err(FileError::TooManyRows { path, line: place.line, limit: *limit });
        }
        *rows += 1;
        let mut fields = [""; MAX_COLUMNS];
        let mut count = 0;
        for field in text.split(',') {
            if let Some(slot) = fields.get_mut(count) {
                *slot = field.trim();
            }
            count += 1;
        }
        if count != *columns {
            return Err(FileError::Fields {
                path,
                line: place.line,
                expected: *columns,
                columns: schema.required.join(","),
                got: count,
                text: shown(text),
            });
        }
        Ok(Some(Row { place, fields, schema: *schema, positions }))
    }
}

/// A row of a CSV file; columns are counted as in the schema, required before optional.
pub(super) struct Row<'t> {
    pub place: Place<'t>,
    fields: [&'t str; MAX_COLUMNS],
    schema: Schema,
    positions: &'t [Option<usize>],
}

impl Row<'_> {
    fn name(&self, column: usize) -> &'static str {
        let required = self.schema.required.len();
        if column < required { self.schema.required[column] } else { self.schema.optional[column - required] }
    }

    /// The text of a column; `None` for an optional one that the file does not have.
    pub fn text(&self, column: usize) -> Option<&str> {
        self.positions[column].map(|position| self.fields[position])
    }

    /// An error about a column.
    pub fn value(&self, column: usize, expected: impl Into<std::borrow::Cow<'static, str>>) -> FileError {
        self.place.value(self.name(column), expected, self.text(column).unwrap_or(""))
    }

    /// A length: 1 to 2^24 tokens.
    pub fn tokens(&self, column: usize) -> Result<u32, FileError> {
        let tokens = self.text(column).and_then(|text| text.parse::<u32>().ok());
        tokens
            .filter(|tokens| (1..=MAX_LENGTH).contains(tokens))
            .ok_or_else(|| self.value(column, format!("a whole number of tokens, 1 to {MAX_LENGTH}")))
    }

    /// A whole number of at most `most`.
    pub fn whole(&self, column: usize, most: u64) -> Result<u64, FileError> {
        let whole = self.text(column).and_then(|text| text.parse::<u64>().ok());
        whole
            .filter(|whole| *whole <= most)
            .ok_or_else(|| self.value(column, format!("a whole number, 0 to {most}")))
    }

    /// A finite number of at least 0 and at most `most`.
    pub fn number(&self, column: usize, most: f64) -> Result<f64, FileError> {
        let number = self.text(column).and_then(|text| text.parse::<f64>().ok());
        number
            .filter(|number| (0.0..=most).contains(number))
            .ok_or_else(|| self.value(column, format!("a number, 0 to {most:e}")))
    }

    /// A moment in seconds, exact to the nanosecond.
    pub fn seconds(&self, column: usize) -> Result<Time, FileError> {
        self.text(column)
            .and_then(parse_seconds)
            .ok_or_else(|| self.value(column, "a finite number of seconds, 0 or more and under 584 years"))
    }
}

/// Decimal seconds to nanoseconds. Plain decimals are read digit by digit, since a double does not
/// hold the nanoseconds of a calendar time; digits past the ninth are dropped.
fn parse_seconds(text: &str) -> Option<Time> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() + fraction.len() == 0 {
        return Time::from_seconds(text.parse().ok()?).ok();
    }
    let seconds: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let nanos = seconds.checked_mul(1_000_000_000)?.checked_add(parse_nanos(fraction))?;
    Some(Time::from_nanos(nanos))
}

/// Nanoseconds of the digits after a decimal point.
pub(super) fn parse_nanos(fraction: &str) -> u64 {
    let digit = |byte: u8| u64::from(byte - b'0');
    (0..9).fold(0, |nanos, place| nanos * 10 + fraction.as_bytes().get(place).map_or(0, |byte| digit(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_exact_to_the_nanosecond() {
        let nanos = |text| parse_seconds(text).map(Time::nanos);
        assert_eq!(nanos("1700158546.680590012"), Some(1_700_158_546_680_590_012));
        assert_eq!(nanos("0.0000000019"), Some(1));
        assert_eq!(nanos("5"), Some(5_000_000_000));
        assert_eq!(nanos(".5"), Some(500_000_000));
        assert_eq!(nanos("1.5e-3"), Some(1_500_000));
        for bad in ["", ".", "-1", "NaN", "inf", "1e300", "18446744074", "1.2.3", "5s", "0x10", "1_000"] {
            assert_eq!(nanos(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_line_is_given_again_after_a_look() {
        let text: &[u8] = b"\xef\xbb\xbf\r\n a,b \r\n\n1,2";
        let mut lines = Lines::new(Path::new("x"), text);
        assert_eq!(lines.peek().unwrap(), Some("a,b"));
        let mut seen = Vec::new();
        while let Some((place, text)) = lines.next().unwrap() {
            seen.push((place.line, text.to_owned()));
        }
        assert_eq!(seen, [(2, "a,b".to_owned()), (4, "1,2".to_owned())]);
    }

    #[test]
    fn columns_are_found_by_name_in_any_order() {
        let schema = Schema { required: &["a", "b"], optional: &["c"] };
        assert_eq!(schema.positions("b, a"), Some(vec![Some(1), Some(0), None]));
        assert_eq!(schema.positions("c,b,a"), Some(vec![Some(2), Some(1), Some(0)]));
        for bad in ["a", "a,b,d", "a,a,b", "", "A,B"] {
            assert_eq!(schema.positions(bad), None, "{bad}");
        }
    }
}
