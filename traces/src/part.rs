//! One parquet file on its way: written beside, renamed when whole.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use polars::prelude::{BatchedWriter, DataFrame, DataType, Field, ParquetCompression, ParquetWriter, Schema};

use crate::error::TraceError;
use crate::manifest::Part;
use crate::schema::{Kind, Table};

/// FNV-1a over 64 bits, and the number of bytes it has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest {
    hash: u64,
    /// Bytes seen.
    pub(crate) bytes: u64,
}

impl Digest {
    /// Of nothing.
    pub(crate) const EMPTY: Self = Self { hash: 0xcbf2_9ce4_8422_2325, bytes: 0 };

    /// Goes on over `bytes`.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        self.hash = bytes.iter().fold(self.hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
        self.bytes += bytes.len() as u64;
    }

    /// As the manifest writes it.
    pub(crate) fn hex(self) -> String {
        format!("{:016x}", self.hash)
    }
}

/// FNV-1a, 64 bits, of files one after the other, in hexadecimal: says that they are the same, no more.
///
/// # Errors
/// [`TraceError::Disk`], naming the file.
pub fn file_digest(paths: &[PathBuf]) -> Result<String, TraceError> {
    let mut digest = Digest::EMPTY;
    let mut buffer = vec![0; 1 << 16];
    for path in paths {
        let mut file = File::open(path).map_err(TraceError::disk("open", path))?;
        loop {
            match file.read(&mut buffer).map_err(TraceError::disk("read", path))? {
                0 => break,
                got => digest.update(&buffer[..got]),
            }
        }
    }
    Ok(digest.hex())
}

/// A file that digests what goes into it. The digest is shared because polars keeps the writer.
struct Digesting {
    file: File,
    digest: Arc<Mutex<Digest>>,
}

impl Write for Digesting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digest.lock().unwrap_or_else(PoisonError::into_inner).update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A part of a table that is being written, under a name ending in `.part`.
pub(crate) struct OpenPart {
    writer: BatchedWriter<BufWriter<Digesting>>,
    digest: Arc<Mutex<Digest>>,
    rows: u64,
    name: String,
    beside: PathBuf,
    path: PathBuf,
}

impl OpenPart {
    /// Opens the `index`-th part of `table` in `folder`.
    pub(crate) fn create(folder: &Path, table: Table, index: usize) -> Result<Self, TraceError> {
        let name = table.file_name(index);
        let (path, beside) = (folder.join(&name), folder.join(format!("{name}.part")));
        let file = File::create(&beside).map_err(TraceError::disk("create", &beside))?;
        let digest = Arc::new(Mutex::new(Digest::EMPTY));
        let target = BufWriter::with_capacity(1 << 16, Digesting { file, digest: Arc::clone(&digest) });
        // Serial: arms already run beside one another, and a run's bytes must not depend on cores.
        let writer = ParquetWriter::new(target)
            .with_compression(ParquetCompression::Zstd(None))
            .set_parallel(false)
            .batched(&polars_schema(table))
            .map_err(|source| TraceError::Write { path: beside.clone(), source })?;
        Ok(Self { writer, digest, rows: 0, name, beside, path })
    }

    /// Writes one row group.
    pub(crate) fn write(&mut self, rows: &DataFrame) -> Result<(), TraceError> {
        let wrote = self.writer.write_batch(rows);
        wrote.map_err(|source| TraceError::Write { path: self.beside.clone(), source })?;
        self.rows += rows.height() as u64;
        Ok(())
    }

    /// Writes the footer and gives the file its final name.
    pub(crate) fn finish(self) -> Result<Part, TraceError> {
        let Self { writer, digest, rows, name, beside, path } = self;
        // The footer's last act is a flush, so an error of the disk shows here and not in a drop.
        writer.finish().map_err(|source| TraceError::Write { path: beside.clone(), source })?;
        drop(writer);
        fs::rename(&beside, &path).map_err(TraceError::disk("rename to", &path))?;
        let digest = *digest.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Part { file: name, rows, bytes: digest.bytes, fnv1a: digest.hex() })
    }
}

/// The schema of a table in polars' words.
fn polars_schema(table: Table) -> Schema {
    table.columns().iter().map(|c| Field::new(c.name.into(), data_type(c.kind))).collect()
}

/// A type in polars' words.
pub(crate) fn data_type(kind: Kind) -> DataType {
    match kind {
        Kind::U32 => DataType::UInt32,
        Kind::U64 => DataType::UInt64,
        Kind::F32 => DataType::Float32,
        Kind::Bool => DataType::Boolean,
        Kind::Text => DataType::String,
        Kind::U32s => DataType::List(Box::new(DataType::UInt32)),
        Kind::F32s => DataType::List(Box::new(DataType::Float32)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_gives_the_known_answers_of_fnv() {
        // draft-eastlake-fnv, test vectors of FNV-1a 64.
        let of = |text: &str| {
            let mut digest = Digest::EMPTY;
            digest.update(text.as_bytes());
            digest.hex()
        };
        assert_eq!(of(""), "cbf29ce484222325");
        assert_eq!(of("a"), "af63dc4c8601ec8c");
        assert_eq!(of("foobar"), "85944171f73967e8");
    }
}
