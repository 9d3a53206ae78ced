//! The recipe: data, sizes and schedules of the family, read from JSON.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Result, TrainError, read};
use crate::shape::Shape;

/// Everything that decides the shipped weights, besides the number of workers (which decides how
/// sums of gradients are split, and so their last bits).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Folder of `DOMAIN.train.txt` and `DOMAIN.valid.txt`; relative to the recipe's own folder.
    pub corpora: PathBuf,
    /// The domains, in the order of every table.
    pub domains: Vec<String>,
    /// Domains in the order in which sequences are drawn from them, over and over. A domain that
    /// stands here twice is drawn twice as often; left out, every domain is drawn alike.
    #[serde(default)]
    pub mix: Vec<String>,
    /// Tokens, the end-of-text token and the 256 bytes included.
    pub vocabulary: usize,
    /// Decides weights at the start and every batch.
    pub seed: u64,
    /// Positions of a training sequence.
    pub sequence: usize,
    /// Sequences of a step.
    pub batch: usize,
    /// Sequences of one forward and backward on one worker; divides `batch`.
    pub micro_batch: usize,
    /// How the products of a training step on the processor are made.
    #[serde(default)]
    pub products: Products,
    /// The optimizer.
    pub adam: AdamRecipe,
    /// Steps between held-out losses.
    pub held_out_every: usize,
    /// Held-out windows per domain, each of `sequence` positions.
    pub held_out_windows: usize,
    /// Minutes between checkpoints.
    pub checkpoint_minutes: f64,
    /// The models, cheapest first; the last one is every student's teacher.
    pub models: Vec<ModelRecipe>,
}

/// How products are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Products {
    /// In f32.
    #[default]
    F32,
    /// Of numbers rounded to bfloat16, with sums in f32; quick where the processor multiplies tiles.
    Bf16,
}

/// AdamW.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamRecipe {
    /// Decay of the mean.
    pub beta1: f32,
    /// Decay of the mean square.
    pub beta2: f32,
    /// Added to the root of the mean square.
    pub epsilon: f32,
    /// Pull of the matrices towards zero, per unit of learning rate.
    pub weight_decay: f32,
    /// Largest norm of a step's gradient; a larger one is scaled down.
    pub clip: f32,
}

/// One model and its schedule.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecipe {
    /// Folder of the shipped weights.
    pub name: String,
    /// Its sizes.
    pub shape: Shape,
    /// Tokens to train on.
    pub tokens: usize,
    /// Highest learning rate.
    pub peak_rate: f64,
    /// Learning rate at the end, as a share of the highest.
    pub final_share: f64,
    /// Steps until the highest learning rate.
    pub warm_up_steps: usize,
    /// Share of the teacher's distribution in a student's loss; the rest is the text itself.
    #[serde(default)]
    pub teacher_share: f64,
}

impl Recipe {
    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// [`TrainError::File`], [`TrainError::Json`] with line and column, [`TrainError::Recipe`] with the
    /// field.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = read(path)?;
        let mut recipe: Self = serde_json::from_slice(&bytes)
            .map_err(|source| TrainError::Json { path: path.to_owned(), source })?;
        if recipe.mix.is_empty() {
            recipe.mix = recipe.domains.clone();
        }
        recipe.corpora = path.parent().unwrap_or(Path::new("")).join(&recipe.corpora);
        recipe.check()?;
        Ok(recipe)
    }

    fn check(&self) -> Result<()> {
        let want = |holds: bool, what: &str, expected: &str, got: String| {
            if holds {
                Ok(())
            } else {
                Err(TrainError::Recipe { what: what.into(), expected: expected.into(), got })
            }
        };
        want(!self.domains.is_empty(), "domains", "at least one", "none".into())?;
        for name in &self.mix {
            want(self.domains.contains(name), "mix", "names from `domains`", format!("{name:?}"))?;
        }
        let vocabulary = self.vocabulary;
        want((257..=65_536).contains(&vocabulary), "vocabulary", "257..=65536", vocabulary.to_string())?;
        want((2..=65_536).contains(&self.sequence), "sequence", "2..=65536", self.sequence.to_string())?;
        want(self.batch > 0, "batch", "at least 1", "0".into())?;
        let divides = self.micro_batch > 0 && self.batch.is_multiple_of(self.micro_batch);
        want(divides, "micro_batch", "a divisor of `batch`", self.micro_batch.to_string())?;
        want(self.held_out_every > 0, "held_out_every", "at least 1", "0".into())?;
        want(self.held_out_windows > 0, "held_out_windows", "at least 1", "0".into())?;
        want(
            self.checkpoint_minutes > 0.0,
            "checkpoint_minutes",
            "above 0",
            self.checkpoint_minutes.to_string(),
        )?;
        let adam = &self.adam;
        want((0.0..1.0).contains(&adam.beta1), "adam.beta1", "[0, 1)", adam.beta1.to_string())?;
        want((0.0..1.0).contains(&adam.beta2), "adam.beta2", "[0, 1)", adam.beta2.to_string())?;
        want(adam.epsilon > 0.0, "adam.epsilon", "above 0", adam.epsilon.to_string())?;
        want(adam.weight_decay >= 0.0, "adam.weight_decay", "at least 0", adam.weight_decay.to_string())?;
        want(adam.clip > 0.0, "adam.clip", "above 0", adam.clip.to_string())?;
        want(!self.models.is_empty(), "models", "at least one", "none".into())?;
        for (index, model) in self.models.iter().enumerate() {
            let at = |field: &str| format!("models.{}.{field}", model.name);
            let plain = model.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
            let fresh = self.models[..index].iter().all(|other| other.name != model.name);
            let allowed = plain && fresh && !model.name.is_empty() && model.name != "all";
            want(
                allowed,
                "models.name",
                "letters, digits, - and _, once, not `all`",
                format!("{:?}", model.name),
            )?;
            let shape = &model.shape;
            for (field, value) in [
                ("hidden", shape.hidden),
                ("layers", shape.layers),
                ("heads", shape.heads),
                ("kv_heads", shape.kv_heads),
                ("intermediate", shape.intermediate),
                ("tokens", model.tokens),
            ] {
                want(value > 0, &at(field), "at least 1", value.to_string())?;
            }
            let grouped = shape.heads.is_multiple_of(shape.kv_heads);
            want(grouped, &at("kv_heads"), "a divisor of heads", shape.kv_heads.to_string())?;
            let even = shape.head_dim >= 2 && shape.head_dim.is_multiple_of(2);
            want(even, &at("head_dim"), "an even number above 0", shape.head_dim.to_string())?;
            let fits = shape.context >= self.sequence;
            want(fits, &at("context"), "at least `sequence`", shape.context.to_string())?;
            want(shape.rope_theta > 1.0, &at("rope_theta"), "above 1", shape.rope_theta.to_string())?;
            want(shape.rms_norm_eps > 0.0, &at("rms_norm_eps"), "above 0", shape.rms_norm_eps.to_string())?;
            want(model.peak_rate > 0.0, &at("peak_rate"), "above 0", model.peak_rate.to_string())?;
            let share = model.final_share;
            want((0.0..=1.0).contains(&share), &at("final_share"), "[0, 1]", share.to_string())?;
            let share = model.teacher_share;
            want((0.0..=1.0).contains(&share), &at("teacher_share"), "[0, 1]", share.to_string())?;
        }
        Ok(())
    }

    /// The model of this name.
    ///
    /// # Errors
    /// [`TrainError::Usage`] that lists the names there are.
    pub fn model(&self, name: &str) -> Result<&ModelRecipe> {
        let names = || self.models.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ");
        let missing = || TrainError::Usage(format!("{name:?}: no such model; the recipe has {}", names()));
        self.models.iter().find(|m| m.name == name).ok_or_else(missing)
    }

    /// The largest model.
    pub fn teacher(&self) -> &ModelRecipe {
        self.models.last().expect("a checked recipe has a model")
    }

    /// Steps until `model` has seen its tokens.
    pub fn steps(&self, model: &ModelRecipe) -> usize {
        model.tokens.div_ceil(self.batch * self.sequence)
    }
}
