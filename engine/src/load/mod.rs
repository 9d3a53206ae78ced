//! Reads model folders, and makes weights where there are none.
//!
//! A folder is anybody's: every size is checked against its limit before memory is asked for, shard
//! names cannot leave the folder, and nothing is mapped into memory, since a file that is cut short
//! while it is mapped kills the process. Tensors are read from their files one by one, so the peak
//! is the weights and nothing beside them.

mod checkpoint;
mod dummy;
mod folder;
mod header;
mod index;
mod nested;

use crate::config::ConfigError;

pub use checkpoint::Checkpoint;
pub use dummy::Dummy;
pub use folder::open_folder_file;
pub use header::{Dtype, Header, Place, read_header};
pub use index::{WeightMap, read_index};
pub use nested::{Nested, nested, tiny_config};

/// Most bytes of a `config.json` or `generation_config.json`.
pub const MOST_CONFIG_BYTES: u64 = crate::config::MOST_BYTES as u64;
/// Most bytes of a `model.safetensors.index.json`.
pub const MOST_INDEX_BYTES: u64 = 16 << 20;
/// Most bytes of the header of a safetensors file; 100 000 tensors fit with room to spare.
pub const MOST_HEADER_BYTES: u64 = 16 << 20;
/// Most tensors of a file, and of an index.
pub const MOST_TENSORS: usize = 100_000;
/// Most shards; each holds a file open.
pub const MOST_SHARDS: usize = 256;
/// Most bytes of all weights of a model, 4 TiB: more than any decoder that is read here has.
pub const MOST_WEIGHT_BYTES: u64 = 4 << 40;

/// Why a model's files are refused, or its weights could not be had.
///
/// `file` is the model's name and the file's, as in `tiny/model.safetensors`; the names of the machine's own
/// folders are left out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file system says no: the user's doing, or the disk's.
    #[error("{file}: cannot be read: {source}")]
    Read {
        /// The file.
        file: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// A path that leads out of the model's folder, or to something that is no file.
    #[error("{file}: must be {expected}, got {got}")]
    Path {
        /// The file.
        file: String,
        /// What it must be.
        expected: &'static str,
        /// What came.
        got: String,
    },
    /// A file over its limit.
    #[error("{file}: must be at most {most} {unit}, got {got}")]
    TooLarge {
        /// The file.
        file: String,
        /// What is counted.
        unit: &'static str,
        /// The limit.
        most: u64,
        /// What came.
        got: u64,
    },
    /// A `config.json` that is refused; it names the model and the field.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// JSON that does not say what it must.
    #[error("{file}: {place} must be {expected}, got {got}")]
    Field {
        /// The file.
        file: String,
        /// The field.
        place: String,
        /// What it must be.
        expected: &'static str,
        /// What came, cut to a line.
        got: String,
    },
    /// Not the JSON that it must be.
    #[error("{file}: expected {expected}, got something else: {source}")]
    Json {
        /// The file.
        file: String,
        /// What it must be.
        expected: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A file that is shorter or longer than its header says.
    #[error(
        "{file}: must be {expected} bytes by its header, got {got}: it is cut short, or not a safetensors file"
    )]
    Length {
        /// The file.
        file: String,
        /// Bytes by the header; at least, where the header itself is cut.
        expected: u64,
        /// Bytes of the file.
        got: u64,
    },
    /// The index and the shards disagree, or a tensor stands twice.
    #[error("{file}: tensor {tensor} must be in {expected}, got {got}")]
    Placed {
        /// The file that says so.
        file: String,
        /// The tensor.
        tensor: String,
        /// Where it must be.
        expected: String,
        /// Where it is.
        got: String,
    },
    /// A tensor that the decoder needs is not there.
    #[error("{file}: tensor {tensor} of shape {expected:?} expected, got no tensor of that name")]
    Missing {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its shape.
        expected: Vec<usize>,
    },
    /// A tensor of another shape.
    #[error("{file}: tensor {tensor} must be of shape {expected:?}, got {got:?}")]
    Shape {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its shape by `config.json`.
        expected: Vec<usize>,
        /// Its shape in the file.
        got: Vec<usize>,
    },
    /// A tensor of numbers that are not read.
    #[error("{file}: tensor {tensor} must be F32, F16 or BF16, got {got}")]
    Dtype {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its type.
        got: String,
    },
    /// A weight that is no number.
    #[error("{file}: tensor {tensor} must be finite, got {got} at index {index}")]
    NotFinite {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Position in it, row-major.
        index: usize,
        /// NaN or an infinity.
        got: f32,
    },
    /// Tensors that the decoder has no use for: the folder holds another model than its config says.
    #[error("{file}: expected only tensors that the decoder uses, got {count} more, first {tensor}")]
    Unused {
        /// The file of the first.
        file: String,
        /// The first by name.
        tensor: String,
        /// How many.
        count: usize,
    },
    /// No memory for a tensor.
    #[error("{file}: tensor {tensor} needs {bytes} bytes of memory, got none")]
    Memory {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Bytes asked for.
        bytes: u64,
    },
}

/// A value for a message: one line, at most 60 characters of it.
pub(crate) fn short(got: &str) -> String {
    let mut line = String::new();
    for c in got.chars().take(60) {
        match c {
            '"' | '\'' | '\\' => line.push(c),
            _ => line.extend(c.escape_debug()), // Line breaks and what a terminal would obey.
        }
    }
    if got.chars().nth(60).is_some() { line + "..." } else { line }
}
