//! Traces: the tables that one run of one arm and seed leaves behind.
//!
//! A trace is a folder with a `manifest.json` and parquet tables ([`schema`]). [`TraceWriter`] keeps
//! the rows of a run as its [`Sink`](specrouter_routing::record::Sink), in row groups, so its
//! memory does not grow with the run; [`Trace`] reads them back. This crate is the one home of
//! polars.

pub mod calibrate;
mod check;
mod error;
mod manifest;
mod part;
mod read;
mod rows;
pub mod schema;
#[cfg(test)]
mod scratch;
mod write;

pub use check::{Findings, check};
pub use error::TraceError;
pub use manifest::{MANIFEST_FILE, Manifest, Member, Mode, Part, Run};
pub use part::file_digest;
pub use read::Trace;
pub use schema::{SCHEMA_VERSION, Table};
pub use write::{Tables, TraceWriter};
