//! Checks that speculation changes nothing: outputs of real decoders under the real serving loop.
//!
//! - [`exact`]: greedy and coupled outputs, token for token those of the target alone, over a grid of
//!   [`cells`].
//! - [`distribution`]: sampled outputs, counted, against the target's own probabilities.
//! - [`flips`]: how often a device that is not exact chooses another token; reported, not judged.
//!
//! A check that exercised nothing has found nothing: every report counts what happened.

pub mod cells;
pub mod distribution;
pub mod exact;
pub mod flips;
pub mod policies;
#[cfg(test)]
mod tests;
pub mod tree;

use std::path::Path;

use specrouter_routing::backend::Pass;
use specrouter_routing::ids::{ClassId, ModelId, RequestId};
use specrouter_routing::luck::{Luck, Stream};
use specrouter_routing::profile::{PassCosts, PassShape};
use specrouter_routing::replica::{LimitError, Limits, ReplicaError};
use specrouter_routing::request::{Request, Truth};
use specrouter_routing::slo::Slo;
use specrouter_routing::units::Time;

use crate::backend::{BackendError, Clock, PoolError, Prompt, PromptError};
use crate::config::DecoderConfig;
use crate::decoder::{Decoder, DecoderOptions};
use crate::level::ForwardError;
use crate::load::{Checkpoint, LoadError, nested, tiny_config};
use crate::sampling::{NoToken, Sampling};
use crate::settings::Dtype;
use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::weights::WeightSource;

/// Why a check could not be carried out: not that it found something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The serving loop: a bug in it, or in a policy.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// Limits that cannot work: the check's own fault.
    #[error(transparent)]
    Limits(#[from] LimitError),
    /// A pass that could not be run.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A prompt that cannot be run.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// Models that are no pool.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// A pass outside the serving loop.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// Logits of which no token can be sampled.
    #[error(transparent)]
    NoToken(#[from] NoToken),
    /// A model that cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A tokenizer that cannot be read, or a text that it does not take.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The serving loop lost requests, or memory: a bug.
    #[error("{cell}: {what}: expected {expected}, got {got}")]
    Books {
        /// What was run.
        cell: String,
        /// What does not add up.
        what: &'static str,
        /// What would.
        expected: u64,
        /// What came.
        got: u64,
    },
}

/// A prompt to continue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Token ids, at least one.
    pub tokens: Vec<u32>,
    /// Most output tokens, at least 1.
    pub limit: u32,
    /// Its own seed.
    pub seed: u64,
    /// Token ids that end its output.
    pub stop: Vec<u32>,
}

impl Task {
    /// Tokens of KV memory that it needs at a level, with `ahead` drafted past its text.
    pub fn most_tokens(&self, ahead: u32) -> u64 {
        self.tokens.len() as u64 + u64::from(self.limit) + u64::from(ahead) + 1
    }

    /// The request and the prompt that submit it as number `id`.
    fn job(&self, id: u64, sampling: Sampling) -> (Request, Prompt) {
        let request = Request {
            id: RequestId(id),
            class: ClassId(0),
            arrival: Time::ZERO,
            prompt_tokens: self.tokens.len() as u32,
            limit: self.limit,
            priority: 0,
            slo: Slo::default(),
            truth: Truth::new(self.limit),
        };
        let (tokens, stop) = (self.tokens.clone(), self.stop.clone());
        (request, Prompt { tokens, sampling, seed: self.seed, stop })
    }
}

/// `count` prompts of 3 to 40 random tokens below `vocabulary`, with outputs of 12 to 35 tokens; every second
/// ends early where one of eight tokens comes.
pub fn random_tasks(vocabulary: u32, count: usize, seed: u64) -> Vec<Task> {
    let draws = Luck::new(seed).stream(Stream::Test);
    let below = |task: u64, at: u64, most: u64| draws.bits(task, at) % most;
    (0..count as u64)
        .map(|task| Task {
            tokens: (0..3 + below(task, 0, 38))
                .map(|at| below(task, 2 + at, u64::from(vocabulary)) as u32)
                .collect(),
            limit: 12 + below(task, 1, 24) as u32,
            seed: task,
            stop: match task % 2 {
                0 => Vec::new(),
                _ => (0..8).map(|i| below(task, 64 + i, u64::from(vocabulary)) as u32).collect(),
            },
        })
        .collect()
}

/// Texts as prompts of 16 to 31 tokens of output; every second ends early at the end of a line.
///
/// # Errors
/// [`CheckError::Tokenizer`], for a text that the tokenizer does not take.
pub fn text_tasks(tokenizer: &Tokenizer, texts: &[&str]) -> Result<Vec<Task>, CheckError> {
    let line_end = tokenizer.encode_more("\n")?;
    let task = |(index, text): (usize, &&str)| {
        let stop = if index % 2 == 0 { Vec::new() } else { line_end.clone() };
        let limit = 16 + 5 * index as u32 % 16;
        Ok(Task { tokens: tokenizer.encode_user(text)?, limit, seed: index as u64, stop })
    };
    texts.iter().enumerate().map(task).collect()
}

/// Three nested models of the size of [`tiny_config`] as decoders, with weights in `dtype`, `kv_tokens` tokens of
/// KV memory each, and NaN in all memory that is forgotten.
///
/// # Errors
/// [`LoadError`], when there is no memory.
pub fn nested_pool(
    seed: u64,
    eps: (f32, f32),
    dtype: Dtype,
    kv_tokens: u64,
) -> Result<Vec<Decoder>, LoadError> {
    let models = nested(&tiny_config(), seed, eps.0, eps.1);
    models.into_iter().map(|(config, mut weights)| poisoned(config, &mut weights, dtype, kv_tokens)).collect()
}

/// The models of Hugging Face folders as decoders on the processor, as [`nested_pool`].
///
/// - `folders`: names and folders, cheapest first, target last.
///
/// # Errors
/// [`LoadError`], naming the file.
pub fn folder_pool(folders: &[(String, &Path)], kv_tokens: u64) -> Result<Vec<Decoder>, LoadError> {
    let open = |(name, folder): &(String, &Path)| {
        let mut checkpoint = Checkpoint::open(folder, name)?;
        let model = poisoned(checkpoint.config().clone(), &mut checkpoint, Dtype::Auto, kv_tokens)?;
        checkpoint.check_all_taken()?;
        Ok(model)
    };
    folders.iter().map(open).collect()
}

fn poisoned(
    config: DecoderConfig,
    weights: &mut dyn WeightSource,
    dtype: Dtype,
    kv_tokens: u64,
) -> Result<Decoder, LoadError> {
    let options = DecoderOptions { poison: true, dtype, ..DecoderOptions::new(kv_tokens) };
    Decoder::load(config, weights, options)
}

/// Every look at it is a microsecond later, so a check runs alike wherever it runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counting(u64);

impl Clock for Counting {
    fn now(&mut self) -> Time {
        self.0 += 1;
        Time::from_nanos(1000 * self.0)
    }
}

/// Beliefs for policies that ask for none.
struct Alike;

impl PassCosts for Alike {
    fn seconds(&self, _: ModelId, shape: &PassShape) -> f64 {
        1e-3 + 1e-5 * f64::from(shape.new_tokens)
    }
}

/// Limits of a check: `batch` sequences at once.
fn limits(batch: u32) -> Limits {
    Limits {
        max_running: batch,
        token_budget: 64,
        max_block: 32,
        hold_passes: None,
        context: 512,
        by_priority: false,
    }
}

/// Rows of the pass in which a model of the chain first runs more than one token that others have committed
/// since it last ran.
fn catch_ups<P: Pass>(pass: &P) -> u64 {
    let drafts = pass.cohorts().iter().flat_map(|c| (0..c.slots.len()).map(|index| pass.draft_row(c, index)));
    let lags = drafts.chain(pass.rows().iter().copied());
    lags.filter(|row| row.committed > 0 && row.context > 0 && row.catch_up > 1).count() as u64
}
