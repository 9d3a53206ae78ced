//! Weights, moments and the count of steps, written beside and renamed, so a run can be cut anywhere.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;

use crate::adam::Adam;
use crate::error::{Result, TrainError, read, write};
use crate::model::Model;
use crate::recipe::{AdamRecipe, ModelRecipe};

/// A model as a checkpoint left it.
pub struct Checkpoint {
    /// Its weights.
    pub model: Model,
    /// Its moments.
    pub adam: Adam,
    /// Updates so far.
    pub step: usize,
}

/// Where a model's checkpoint stands.
pub fn path(work: &Path, name: &str) -> PathBuf {
    work.join(format!("{name}.checkpoint.safetensors"))
}

/// Writes a checkpoint.
///
/// # Errors
/// [`TrainError::File`] or [`TrainError::Weights`] when it cannot be written.
pub fn save(work: &Path, recipe: &ModelRecipe, model: &Model, adam: &Adam, step: usize) -> Result<()> {
    let mut tensors = BTreeMap::new();
    let parts = [("weights", &model.values()?), ("means", &adam.means), ("squares", &adam.squares)];
    for (kind, values) in parts {
        for ((name, length), value) in Model::lengths(&recipe.shape, model.vocabulary).into_iter().zip(values)
        {
            tensors.insert(format!("{kind}.{name}"), Tensor::from_slice(value, length, &Device::Cpu)?);
        }
    }
    let about = HashMap::from([
        ("step".to_owned(), step.to_string()),
        ("shape".to_owned(), shape_text(recipe)),
        ("vocabulary".to_owned(), model.vocabulary.to_string()),
    ]);
    let path = path(work, &recipe.name);
    let bytes = safetensors::serialize(&tensors, Some(about));
    write(&path, &bytes.map_err(|source| TrainError::Weights { path: path.clone(), source })?)
}

/// Reads a checkpoint; `None` when there is none.
///
/// # Errors
/// [`TrainError::Weights`] when it is broken; [`TrainError::Work`] when it is another shape's.
pub fn load(
    work: &Path,
    recipe: &ModelRecipe,
    vocabulary: usize,
    adam: AdamRecipe,
    device: &Device,
) -> Result<Option<Checkpoint>> {
    let path = path(work, &recipe.name);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = read(&path)?;
    let broken = |source| TrainError::Weights { path: path.clone(), source };
    let other = |problem: String| TrainError::Work { path: path.clone(), problem };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
    let about = |field: &str| {
        let value = header.metadata().as_ref().and_then(|m| m.get(field)).cloned();
        value.ok_or_else(|| {
            other(format!("not one of this trainer's: expected {field} in its header, got none"))
        })
    };
    for (field, expected) in [("shape", shape_text(recipe)), ("vocabulary", vocabulary.to_string())] {
        let got = about(field)?;
        if got != expected {
            let advice = "remove the file to start anew";
            return Err(other(format!("{field}: the recipe has {expected}, the checkpoint {got}; {advice}")));
        }
    }
    let step = about("step")?.parse().map_err(|_| other("step: expected a count".into()))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(broken)?;
    let read = |kind: &str| -> Result<Vec<Vec<f32>>> {
        let mut values = Vec::new();
        for (name, length) in Model::lengths(&recipe.shape, vocabulary) {
            let tensor = tensors.tensor(&format!("{kind}.{name}")).map_err(broken)?;
            let words = tensor.data().chunks_exact(4);
            let value: Vec<f32> = words.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            if value.len() != length {
                return Err(other(format!("{kind}.{name}: expected {length} numbers, got {}", value.len())));
            }
            values.push(value);
        }
        Ok(values)
    };
    let model = Model::from_values(recipe.shape, vocabulary, read("weights")?, device)?;
    let mut moments = Adam::fresh(adam, &model);
    (moments.means, moments.squares) = (read("means")?, read("squares")?);
    Ok(Some(Checkpoint { model, adam: moments, step }))
}

/// Reads the weights of a trained model.
///
/// # Errors
/// Those of [`load`]; [`TrainError::Work`] when there is no checkpoint.
pub fn trained(
    work: &Path,
    recipe: &ModelRecipe,
    vocabulary: usize,
    adam: AdamRecipe,
    device: &Device,
) -> Result<Checkpoint> {
    let missing = || TrainError::Work {
        path: path(work, &recipe.name),
        problem: format!("missing; run `train {0}` or `distill {0}` first", recipe.name),
    };
    load(work, recipe, vocabulary, adam, device)?.ok_or_else(missing)
}

fn shape_text(recipe: &ModelRecipe) -> String {
    serde_json::to_string(&recipe.shape).expect("a shape is plain numbers")
}
