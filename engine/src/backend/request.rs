//! What goes into the engine and what comes out: prompts, streamed tokens, finished texts.

use specrouter_routing::ids::{ModelId, RequestId, Slot};

use crate::level::ForwardError;
use crate::sampling::Sampling;

/// The contents of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// Token ids, at least one.
    pub tokens: Vec<u32>,
    /// How its output is sampled, alike at every level.
    pub sampling: Sampling,
    /// Its own seed: with the run's, it makes all its luck.
    pub seed: u64,
    /// Token ids that end the output; the one that does is part of it.
    pub stop: Vec<u32>,
}

/// A prompt that cannot be run. Its author is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// Nothing to continue.
    #[error("request {request}: a prompt has at least one token, got none")]
    Empty {
        /// Whose.
        request: RequestId,
    },
    /// A token that the models do not have.
    #[error(
        "request {request}: prompt token {index} must be below the vocabulary's {vocabulary}, got {token}"
    )]
    Token {
        /// Whose.
        request: RequestId,
        /// Its place in the prompt.
        index: usize,
        /// Tokens of the vocabulary.
        vocabulary: usize,
        /// What came.
        token: u32,
    },
    /// The same request again: the driver's bug.
    #[error("request {request} was submitted before")]
    Twice {
        /// Whose.
        request: RequestId,
    },
}

/// A pool that the engine cannot run. The scenario is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// No model, or too many.
    #[error("a pool has 1 to {most} models, got {got}")]
    Models {
        /// Most models.
        most: usize,
        /// What came.
        got: usize,
    },
    /// Models that do not speak of the same tokens.
    #[error("the models of a pool share one vocabulary: {target} has {expected} tokens, {model} has {got}")]
    Vocabulary {
        /// The pool's target.
        target: String,
        /// Its tokens.
        expected: usize,
        /// The other model.
        model: String,
        /// Its tokens.
        got: usize,
    },
}

/// Why a pass could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The model failed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// No token can be sampled from a row of logits: the model's weights are at fault.
    #[error("{model}, request {request}: logits must have a finite maximum, row {row} of the pass has none")]
    NoToken {
        /// The model.
        model: String,
        /// Whose row.
        request: RequestId,
        /// The row's place in the pass.
        row: usize,
    },
    /// A request was admitted whose prompt never came, or has another length: the driver's bug.
    #[error("request {request}: admitted with a prompt of {expected} tokens, but {got} were submitted")]
    Prompt {
        /// Whose.
        request: RequestId,
        /// Tokens that the serving loop counts.
        expected: u32,
        /// Tokens that came; 0 when nothing did.
        got: usize,
    },
    /// Counts of the serving loop and contents of the backend disagree: a bug in one of them.
    #[error("slot {slot}: {what}: expected {expected}, got {got}")]
    Contents {
        /// Where.
        slot: Slot,
        /// What disagrees.
        what: &'static str,
        /// What the pass says.
        expected: u64,
        /// What the backend holds.
        got: u64,
    },
}

/// A token of the output, and whose work it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommittedToken {
    /// The token.
    pub token: u32,
    /// Who put it there: the lowest model whose proposal survived every verification, or the
    /// verifier that corrected it or added it.
    pub model: ModelId,
    /// That model's level in the chain of its round, 0 the lowest.
    pub level: u8,
}

/// Hears of tokens as they are committed.
pub trait Listener {
    /// `tokens` of `request`, one round's, in order; at least one.
    fn committed(&mut self, _request: RequestId, _tokens: &[CommittedToken]) {}
}

/// Listens to nothing.
impl Listener for () {}

/// A text that is complete.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Whose.
    pub request: RequestId,
    /// Prompt and output.
    pub text: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// For each output token, the model that put it there.
    pub models: Vec<ModelId>,
    /// It ended with a stop token, not at its limit.
    pub stopped: bool,
}

impl Finished {
    /// The output's tokens.
    pub fn output(&self) -> &[u32] {
        &self.text[self.prompt_tokens..]
    }
}
