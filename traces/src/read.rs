//! Reads a trace back.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use polars::prelude::{ParallelStrategy, ParquetReader, SerReader};
use specrouter_routing::record::{
    DecisionRecord, PassRecord, RequestRecord, RoundRecord, TextRecord, TokenRecord, VerificationRecord,
};

use crate::error::TraceError;
use crate::manifest::{Manifest, Part, Run};
use crate::part::Digest;
use crate::rows::{Frame, Row};
use crate::schema::Table;

/// A trace on disk, its manifest read and checked.
///
/// A table is read whole, and only after its bytes proved to be the ones that were written: polars
/// never sees a file that was cut short or changed.
#[derive(Clone, Debug)]
pub struct Trace {
    folder: PathBuf,
    manifest: Manifest,
}

impl Trace {
    /// Opens the trace in `folder`, complete or not; ask [`Manifest::complete`].
    ///
    /// # Errors
    /// [`TraceError`]: no manifest, one that is none, or one of another schema version.
    pub fn open(folder: &Path) -> Result<Self, TraceError> {
        Ok(Self { folder: folder.to_path_buf(), manifest: Manifest::read(folder)? })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the trace is of and what it has.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Has it such a table.
    pub fn has(&self, table: Table) -> bool {
        self.manifest.tables.contains_key(table.name())
    }

    /// What was run.
    pub fn run(&self) -> &Run {
        &self.manifest.run
    }

    /// Every request, in the order in which they ended.
    ///
    /// # Errors
    /// [`TraceError`]: the table is missing or damaged, or a cell means nothing.
    pub fn requests(&self) -> Result<Vec<RequestRecord>, TraceError> {
        self.table()
    }

    /// Every pass.
    ///
    /// # Errors
    /// As [`Trace::requests`].
    pub fn passes(&self) -> Result<Vec<PassRecord>, TraceError> {
        self.table()
    }

    /// Every verification.
    ///
    /// # Errors
    /// As [`Trace::requests`].
    pub fn verifications(&self) -> Result<Vec<VerificationRecord>, TraceError> {
        self.table()
    }

    /// Every round.
    ///
    /// # Errors
    /// As [`Trace::requests`].
    pub fn rounds(&self) -> Result<Vec<RoundRecord>, TraceError> {
        self.table()
    }

    /// Every decision.
    ///
    /// # Errors
    /// As [`Trace::requests`].
    pub fn decisions(&self) -> Result<Vec<DecisionRecord>, TraceError> {
        self.table()
    }

    /// Every finished text.
    ///
    /// # Errors
    /// As [`Trace::requests`].
    pub fn texts(&self) -> Result<Vec<TextRecord>, TraceError> {
        self.table()
    }

    /// Every scored output position.
    ///
    /// # Errors
    /// As [`Trace::requests`].
    pub fn tokens(&self) -> Result<Vec<TokenRecord>, TraceError> {
        self.table()
    }

    fn table<R: Row>(&self) -> Result<Vec<R>, TraceError> {
        let Some(parts) = self.manifest.tables.get(R::TABLE.name()) else {
            return Err(TraceError::NoTable {
                path: self.folder.clone(),
                table: R::TABLE.name(),
                has: self.manifest.tables.keys().cloned().collect::<Vec<_>>().join(", "),
            });
        };
        let mut rows = Vec::new();
        for part in parts {
            rows.append(&mut R::take(&self.part(part)?)?);
        }
        Ok(rows)
    }

    fn part(&self, part: &Part) -> Result<Frame, TraceError> {
        let path = self.folder.join(&part.file);
        let differs = |what, expected: String, got: String| {
            let path = path.clone();
            if expected == got { Ok(()) } else { Err(TraceError::Damaged { path, what, expected, got }) }
        };
        // Length first, so that a wrong file is not read into memory.
        let length = fs::metadata(&path).map_err(TraceError::disk("open", &path))?.len();
        differs("length in bytes", part.bytes.to_string(), length.to_string())?;
        let bytes = fs::read(&path).map_err(TraceError::disk("read", &path))?;
        let mut digest = Digest::EMPTY;
        digest.update(&bytes);
        differs("FNV-1a digest", part.fnv1a.clone(), digest.hex())?;
        let frame = ParquetReader::new(Cursor::new(bytes))
            .read_parallel(ParallelStrategy::None)
            .finish()
            .map_err(|source| TraceError::Read { path: path.clone(), source })?;
        differs("number of rows", part.rows.to_string(), frame.height().to_string())?;
        Ok(Frame { path, frame })
    }
}
