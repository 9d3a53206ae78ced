//! What can be wrong with a workload file. Always the file's or the user's doing, never a bug.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

use specrouter_routing::workload::ClientLoadError;

/// A workload file that cannot be read, with the place, what was expected and what came.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Prompts where lengths are needed.
    #[error("{}: prompts are text, and only `record` reads text: a simulation needs lengths", path.display())]
    Prompts {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be opened.
    #[error("workload file {}: expected a readable file, got: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is a folder.
    #[error("workload file {}: expected a file, got a folder", path.display())]
    Folder {
        /// The path.
        path: PathBuf,
    },
    /// Reading stopped half-way, for damaged gzip data as well.
    #[error("workload file {}: expected to read on after line {line}, got: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Lines read before.
        line: u64,
        /// What the system or the decompressor says.
        source: io::Error,
    },
    /// There is nothing in it.
    #[error("workload file {}: expected {expected}, got an empty file", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What its first line should be.
        expected: Cow<'static, str>,
    },
    /// There is nothing after the header.
    #[error("workload file {}: expected at least one row after the header, got none", path.display())]
    NoRows {
        /// The file.
        path: PathBuf,
    },
    /// It is not text.
    #[error("workload file {}, line {line}: expected text, got {got}", path.display())]
    Binary {
        /// The file.
        path: PathBuf,
        /// The first such line.
        line: u64,
        /// What in it is not text.
        got: &'static str,
    },
    /// A row without end.
    #[error("workload file {}, line {line}: expected at most {limit} bytes in a line, got more", path.display())]
    LongLine {
        /// The file.
        path: PathBuf,
        /// Which line.
        line: u64,
        /// The most.
        limit: u64,
    },
    /// The first line is not this format's.
    #[error("workload file {}, line {line}: expected {expected}, got `{got}`", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// Which line.
        line: u64,
        /// The columns, or every format's.
        expected: Cow<'static, str>,
        /// The line.
        got: String,
    },
    /// A row with too few or too many fields.
    #[error("workload file {}, line {line}: expected {expected} fields ({columns}), got {got} in `{text}`", path.display())]
    Fields {
        /// The file.
        path: PathBuf,
        /// Which line.
        line: u64,
        /// How many columns the header has.
        expected: usize,
        /// Their names.
        columns: String,
        /// How many came.
        got: usize,
        /// The line.
        text: String,
    },
    /// A field that holds what it cannot hold.
    #[error("workload file {}, line {line}, column {column}: expected {expected}, got `{got}`", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Which line.
        line: u64,
        /// Which column.
        column: Cow<'static, str>,
        /// What it takes.
        expected: Cow<'static, str>,
        /// What came.
        got: String,
    },
    /// A line that is not the JSON it should be.
    #[error("workload file {}, line {line}, character {character}: expected a JSON object with {expected}, got: {problem}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Which line.
        line: u64,
        /// Where in it.
        character: usize,
        /// The fields.
        expected: &'static str,
        /// What the parser says.
        problem: String,
    },
    /// More than is held in memory.
    #[error("workload file {}, line {line}: expected at most {limit} rows, got more", path.display())]
    TooManyRows {
        /// The file.
        path: PathBuf,
        /// The first row too many.
        line: u64,
        /// The most.
        limit: usize,
    },
    /// ServeGen rates without their lengths.
    #[error("workload file {}: expected `lengths_file` with the length histograms of these clients, got none; {} does not exist", path.display(), tried.display())]
    NoLengths {
        /// The rates.
        path: PathBuf,
        /// Where the companion would be by its name.
        tried: PathBuf,
    },
    /// A client and window without lengths.
    #[error("workload file {}: expected length histograms for client {client} from {window_start_s} s, got none (needed by {}, line {line})", path.display(), rates.display())]
    MissingLengths {
        /// The lengths.
        path: PathBuf,
        /// The rates.
        rates: PathBuf,
        /// Where the rates ask for it.
        line: u64,
        /// Whose.
        client: u32,
        /// The beginning of the window of lengths.
        window_start_s: u64,
    },
    /// The same client and window twice.
    #[error("workload file {}, line {line}: expected client {client} from {window_start_s} s once, got it again", path.display())]
    Twice {
        /// The file.
        path: PathBuf,
        /// The second time.
        line: u64,
        /// Whose.
        client: u32,
        /// The beginning of the window.
        window_start_s: u64,
    },
    /// Client data that no stream can be drawn from, in one line.
    #[error("workload file {}, line {line}: {source}", path.display())]
    ClientLine {
        /// The file.
        path: PathBuf,
        /// Which line.
        line: u64,
        /// What of it.
        source: ClientLoadError,
    },
    /// Client data that no stream can be drawn from, all together.
    #[error("workload file {}: {source}", path.display())]
    Clients {
        /// The file.
        path: PathBuf,
        /// What of it.
        source: ClientLoadError,
    },
}

/// A place in a file, from which errors are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub path: &'a Path,
    /// From 1.
    pub line: u64,
}

impl Place<'_> {
    pub fn value(
        self,
        column: impl Into<Cow<'static, str>>,
        expected: impl Into<Cow<'static, str>>,
        got: &str,
    ) -> FileError {
        FileError::Value {
            path: self.path.to_path_buf(),
            line: self.line,
            column: column.into(),
            expected: expected.into(),
            got: shown(got),
        }
    }

    /// From serde_json, whose own line numbers count within the line.
    pub fn json(self, expected: &'static str, error: &serde_json::Error) -> FileError {
        let full = error.to_string();
        let problem = full.split(" at line ").next().unwrap_or(&full);
        FileError::Json {
            path: self.path.to_path_buf(),
            line: self.line,
            character: error.column(),
            expected,
            problem: shown(problem),
        }
    }
}

/// `text` as it can stand in a message: short, on one line.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 80;
    let mut out: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if text.chars().nth(MOST).is_some() {
        out.push_str("...");
    }
    out
}
