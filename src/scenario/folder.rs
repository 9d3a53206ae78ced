//! A model folder as Hugging Face lays it out: its `config.json` says what a pass costs.

use std::io::Read;
use std::path::Path;

use specrouter_routing::profile::ModelSpec;

use super::ScenarioError;

/// Most bytes of a `config.json` that are read; the engine's reader refuses far fewer.
const MOST_BYTES: u64 = 16 << 20;

/// Reads the folder's `config.json` as the engine does: what it does not know it refuses by name. The
/// model is named after the folder.
///
/// # Errors
/// A file that cannot be read, or describes no decoder that the engine knows.
pub(super) fn read(folder: &Path) -> Result<ModelSpec, ScenarioError> {
    let path = folder.join("config.json");
    let refuse = |reason: String| ScenarioError::File { path: path.clone(), reason };
    let mut text = String::new();
    std::fs::File::open(&path)
        .and_then(|file| file.take(MOST_BYTES).read_to_string(&mut text))
        .map_err(|e| refuse(e.to_string()))?;
    let name = folder
        .file_name()
        .map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned());
    let spec = model_spec(&name, &text).map_err(refuse)?;
    let family = format!("{VOCABULARY}{}", spec.vocab);
    Ok(ModelSpec { family, ..spec })
}

#[cfg(feature = "engine")]
fn model_spec(name: &str, text: &str) -> Result<ModelSpec, String> {
    specrouter_engine::config::model_spec(name, text).map_err(|e| e.to_string())
}

#[cfg(not(feature = "engine"))]
fn model_spec(_: &str, _: &str) -> Result<ModelSpec, String> {
    Err("model folders are read by the engine, and this build has none (feature `engine`)".into())
}

/// How the family of a folder begins: its vocabulary is known by its size only.
const VOCABULARY: &str = "vocabulary of ";

/// Can one verify the other? By family, or by the vocabulary's size where a folder tells no more.
pub(super) fn same_vocabulary(a: &ModelSpec, b: &ModelSpec) -> bool {
    let by_size = a.family.starts_with(VOCABULARY) || b.family.starts_with(VOCABULARY);
    if by_size { a.vocab == b.vocab } else { a.family == b.family }
}

#[cfg(all(test, feature = "engine"))]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_like_the_catalog() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("llama-3.2-1b-copy");
        std::fs::create_dir(&path).unwrap();
        let config = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "num_hidden_layers": 16, "hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 8,
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
        let path = folder.path().join("tiny");
        std::fs::create_dir(&path).unwrap();
        let error = |config: &str| {
            std::fs::write(path.join("config.json"), config).unwrap();
            let error = read(&path).unwrap_err().to_string();
            error.replace(&folder.path().display().to_string(), "HERE")
        };
        insta::assert_snapshot!(error("{"), @"HERE/tiny/config.json: tiny: config.json is not JSON: EOF while parsing an object at line 1 column 1");
        insta::assert_snapshot!(error("{}"), @r#"HERE/tiny/config.json: tiny: config.json: architectures must be one of ["LlamaForCausalLM"], ["Qwen2ForCausalLM"], ["Qwen3ForCausalLM"], ["MistralForCausalLM"], got nothing"#);
        insta::assert_snapshot!(error(r#"{"architectures": ["MambaForCausalLM"], "model_type": "mamba"}"#), @r#"HERE/tiny/config.json: tiny: config.json: architectures must be one of ["LlamaForCausalLM"], ["Qwen2ForCausalLM"], ["Qwen3ForCausalLM"], ["MistralForCausalLM"], got ["MambaForCausalLM"]"#);
    }
}
