//! A model folder as Hugging Face lays it out: its `config.json` says what a pass costs.

use std::path::Path;

use serde::Deserialize;
use specrouter_routing::profile::{ModelKind, ModelSpec, Precision};

use super::ScenarioError;

/// The fields of `config.json` that count; a file has many more.
#[derive(Deserialize)]
struct Config {
    num_hidden_layers: u32,
    hidden_size: u32,
    num_attention_heads: u32,
    num_key_value_heads: Option<u32>,
    head_dim: Option<u32>,
    intermediate_size: u32,
    vocab_size: u32,
    #[serde(default)]
    tie_word_embeddings: bool,
    max_position_embeddings: u32,
    #[serde(alias = "dtype")]
    torch_dtype: Option<String>,
}

/// Reads the folder's `config.json`. The model is named after the folder.
///
/// # Errors
/// A file that cannot be read, is no such JSON, or describes no decoder.
pub(super) fn read(folder: &Path) -> Result<ModelSpec, ScenarioError> {
    let path = folder.join("config.json");
    let refuse = |reason: String| ScenarioError::File { path: path.clone(), reason };
    let bytes = std::fs::read(&path).map_err(|e| refuse(e.to_string()))?;
    let config: Config = serde_json::from_slice(&bytes).map_err(|e| refuse(e.to_string()))?;
    let heads = config.num_attention_heads;
    let precision = match config.torch_dtype.as_deref() {
        None | Some("bfloat16" | "float16") => Precision::Bf16,
        Some("float32") => Precision::F32,
        Some(other) => {
            return Err(refuse(format!("torch_dtype: expected bfloat16, float16 or float32, got {other}")));
        }
    };
    let head_dim = match config.head_dim {
        Some(head_dim) => head_dim,
        None => config
            .hidden_size
            .checked_div(heads)
            .ok_or_else(|| refuse("num_attention_heads must be at least 1, got 0".into()))?,
    };
    let name = folder
        .file_name()
        .map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned());
    let spec = ModelSpec {
        name,
        source: "config.json".into(),
        kind: ModelKind::Model,
        family: format!("{VOCABULARY}{}", config.vocab_size),
        layers: config.num_hidden_layers,
        hidden: config.hidden_size,
        heads,
        kv_heads: config.num_key_value_heads.unwrap_or(heads),
        head_dim,
        intermediate: config.intermediate_size,
        vocab: config.vocab_size,
        tied_embeddings: config.tie_word_embeddings,
        context: config.max_position_embeddings,
        precision,
        kv_bytes: precision.bytes().max(2),
    };
    spec.check().map_err(|e| refuse(e.to_string()))?;
    Ok(spec)
}

/// How the family of a folder begins: its vocabulary is known by its size only.
const VOCABULARY: &str = "vocabulary of ";

/// Can one verify the other? By family, or by the vocabulary's size where a folder tells no more.
pub(super) fn same_vocabulary(a: &ModelSpec, b: &ModelSpec) -> bool {
    let by_size = a.family.starts_with(VOCABULARY) || b.family.starts_with(VOCABULARY);
    if by_size { a.vocab == b.vocab } else { a.family == b.family }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_like_the_catalog() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("llama-3.2-1b-copy");
        std::fs::create_dir(&path).unwrap();
        let config = r#"{"model_type": "llama", "num_hidden_layers": 16, "hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 8,
            "head_dim": 64, "intermediate_size": 8192, "vocab_size": 128256, "tie_word_embeddings": true, "max_position_embeddings": 131072, "torch_dtype": "bfloat16"}"#;
        std::fs::write(path.join("config.json"), config).unwrap();
        let read = read(&path).unwrap();
        let catalog = crate::catalog::model("llama-3.2-1b").unwrap();
        assert_eq!(
            (read.resident_bytes(), read.kv_bytes_per_token(), read.context),
            (catalog.resident_bytes(), catalog.kv_bytes_per_token(), catalog.context)
        );
        assert!(same_vocabulary(&read, &catalog));
        assert!(!same_vocabulary(&read, &ModelSpec { vocab: 32_000, ..catalog }));
    }

    #[test]
    fn a_folder_without_a_decoder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = |config: &str| {
            std::fs::write(folder.path().join("config.json"), config).unwrap();
            let error = read(folder.path()).unwrap_err().to_string();
            error.replace(&folder.path().display().to_string(), "FOLDER")
        };
        insta::assert_snapshot!(error("{"), @"FOLDER/config.json: EOF while parsing an object at line 1 column 1");
        insta::assert_snapshot!(error("{}"), @"FOLDER/config.json: missing field `num_hidden_layers` at line 1 column 2");
    }
}
