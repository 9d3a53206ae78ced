//! Ships trained models as Hugging Face folders.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::json;

use crate::blocks::with;
use crate::checkpoint;
use crate::corpus::{self, Data, END_OF_TEXT};
use crate::error::{Result, TrainError, write};
use crate::model::{MicroBatch, Model};
use crate::plain::{self, Matrices};
use crate::recipe::ModelRecipe;
use crate::training::Session;

/// Positions of the window whose logits are written for checks.
const CHECKED: usize = 64;

/// Largest difference of logits, of order 10, that rounding explains.
const TOLERANCE: f32 = 1e-4;

impl Session {
    /// Writes a folder beside the recipe for each model that has a checkpoint, and for each one
    /// `NAME.check.safetensors` in the work folder: `tokens` `[64]` of held-out text and this trainer's
    /// `logits` `[64, vocabulary]` in f32 for the rounded weights. A table of what was written.
    ///
    /// # Errors
    /// Those of the files and of the device; [`TrainError::Work`] when nothing has been trained.
    pub fn export(&self, folder: &Path) -> Result<String> {
        let data = Data::read(&self.recipe, &self.work)?;
        let tokenizer = corpus::tokenizer(&self.work)?.to_string(true)?;
        let mut table = String::new();
        for recipe in &self.recipe.models {
            let vocabulary = self.recipe.vocabulary;
            let found = checkpoint::load(&self.work, recipe, vocabulary, self.recipe.adam, &self.device)?;
            let Some(found) = found else {
                table += &format!("{}: no checkpoint, left out\n", recipe.name);
                continue;
            };
            let model = found.model.rounded()?;
            let place = folder.join(&recipe.name);
            std::fs::create_dir_all(&place)
                .map_err(|source| TrainError::File { path: place.clone(), source })?;
            let bytes = weights(&model, &place.join("model.safetensors"))?;
            for (name, value) in [
                ("config.json", config(recipe, vocabulary)),
                ("generation_config.json", json!({ "bos_token_id": 0, "eos_token_id": 0 })),
                ("tokenizer_config.json", tokenizer_config(recipe)),
            ] {
                let text =
                    serde_json::to_string_pretty(&value).expect("values of strings and numbers") + "\n";
                write(&place.join(name), text.as_bytes())?;
            }
            write(&place.join("tokenizer.json"), tokenizer.as_bytes())?;
            self.check_file(&model, &data, recipe, &place.join("model.safetensors"))?;
            let (step, steps) = (found.step, self.recipe.steps(recipe));
            table += &format!("{}: step {step} of {steps}, {bytes} bytes of weights\n", place.display());
        }
        if !table.contains(" bytes of weights") {
            let problem = "holds no checkpoint; run `train` first".into();
            return Err(TrainError::Work { path: self.work.clone(), problem });
        }
        Ok(table)
    }

    /// Reads the written weights back, holds the plain forward on them to this trainer's, and keeps
    /// the logits.
    fn check_file(&self, model: &Model, data: &Data, recipe: &ModelRecipe, weights: &Path) -> Result<()> {
        let mut window = data.held_out(0, 1);
        window[0].truncate(CHECKED + 1);
        let batch = MicroBatch(&window);
        let logits = model.logits(&batch)?.to_device(&Device::Cpu)?;
        let tokens = &window[0][..window[0].len() - 1];
        let tokens = Tensor::from_slice(tokens, (1, tokens.len()), &Device::Cpu)?;
        let found = candle_core::safetensors::load(weights, &Device::Cpu)?;
        let matrices = Matrices::find(&recipe.shape, |name| {
            let tensor =
                found.get(name).ok_or_else(|| candle_core::Error::Msg(format!("{name}: not written")))?;
            tensor.to_dtype(DType::F32)
        })?;
        let again = plain::logits(&recipe.shape, &matrices, &tokens)?.flatten_to(1)?;
        let difference = (again - &logits)?.abs()?;
        // Every one is asked, so that a NaN fails.
        if !with(&difference, |all| all.iter().all(|&d| d < TOLERANCE))? {
            let largest = difference.max_all()?.to_scalar::<f32>()?;
            let problem = format!("{}: logits of the written weights differ by {largest:.2e}", recipe.name);
            return Err(TrainError::Check(problem));
        }
        let tensors = BTreeMap::from([("logits", logits), ("tokens", tokens.flatten_all()?)]);
        save(&tensors, &self.work.join(format!("{}.check.safetensors", recipe.name)))
    }
}

/// Writes the weights in bfloat16 under their Hugging Face names; their bytes.
fn weights(model: &Model, path: &Path) -> Result<usize> {
    let mut tensors = BTreeMap::new();
    let mut bytes = 0;
    for (name, tensor) in model.matrices()?.named() {
        bytes += 2 * tensor.elem_count();
        tensors.insert(name, tensor.to_dtype(DType::BF16)?.contiguous()?);
    }
    save(&tensors, path)?;
    Ok(bytes)
}

fn save<K: AsRef<str> + Ord + std::fmt::Display>(tensors: &BTreeMap<K, Tensor>, path: &Path) -> Result<()> {
    // transformers refuses files whose header does not name a framework.
    let about = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(tensors, Some(about));
    write(path, &bytes.map_err(|source| TrainError::Weights { path: path.to_owned(), source })?)
}

/// config.json in the dialect of transformers 5.
fn config(recipe: &ModelRecipe, vocabulary: usize) -> serde_json::Value {
    let shape = &recipe.shape;
    json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dtype": "bfloat16",
        "eos_token_id": 0,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.context,
        "mlp_bias": false,
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_parameters": { "rope_theta": shape.rope_theta, "rope_type": "default" },
        "tie_word_embeddings": true,
        "use_cache": true,
        "vocab_size": vocabulary,
    })
}

fn tokenizer_config(recipe: &ModelRecipe) -> serde_json::Value {
    json!({
        "bos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": false,
        "eos_token": END_OF_TEXT,
        "model_max_length": recipe.shape.context,
        "tokenizer_class": "PreTrainedTokenizerFast",
    })
}
