//! What can go wrong while training, in the words of whoever runs it.

use std::path::{Path, PathBuf};

/// Errors of the trainer. Whose fault each is stands at the variant.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The command line: the user's.
    #[error("{0}\n\n{usage}", usage = crate::arguments::USAGE)]
    Usage(String),
    /// A file cannot be read or written: the machine's or the user's.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A JSON file does not say what it must: the user's.
    #[error("{path}: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Place and reason.
        source: serde_json::Error,
    },
    /// A value of the recipe is out of range: the user's.
    #[error("recipe: {what}: expected {expected}, got {got}")]
    Recipe {
        /// The field.
        what: String,
        /// Its range.
        expected: String,
        /// What stands there.
        got: String,
    },
    /// A file of the work folder is missing or belongs to another recipe: the user's.
    #[error("{path}: {problem}")]
    Work {
        /// The file.
        path: PathBuf,
        /// What is wrong and which command makes it right.
        problem: String,
    },
    /// The tokenizer library refused: data or bug.
    #[error("tokenizer: {0}")]
    Tokenizer(#[from] tokenizers::Error),
    /// A tensor operation failed: a bug, or a device that is not there.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A tensor file is broken: data.
    #[error("{path}: {source}")]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is broken.
        source: safetensors::SafeTensorError,
    },
    /// A check of `selftest` or a claim about the data does not hold: a bug.
    #[error("check failed: {0}")]
    Check(String),
}

/// The trainer's results.
pub type Result<T> = std::result::Result<T, TrainError>;

/// Reads a whole file.
///
/// # Errors
/// [`TrainError::File`] with the path.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| TrainError::File { path: path.to_owned(), source })
}

/// Writes a file beside its place and renames it there, so a reader never meets half of it.
///
/// # Errors
/// [`TrainError::File`] with the path.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let failed = |at: &Path| {
        let path = at.to_owned();
        move |source| TrainError::File { path, source }
    };
    std::fs::write(&part, bytes).map_err(failed(&part))?;
    std::fs::rename(&part, path).map_err(failed(path))
}
