//! Reads the header of a safetensors file: which tensor lies where.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;

use safetensors::tensor::Metadata;

use super::{LoadError, MOST_HEADER_BYTES, MOST_TENSORS, short};

/// Bytes before the header: its length.
const LENGTH_BYTES: u64 = 8;

/// Numbers of a tensor as they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE single.
    F32,
    /// IEEE half; widened when read.
    F16,
    /// bfloat16.
    Bf16,
    /// Any other; refused when a decoder asks for it.
    Other(safetensors::Dtype),
}

/// Where a tensor lies in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// How its numbers are stored.
    pub dtype: Dtype,
    /// Its shape, outermost first.
    pub shape: Vec<usize>,
    /// Its bytes, from the beginning of the file.
    pub bytes: Range<u64>,
}

/// The tensors of a file by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Place by name.
    pub tensors: BTreeMap<String, Place>,
}

/// Reads the header from `reader`, which is a safetensors file of `length` bytes; `file` names it in messages.
///
/// Lengths are checked before memory is asked for. Together the tensors cover the file to its last byte without
/// a gap or an overlap, and each has the bytes that its type and shape need.
///
/// # Errors
/// [`LoadError`], naming what was expected and what came.
pub fn read_header(file: &str, length: u64, mut reader: impl Read) -> Result<Header, LoadError> {
    let read = |source| LoadError::Read { file: file.to_owned(), source };
    let wrong_length = |expected| LoadError::Length { file: file.to_owned(), expected, got: length };
    if length < LENGTH_BYTES {
        return Err(wrong_length(LENGTH_BYTES));
    }
    let mut word = [0; LENGTH_BYTES as usize];
    reader.read_exact(&mut word).map_err(read)?;
    let header = u64::from_le_bytes(word);
    if header > MOST_HEADER_BYTES {
        let (unit, most) = ("bytes of header", MOST_HEADER_BYTES);
        return Err(LoadError::TooLarge { file: file.to_owned(), unit, most, got: header });
    }
    let start = LENGTH_BYTES + header; // No overflow: checked above.
    if start > length {
        return Err(wrong_length(start));
    }
    // Fits: at most MOST_HEADER_BYTES.
    let mut json = vec![0; header as usize];
    reader.read_exact(&mut json).map_err(read)?;
    let metadata: Metadata = serde_json::from_slice(&json).map_err(|source| LoadError::Json {
        file: file.to_owned(),
        expected: "a safetensors header",
        source,
    })?;
    let names = metadata.offset_keys();
    if names.len() > MOST_TENSORS {
        let (unit, most, got) = ("tensors", MOST_TENSORS as u64, names.len() as u64);
        return Err(LoadError::TooLarge { file: file.to_owned(), unit, most, got });
    }
    let end = start.checked_add(metadata.data_len() as u64);
    if end != Some(length) {
        return Err(wrong_length(end.unwrap_or(u64::MAX)));
    }
    let place = |name: String| {
        let info = metadata.info(&name)?;
        let (from, to) = info.data_offsets;
        let dtype = match info.dtype {
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::F16 => Dtype::F16,
            safetensors::Dtype::BF16 => Dtype::Bf16,
            other => Dtype::Other(other),
        };
        // No overflow: `to` is at most data_len, and `end` was representable.
        let bytes = start + from as u64..start + to as u64;
        Some((name, Place { dtype, shape: info.shape.clone(), bytes }))
    };
    Ok(Header { tensors: names.into_iter().filter_map(place).collect() })
}

impl Dtype {
    /// Its name, as safetensors writes it.
    pub(crate) fn name(self) -> String {
        match self {
            Self::F32 => "F32".to_owned(),
            Self::F16 => "F16".to_owned(),
            Self::Bf16 => "BF16".to_owned(),
            Self::Other(other) => short(&format!("{other}")),
        }
    }
}
