//! Files of a model's folder: none outside it is opened, none is read past its limit.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use super::{LoadError, short};

/// A model's folder.
#[derive(Debug)]
pub(crate) struct Folder {
    /// The model's name, for messages.
    name: String,
    /// Without symbolic links.
    dir: PathBuf,
    /// Where a link may lead besides: the blobs of the same repository in a Hugging Face cache.
    blobs: Option<PathBuf>,
}

impl Folder {
    /// The folder `dir` of the model called `name`.
    pub(crate) fn open(dir: &Path, name: &str) -> Result<Self, LoadError> {
        let read = |source| LoadError::Read { file: name.to_owned(), source };
        let dir = dir.canonicalize().map_err(read)?;
        if !dir.is_dir() {
            return Err(LoadError::Path {
                file: name.to_owned(),
                expected: "a folder",
                got: "something else".to_owned(),
            });
        }
        // models--owner--name/snapshots/revision/file -> ../../blobs/hash
        let blobs = dir
            .parent()
            .filter(|snapshots| snapshots.file_name().is_some_and(|name| name == "snapshots"))
            .and_then(Path::parent)
            .map(|repository| repository.join("blobs"));
        Ok(Self { name: name.to_owned(), dir, blobs })
    }

    /// How messages name the file `file`.
    pub(crate) fn label(&self, file: &str) -> String {
        format!("{}/{}", self.name, short(file))
    }

    /// True when the folder has an entry `file`, be it a link that leads nowhere.
    pub(crate) fn has(&self, file: &str) -> bool {
        self.dir.join(file).symlink_metadata().is_ok()
    }

    /// Opens `file`, and its length in bytes, which is at most `most`.
    ///
    /// `file` must be one ordinary name, and what it leads to a regular file inside the folder, or in
    /// the blobs of the cache that the folder belongs to.
    pub(crate) fn file(&self, file: &str, most: u64) -> Result<(File, u64), LoadError> {
        if !is_plain_name(file) {
            return Err(LoadError::Path {
                file: self.label(file),
                expected: "a file name without a folder",
                got: short(file),
            });
        }
        let read = |source| LoadError::Read { file: self.label(file), source };
        let path = self.dir.join(file).canonicalize().map_err(read)?;
        let in_blobs = self.blobs.as_deref().is_some_and(|blobs| path.parent() == Some(blobs));
        if !path.starts_with(&self.dir) && !in_blobs {
            return Err(LoadError::Path {
                file: self.label(file),
                expected: "inside the model's folder (or the blobs of its Hugging Face cache)",
                got: "a link that leads out of it".to_owned(),
            });
        }
        // Asked before it is opened: to open a pipe waits for its writer.
        if !path.metadata().map_err(read)?.is_file() {
            return Err(LoadError::Path {
                file: self.label(file),
                expected: "a regular file",
                got: "a folder, pipe or device".to_owned(),
            });
        }
        let opened = File::open(&path).map_err(read)?;
        let length = opened.metadata().map_err(read)?.len();
        self.limit(file, "bytes", most, length)?;
        Ok((opened, length))
    }

    /// The bytes of `file`, at most `most` even if it grows meanwhile.
    pub(crate) fn bytes(&self, file: &str, most: u64) -> Result<Vec<u8>, LoadError> {
        let (opened, _) = self.file(file, most)?;
        let mut bytes = Vec::new();
        let read = |source| LoadError::Read { file: self.label(file), source };
        opened.take(most + 1).read_to_end(&mut bytes).map_err(read)?;
        self.limit(file, "bytes", most, bytes.len() as u64)?;
        Ok(bytes)
    }

    /// The text of `file`, at most `most` bytes of UTF-8.
    pub(crate) fn text(&self, file: &str, most: u64) -> Result<String, LoadError> {
        let bytes = self.bytes(file, most)?;
        String::from_utf8(bytes).map_err(|error| LoadError::Field {
            file: self.label(file),
            place: "the text".to_owned(),
            expected: "UTF-8",
            got: error.utf8_error().to_string(),
        })
    }

    fn limit(&self, file: &str, unit: &'static str, most: u64, got: u64) -> Result<(), LoadError> {
        if got > most {
            return Err(LoadError::TooLarge { file: self.label(file), unit, most, got });
        }
        Ok(())
    }
}

/// The bytes of `file` in the model folder `dir`, under the folder's rules; `name` is the model's.
///
/// # Errors
/// [`LoadError`] when the file is missing, over `most` bytes, or outside the folder.
pub fn open_folder_file(dir: &Path, name: &str, file: &str, most: u64) -> Result<Vec<u8>, LoadError> {
    Folder::open(dir, name)?.bytes(file, most)
}

/// True for one ordinary path component, whatever machine the name was made for.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let single =
        matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
    single && !name.contains(['/', '\\', ':', '\0'])
}
