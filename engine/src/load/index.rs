//! Reads `model.safetensors.index.json`: which shard holds which tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::folder::is_plain_name;
use super::{LoadError, MOST_INDEX_BYTES, MOST_SHARDS, MOST_TENSORS, short};

/// Shard file names by tensor name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightMap(BTreeMap<String, String>);

impl WeightMap {
    /// The shards, each once, in the order of their names.
    pub fn shards(&self) -> BTreeSet<&str> {
        self.0.values().map(String::as_str).collect()
    }

    /// The shard that holds `tensor`.
    pub fn shard(&self, tensor: &str) -> Option<&str> {
        self.0.get(tensor).map(String::as_str)
    }

    /// All tensors and their shards, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(tensor, shard)| (tensor.as_str(), shard.as_str()))
    }
}

/// Reads the index `bytes`; `file` names it in messages.
///
/// Every shard is one ordinary file name ending in `.safetensors`; there are at most [`MOST_SHARDS`] of them, and
/// at most [`MOST_TENSORS`] tensors, each named once.
///
/// # Errors
/// [`LoadError`], naming what was expected and what came.
pub fn read_index(file: &str, bytes: &[u8]) -> Result<WeightMap, LoadError> {
    let too_large = |unit, most, got| LoadError::TooLarge { file: file.to_owned(), unit, most, got };
    if bytes.len() as u64 > MOST_INDEX_BYTES {
        return Err(too_large("bytes", MOST_INDEX_BYTES, bytes.len() as u64));
    }
    let index: Index = serde_json::from_slice(bytes).map_err(|source| LoadError::Json {
        file: file.to_owned(),
        expected: "an object with weight_map, shard names by tensor names",
        source,
    })?;
    let map = index.weight_map.0;
    if map.len() > MOST_TENSORS {
        return Err(too_large("tensors", MOST_TENSORS as u64, map.len() as u64));
    }
    let is_shard = |name: &str| {
        is_plain_name(name) && name.strip_suffix(".safetensors").is_some_and(|stem| !stem.is_empty())
    };
    if let Some((tensor, shard)) = map.iter().find(|(_, shard)| !is_shard(shard)) {
        return Err(LoadError::Field {
            file: file.to_owned(),
            place: format!("weight_map.{}", short(tensor)),
            expected: "a file name without a folder, ending in .safetensors",
            got: short(shard),
        });
    }
    let map = WeightMap(map);
    let shards = map.shards().len();
    if shards == 0 {
        return Err(LoadError::Field {
            file: file.to_owned(),
            place: "weight_map".to_owned(),
            expected: "a shard name for each of at least one tensor",
            got: "{}".to_owned(),
        });
    }
    if shards > MOST_SHARDS {
        return Err(too_large("shards", MOST_SHARDS as u64, shards as u64));
    }
    Ok(map)
}

/// The file. What else it holds (`metadata.total_size`, often wrong in the wild) is not read.
#[derive(Deserialize)]
struct Index {
    weight_map: Unique,
}

/// A map of strings in which no key comes twice.
struct Unique(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Unique;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Unique, A::Error> {
                let mut map = BTreeMap::new();
                while let Some(key) = entries.next_key::<String>()? {
                    if map.contains_key(&key) {
                        entries.next_value::<IgnoredAny>()?;
                        return Err(A::Error::custom(format!("tensor {} named twice", short(&key))));
                    }
                    map.insert(key, entries.next_value()?);
                }
                Ok(Unique(map))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
