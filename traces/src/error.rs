//! Why a trace could not be written or read.

use std::path::PathBuf;

use polars::error::PolarsError;
use specrouter_routing::chain::ChainError;

use crate::schema::SCHEMA_VERSION;

/// Why a trace could not be written or read. Every message names the file.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file system said no: a missing folder, no permission, a full disk.
    #[error("cannot {action} {}: {source}", path.display())]
    Disk {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Polars could not write a table: a full disk, most often.
    #[error("cannot write table {}: {source}", path.display())]
    Write {
        /// The table's file.
        path: PathBuf,
        /// What polars said.
        source: PolarsError,
    },
    /// Polars could not read a table whose bytes are as they were written.
    #[error("cannot read table {}: {source}", path.display())]
    Read {
        /// The table's file.
        path: PathBuf,
        /// What polars said.
        source: PolarsError,
    },
    /// The manifest is no JSON, or not the manifest of this schema version.
    #[error("{} is not a trace manifest: {source}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The manifest is JSON, but a field of it cannot be.
    #[error("{}: {field} must be {expected}, got {got}", path.display())]
    Field {
        /// The manifest.
        path: PathBuf,
        /// The field.
        field: String,
        /// What it must be.
        expected: String,
        /// What came.
        got: String,
    },
    /// Written by another version of the tool.
    #[error(
        "{}: schema version must be {SCHEMA_VERSION}, got {got}{}", path.display(),
        if *got > u64::from(SCHEMA_VERSION) { "; a newer specrouter wrote this trace" } else { "" }
    )]
    Version {
        /// The manifest.
        path: PathBuf,
        /// The version it states.
        got: u64,
    },
    /// The trace has no such table: it was written at a lower level, or killed before one was done.
    #[error("trace {} has no table {table}; it has {}", path.display(), if has.is_empty() { "none" } else { has })]
    NoTable {
        /// The trace's folder.
        path: PathBuf,
        /// The table asked for.
        table: &'static str,
        /// The tables it has.
        has: String,
    },
    /// A table's file is not the file that was written: cut short, or changed.
    #[error("table {} is damaged: its {what} must be {expected}, got {got}", path.display())]
    Damaged {
        /// The table's file.
        path: PathBuf,
        /// What was compared.
        what: &'static str,
        /// What the manifest says.
        expected: String,
        /// What was found.
        got: String,
    },
    /// A column is missing or of another type.
    #[error("table {}: column {column} must be {expected}, got {got}", path.display())]
    Column {
        /// The table's file.
        path: PathBuf,
        /// The column.
        column: &'static str,
        /// Its type.
        expected: &'static str,
        /// What came.
        got: String,
    },
    /// A cell holds what its column cannot mean.
    #[error("table {}, row {row}: {column} must be {expected}, got {got}", path.display())]
    Cell {
        /// The table's file.
        path: PathBuf,
        /// Its row, counted from 0.
        row: usize,
        /// The column.
        column: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What came.
        got: String,
    },
    /// A chain and its windows are no plan.
    #[error("table {}, row {row}: {column}: {source}", path.display())]
    Chain {
        /// The table's file.
        path: PathBuf,
        /// Its row, counted from 0.
        row: usize,
        /// The column.
        column: &'static str,
        /// What does not fit.
        source: ChainError,
    },
    /// A record names a class that the run's header does not have: a bug in whoever drives the run.
    #[error("request {request}: class must be below {classes}, the classes of the run, got {class}")]
    Class {
        /// The request.
        request: u64,
        /// Its class.
        class: u16,
        /// Classes of the run.
        classes: usize,
    },
}

impl TraceError {
    /// Wraps an error of the file system.
    pub(crate) fn disk(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Disk { action, path, source }
    }
}
