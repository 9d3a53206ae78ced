//! A Hugging Face folder as a source of weights.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use half::{bf16, f16};
use serde_json::Value;

use super::folder::Folder;
use super::header::{Dtype, Place, read_header};
use super::index::{WeightMap, read_index};
use super::{LoadError, MOST_CONFIG_BYTES, MOST_INDEX_BYTES, MOST_WEIGHT_BYTES, short};
use crate::config::{DecoderConfig, decoder_config};
use crate::weights::{Values, WeightSource};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Bytes read from a file at a time; a multiple of every width.
const CHUNK: usize = 1 << 20;

/// A model's folder, opened: its configuration is read, its files are held open, and every tensor's place is
/// known and checked. Tensors themselves are read when they are asked for.
#[derive(Debug)]
pub struct Checkpoint {
    config: DecoderConfig,
    stop_tokens: Vec<u32>,
    shards: Vec<Shard>,
    /// Shard index and place by name.
    tensors: BTreeMap<String, (usize, Place)>,
    taken: BTreeSet<String>,
    check_finite: bool,
    /// For messages about a tensor that no shard has.
    weights_label: String,
}

#[derive(Debug)]
struct Shard {
    label: String,
    file: File,
    length: u64,
}

impl Checkpoint {
    /// Opens the model folder `dir` under the name `name`.
    ///
    /// Reads `config.json`, `generation_config.json` where there is one, and the headers of `model.safetensors`,
    /// or, where there is none, of every shard that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// [`LoadError`], naming the file, what was expected and what came.
    pub fn open(dir: &Path, name: &str) -> Result<Self, LoadError> {
        let folder = Folder::open(dir, name)?;
        let config_json = folder.text("config.json", MOST_CONFIG_BYTES)?;
        let config = decoder_config(name, &config_json)?;
        let stop_tokens = stop_tokens(&folder, &config, &config_json)?;

        // As transformers does: one file if it is there, else the index.
        let (map, weights_label) = if folder.has(SINGLE) || !folder.has(INDEX) {
            (None, folder.label(SINGLE))
        } else {
            let label = folder.label(INDEX);
            (Some(read_index(&label, &folder.bytes(INDEX, MOST_INDEX_BYTES)?)?), label)
        };
        let files = match &map {
            None => vec![SINGLE],
            Some(map) => map.shards().into_iter().collect(),
        };
        let mut checkpoint = Self {
            config,
            stop_tokens,
            shards: Vec::new(),
            tensors: BTreeMap::new(),
            taken: BTreeSet::new(),
            check_finite: true,
            weights_label,
        };
        for file in files {
            checkpoint.add_shard(&folder, file, map.as_ref())?;
        }
        if let Some(map) = &map
            && let Some((tensor, shard)) =
                map.iter().find(|(name, _)| !checkpoint.tensors.contains_key(*name))
        {
            return Err(LoadError::Placed {
                file: checkpoint.weights_label,
                tensor: short(tensor),
                expected: shard.to_owned(),
                got: "no such tensor there".to_owned(),
            });
        }
        Ok(checkpoint)
    }

    /// Turns the check of every weight for NaN and infinities on (as it is at first) or off.
    #[must_use]
    pub fn check_finite(mut self, on: bool) -> Self {
        self.check_finite = on;
        self
    }

    /// What `config.json` says.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Token ids that end a text, ascending: `eos_token_id` of `generation_config.json`, or of `config.json`
    /// where the former has none. Empty when neither has.
    pub fn stop_tokens(&self) -> &[u32] {
        &self.stop_tokens
    }

    /// Bytes of all weight files, headers included.
    pub fn file_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.length).sum() // At most MOST_WEIGHT_BYTES.
    }

    /// Says whether every tensor was asked for. Call it when the decoder has taken what it needs: with the shapes
    /// exact and nothing left over, the bytes of the files are the bytes that the configuration expects.
    ///
    /// `*.rotary_emb.inv_freq` (computed from the configuration) and a tied `lm_head.weight` (the embedding
    /// again) may be left.
    ///
    /// # Errors
    /// [`LoadError::Unused`], naming the first that was not.
    pub fn check_all_taken(&self) -> Result<(), LoadError> {
        let mut left =
            self.tensors.iter().filter(|(name, _)| !self.taken.contains(*name) && !self.is_extra(name));
        match left.next() {
            None => Ok(()),
            Some((name, (shard, _))) => Err(LoadError::Unused {
                file: self.shards[*shard].label.clone(),
                tensor: short(name),
                count: 1 + left.count(),
            }),
        }
    }

    fn is_extra(&self, name: &str) -> bool {
        name.ends_with(".rotary_emb.inv_freq")
            || (name == "lm_head.weight" && self.config.spec.tied_embeddings)
    }

    fn add_shard(&mut self, folder: &Folder, name: &str, map: Option<&WeightMap>) -> Result<(), LoadError> {
        let (file, length) = folder.file(name, MOST_WEIGHT_BYTES - self.file_bytes())?;
        let label = folder.label(name);
        let header = read_header(&label, length, &file)?;
        let shard = self.shards.len();
        for (tensor, place) in header.tensors {
            if let Some((other, _)) = self.tensors.get(&tensor) {
                return Err(LoadError::Placed {
                    file: label,
                    tensor: short(&tensor),
                    expected: "one shard".to_owned(),
                    got: format!("{} as well", self.shards[*other].label),
                });
            }
            if let Some(map) = map
                && map.shard(&tensor) != Some(name)
            {
                let (expected, got) = match map.shard(&tensor) {
                    Some(shard) => (short(shard), short(name)),
                    None => (format!("{INDEX}, which names every tensor"), format!("{} alone", short(name))),
                };
                return Err(LoadError::Placed { file: label, tensor: short(&tensor), expected, got });
            }
            if matches!(place.dtype, Dtype::Other(_)) && !self.is_extra(&tensor) {
                let got = place.dtype.name();
                return Err(LoadError::Dtype { file: label, tensor: short(&tensor), got });
            }
            self.tensors.insert(tensor, (shard, place));
        }
        self.shards.push(Shard { label, file, length });
        Ok(())
    }
}

impl WeightSource for Checkpoint {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Values, LoadError> {
        let Some((shard, place)) = self.tensors.get(name) else {
            return Err(LoadError::Missing {
                file: self.weights_label.clone(),
                tensor: name.to_owned(),
                expected: shape.to_vec(),
            });
        };
        let Shard { label, file, .. } = &mut self.shards[*shard];
        if place.shape != shape {
            return Err(LoadError::Shape {
                file: label.clone(),
                tensor: name.to_owned(),
                expected: shape.to_vec(),
                got: place.shape.clone(),
            });
        }
        let reading = Reading { label, tensor: name, file, place, check_finite: self.check_finite };
        let values = match place.dtype {
            Dtype::F32 => Values::F32(reading.read(f32::from_le_bytes, |x| x)?),
            Dtype::F16 => Values::F32(reading.read(|b| f16::from_le_bytes(b).to_f32(), |x| x)?),
            Dtype::Bf16 => Values::Bf16(reading.read(bf16::from_le_bytes, bf16::to_f32)?),
            Dtype::Other(_) => {
                let (file, got) = (label.clone(), place.dtype.name());
                return Err(LoadError::Dtype { file, tensor: name.to_owned(), got });
            }
        };
        self.taken.insert(name.to_owned());
        Ok(values)
    }
}

/// One tensor on its way from its file.
struct Reading<'a> {
    label: &'a str,
    tensor: &'a str,
    file: &'a mut File,
    place: &'a Place,
    check_finite: bool,
}

impl Reading<'_> {
    /// Reads numbers of `WIDTH` bytes with `decode`; `value` gives one as f32.
    fn read<T: Copy, const WIDTH: usize>(
        self,
        decode: impl Fn([u8; WIDTH]) -> T,
        value: impl Fn(T) -> f32,
    ) -> Result<Vec<T>, LoadError> {
        let bytes = self.place.bytes.end - self.place.bytes.start;
        let io = |source| LoadError::Read { file: format!("{}: tensor {}", self.label, self.tensor), source };
        let memory =
            || LoadError::Memory { file: self.label.to_owned(), tensor: self.tensor.to_owned(), bytes };
        let bytes = usize::try_from(bytes).map_err(|_| memory())?;

        let mut numbers = Vec::new();
        numbers.try_reserve_exact(bytes / WIDTH).map_err(|_| memory())?;
        self.file.seek(SeekFrom::Start(self.place.bytes.start)).map_err(io)?;
        let mut chunk = vec![0; CHUNK.min(bytes)];
        let mut left = bytes;
        while left > 0 {
            let part = &mut chunk[..CHUNK.min(left)];
            self.file.read_exact(part).map_err(io)?;
            let (words, _) = part.as_chunks::<WIDTH>(); // No rest: header lengths are whole numbers of WIDTH.
            let before = numbers.len();
            numbers.extend(words.iter().map(|&word| decode(word)));
            if self.check_finite
                && let Some(at) = numbers[before..].iter().position(|&x| !value(x).is_finite())
            {
                return Err(LoadError::NotFinite {
                    file: self.label.to_owned(),
                    tensor: self.tensor.to_owned(),
                    index: before + at,
                    got: value(numbers[before + at]),
                });
            }
            left -= part.len();
        }
        Ok(numbers)
    }
}

/// `eos_token_id`: nothing, an id, or a list of ids.
fn stop_tokens(folder: &Folder, config: &DecoderConfig, config_json: &str) -> Result<Vec<u32>, LoadError> {
    const GENERATION: &str = "generation_config.json";
    let read = |file: &str, text: &str| -> Result<Option<Vec<u32>>, LoadError> {
        let json: Value = serde_json::from_str(text).map_err(|source| LoadError::Json {
            file: folder.label(file),
            expected: "an object",
            source,
        })?;
        let value = match json.get("eos_token_id") {
            None | Some(Value::Null) => return Ok(None),
            Some(value) => value,
        };
        let id = |value: &Value| {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            id.filter(|&id| id < config.spec.vocab)
        };
        let ids: Option<Vec<u32>> = match value {
            Value::Array(ids) => ids.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        };
        ids.map(Some).ok_or_else(|| LoadError::Field {
            file: folder.label(file),
            place: "eos_token_id".to_owned(),
            expected: "an id below vocab_size, or a list of them",
            got: short(&value.to_string()),
        })
    };
    let from_config = read("config.json", config_json)?;
    let from_generation = if folder.has(GENERATION) {
        read(GENERATION, &folder.text(GENERATION, MOST_CONFIG_BYTES)?)?
    } else {
        None
    };
    let mut ids = from_generation.or(from_config).unwrap_or_default();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
