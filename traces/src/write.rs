//! Keeps the rows of a run as they come.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use specrouter_routing::record::{
    DecisionRecord, PassRecord, RequestRecord, RoundRecord, Sink, TextRecord, TokenRecord,
    VerificationRecord, Wants,
};

use crate::error::TraceError;
use crate::manifest::{MANIFEST_FILE, Manifest, Run};
use crate::part::OpenPart;
use crate::rows::{Cells, Row};
use crate::schema::Table;

/// Rows of a row group: the most that wait in memory, per table.
const ROW_GROUP: usize = 100_000;

/// Which tables a run keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tables {
    /// None; the manifest alone.
    Summary,
    /// A row per request.
    #[default]
    Requests,
    /// Every table.
    Full,
}

impl Tables {
    /// The tables kept.
    pub fn kept(self) -> &'static [Table] {
        match self {
            Self::Summary => &[],
            Self::Requests => &[Table::Requests],
            Self::Full => &Table::ALL,
        }
    }
}

/// Writes the trace of one arm and seed into a folder of its own, in row groups.
///
/// Safe against a killed process: a table's file has its final name only once it is whole, and the
/// manifest, written after the files it names, says `complete: false` until
/// [`TraceWriter::finish`]. (It is not synced: a power cut may cost the trace.)
///
/// As a [`Sink`] it cannot answer with an error, so it keeps the first one: rows after it are
/// dropped, [`TraceWriter::failed`] shows it, and `finish` answers with it.
pub struct TraceWriter {
    folder: PathBuf,
    manifest: Manifest,
    tables: Vec<Open>,
    level: Tables,
    row_group: usize,
    /// It goes on with a trace that another process began.
    resumed: bool,
    failed: Option<TraceError>,
}

/// A table that is being kept.
struct Open {
    table: Table,
    cells: Cells,
    part: Option<OpenPart>,
    parts: usize,
}

impl TraceWriter {
    /// Opens a trace of `run` in `folder`, making it where it is missing. A trace that stands there
    /// is removed, its manifest first: files of two runs never stand side by side.
    ///
    /// # Errors
    /// [`TraceError::Disk`] when the folder or a file cannot be made or an old one not removed.
    pub fn create(folder: &Path, level: Tables, run: Run) -> Result<Self, TraceError> {
        fs::create_dir_all(folder).map_err(TraceError::disk("create folder", folder))?;
        remove_trace(folder)?;
        let manifest = Manifest::new(run);
        manifest.write(folder)?;
        let open = |&table: &Table| Open { table, cells: Cells::new(table, 0), part: None, parts: 0 };
        let tables = level.kept().iter().map(open).collect();
        Ok(Self {
            folder: folder.to_path_buf(),
            manifest,
            tables,
            level,
            row_group: ROW_GROUP,
            resumed: false,
            failed: None,
        })
    }

    /// The first error, if there was one: a long run may want to stop for it.
    pub fn failed(&self) -> Option<&TraceError> {
        self.failed.as_ref()
    }

    /// Makes what has come so far safe: waiting rows are written, open files are finished and named
    /// in the manifest, and rows to come go to new parts. For long recordings; a simulation has no
    /// need of it.
    ///
    /// # Errors
    /// The first error of this or any earlier row; the trace is of no more use as a sink then.
    pub fn checkpoint(&mut self) -> Result<(), TraceError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        for index in 0..self.tables.len() {
            self.flush(index)?;
            let open = &mut self.tables[index];
            if let Some(part) = open.part.take() {
                let done = part.finish()?;
                open.parts += 1;
                self.manifest.tables.entry(open.table.name().to_owned()).or_default().push(done);
            }
        }
        self.manifest.write(&self.folder)
    }

    /// The run has ended: what has come so far is made safe, and what is still to come is no part of the run.
    ///
    /// # Errors
    /// As [`TraceWriter::checkpoint`].
    pub fn end_run(&mut self) -> Result<(), TraceError> {
        self.manifest.ended = true;
        self.checkpoint()
    }

    /// Opens the trace in `folder` to go on with its `tokens`; all that stands there is kept. Only tokens are taken.
    ///
    /// # Errors
    /// [`TraceError`]: no trace of this version, or what was left of an unfinished file cannot be removed.
    pub fn resume(folder: &Path) -> Result<Self, TraceError> {
        let mut manifest = Manifest::read(folder)?;
        manifest.complete = false;
        manifest.write(folder)?;
        for entry in fs::read_dir(folder).map_err(TraceError::disk("list folder", folder))? {
            let path = entry.map_err(TraceError::disk("list folder", folder))?.path();
            if is_ours(&path) && path.extension().is_some_and(|extension| extension == "part") {
                fs::remove_file(&path).map_err(TraceError::disk("remove", &path))?;
            }
        }
        let table = Table::Tokens;
        let parts = manifest.tables.get(table.name()).map_or(0, Vec::len);
        let tables = vec![Open { table, cells: Cells::new(table, 0), part: None, parts }];
        Ok(Self {
            folder: folder.to_path_buf(),
            manifest,
            tables,
            level: Tables::Full,
            row_group: ROW_GROUP,
            resumed: true,
            failed: None,
        })
    }

    /// Writes what waits, names every file, and declares the trace complete; a resumed one only if its run had ended.
    /// Tables without rows are written too: empty is not missing.
    ///
    /// # Errors
    /// The first error of this or any earlier row. The folder keeps what had been finished before.
    pub fn finish(mut self) -> Result<Manifest, TraceError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        for open in &mut self.tables {
            if open.parts == 0 && open.part.is_none() {
                open.part = Some(OpenPart::create(&self.folder, open.table, 0)?);
            }
        }
        self.manifest.ended |= !self.resumed;
        self.manifest.complete = self.manifest.ended;
        self.checkpoint()?;
        Ok(self.manifest)
    }

    /// Puts a row, if its table is kept and nothing has failed.
    fn keep<R: Row>(&mut self, row: &R) {
        if self.failed.is_some() {
            return;
        }
        let Some(index) = self.tables.iter().position(|open| open.table == R::TABLE) else {
            return;
        };
        let cells = &mut self.tables[index].cells;
        row.put(&self.manifest.run, cells);
        if cells.rows() >= self.row_group {
            self.failed = self.flush(index).err();
        }
    }

    /// Writes a table's waiting rows as a row group.
    fn flush(&mut self, index: usize) -> Result<(), TraceError> {
        let open = &mut self.tables[index];
        if open.cells.rows() == 0 {
            return Ok(());
        }
        if open.part.is_none() {
            open.part = Some(OpenPart::create(&self.folder, open.table, open.parts)?);
        }
        let part = open.part.as_mut().expect("opened just above");
        part.write(&open.cells.take())
    }
}

/// Removes the manifest and then the tables and unfinished parts of a trace, and nothing else.
fn remove_trace(folder: &Path) -> Result<(), TraceError> {
    let remove = |path: &Path| match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(TraceError::disk("remove", path)(e)),
        _ => Ok(()),
    };
    remove(&folder.join(MANIFEST_FILE))?;
    for entry in fs::read_dir(folder).map_err(TraceError::disk("list folder", folder))? {
        let entry = entry.map_err(TraceError::disk("list folder", folder))?;
        if is_ours(&entry.path()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// A manifest or a table by its name, or what was left of one unfinished.
fn is_ours(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
        let whole = name.strip_suffix(".part").unwrap_or(name);
        let stem = whole.strip_suffix(".parquet").unwrap_or("");
        let table = match stem.split_once('.') {
            Some((table, part)) if part.parse::<usize>().is_ok() => table,
            _ => stem,
        };
        whole == MANIFEST_FILE || Table::ALL.iter().any(|known| known.name() == table)
    })
}

impl Sink for TraceWriter {
    fn wants(&self) -> Wants {
        let full = self.level == Tables::Full;
        Wants { passes: full, verifications: full, rounds: full, decisions: full, texts: full, tokens: full }
    }

    fn request(&mut self, record: &RequestRecord) {
        let classes = self.manifest.run.classes.len();
        if record.class.index() >= classes && self.failed.is_none() {
            self.failed = Some(TraceError::Class { request: record.id.0, class: record.class.0, classes });
        }
        self.keep(record);
    }

    fn pass(&mut self, record: &PassRecord) {
        self.keep(record);
    }

    fn verification(&mut self, record: &VerificationRecord) {
        self.keep(record);
    }

    fn round(&mut self, record: &RoundRecord) {
        self.keep(record);
    }

    fn decision(&mut self, record: &DecisionRecord) {
        self.keep(record);
    }

    fn text(&mut self, record: &TextRecord) {
        self.keep(record);
    }

    fn token(&mut self, record: &TokenRecord) {
        self.keep(record);
    }
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
