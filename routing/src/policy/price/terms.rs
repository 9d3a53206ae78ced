//! The words of a price: who would run, what they believe, what comes out.

use crate::chain::{ChainPlan, MAX_MODELS};
use crate::ids::ModelId;
use crate::policy::maths::chance;
use crate::profile::{ModelKind, ModelSpec, PassShape};

/// Chance that a token proposed by one model is accepted by another, all before it accepted.
///
/// Symmetric, as 1 − TV and the agreement of choices are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AlphaMatrix {
    values: [f64; MAX_MODELS * MAX_MODELS],
}

impl AlphaMatrix {
    /// Every pair at `alpha`, a chance in `[0, 1]`.
    pub fn uniform(alpha: f64) -> Self {
        Self { values: [chance(alpha); MAX_MODELS * MAX_MODELS] }
    }

    /// `α(drafter, verifier)`.
    #[inline]
    pub fn get(&self, drafter: ModelId, verifier: ModelId) -> f64 {
        self.values[(drafter.index() % MAX_MODELS) * MAX_MODELS + verifier.index() % MAX_MODELS]
    }

    /// Sets the pair, both ways round.
    pub fn set(&mut self, drafter: ModelId, verifier: ModelId, alpha: f64) {
        let (d, v) = (drafter.index() % MAX_MODELS, verifier.index() % MAX_MODELS);
        self.values[d * MAX_MODELS + v] = chance(alpha);
        self.values[v * MAX_MODELS + d] = chance(alpha);
    }
}

/// The rows that would all run one plan, in phase.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Batch {
    /// Sequences; 0 counts as 1.
    pub rows: u32,
    /// Mean tokens of a row in every model's cache.
    pub context_tokens_mean: f64,
    /// Other work that rides in every pass of the target, such as prefill chunks.
    pub background: PassShape,
    /// Per model: Σ over the rows of the catch-up tokens that its first pass would have to run.
    pub catch_up: [f64; MAX_MODELS],
    /// Rounds that the plan is expected to stay: each is charged this share of the catch-up.
    pub stay_rounds: f64,
}

impl Batch {
    /// `rows` rows of a mean context, nothing beside them, no lag.
    pub fn of(rows: u32, context_tokens_mean: f64) -> Self {
        Self {
            rows,
            context_tokens_mean,
            background: PassShape::default(),
            catch_up: [0.0; MAX_MODELS],
            stay_rounds: 32.0,
        }
    }
}

/// How a batch is priced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pricing {
    /// As the serving loop runs it: rows share passes, and a cycle runs as long as any row needs
    /// it. What policies use.
    #[default]
    Lockstep,
    /// Each row pays the passes of a batch of its own copies; no stragglers. Equals `Lockstep` at
    /// one row.
    PerRow,
}

/// The price of one round of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Priced {
    /// Expected seconds from one pass of the target to the next.
    pub round_seconds: f64,
    /// Expected tokens that the batch commits in them.
    pub tokens: f64,
    /// `round_seconds / tokens`: what a policy minimises.
    pub seconds_per_token: f64,
}

impl Priced {
    pub(super) fn new(round_seconds: f64, tokens: f64) -> Self {
        Self { round_seconds, tokens, seconds_per_token: round_seconds / tokens }
    }

    /// Expected seconds between two tokens of one sequence of a batch of `rows`.
    pub fn seconds_per_row_token(&self, rows: u32) -> f64 {
        self.seconds_per_token * f64::from(rows.max(1))
    }
}

/// Which model may stand directly below which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidates {
    models: u8,
    below: [u8; MAX_MODELS],
}

impl Candidates {
    /// A pool of `models` (1 to [`MAX_MODELS`]), any of which may stand below any dearer one.
    pub fn all(models: usize) -> Self {
        let models = models.clamp(1, MAX_MODELS);
        let mut below = [0; MAX_MODELS];
        for (verifier, mask) in below.iter_mut().enumerate().take(models) {
            *mask = ((1u16 << verifier) - 1) as u8;
        }
        Self { models: models as u8, below }
    }

    /// What the kinds of a pool's models allow: a head stands directly below its own target only,
    /// and neither a head nor an n-gram look-up can verify.
    pub fn of_pool(pool: &[ModelSpec]) -> Self {
        let mut out = Self::all(pool.len());
        for (verifier, spec) in pool.iter().enumerate().take(MAX_MODELS) {
            if spec.kind != ModelKind::Model {
                out.below[verifier] = 0;
            }
            for (drafter, below) in pool.iter().enumerate().take(verifier) {
                if matches!(&below.kind, ModelKind::Head { of } if *of != spec.name) {
                    out.forbid(ModelId(drafter as u8), ModelId(verifier as u8));
                }
            }
        }
        out
    }

    /// Number of models in the pool; the last is the target.
    pub fn models(&self) -> usize {
        usize::from(self.models)
    }

    /// The pool's last model.
    pub fn target(&self) -> ModelId {
        ModelId(self.models - 1)
    }

    /// `drafter` may no longer stand directly below `verifier`.
    pub fn forbid(&mut self, drafter: ModelId, verifier: ModelId) {
        self.below[verifier.index() % MAX_MODELS] &= !(1u8 << (drafter.index() % MAX_MODELS));
    }

    /// The same without chains that use `model`, which must not be the target.
    pub fn without(mut self, model: ModelId) -> Self {
        for verifier in 0..self.models {
            self.forbid(model, ModelId(verifier));
        }
        self
    }

    /// May `drafter` stand directly below `verifier`?
    #[inline]
    pub fn may(&self, drafter: ModelId, verifier: ModelId) -> bool {
        self.below[verifier.index() % MAX_MODELS] >> (drafter.index() % MAX_MODELS) & 1 == 1
    }

    /// May every level of the chain stand where it does?
    pub fn allows(&self, plan: &ChainPlan) -> bool {
        plan.models().windows(2).all(|pair| self.may(pair[0], pair[1]))
    }
}
