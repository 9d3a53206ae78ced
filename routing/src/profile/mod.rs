//! Step costs as policies may know them: the data sheet, a measured table, a linear fit, and any
//! of these corrected by the pass times a replica has observed.

mod corrected;
mod linear;
mod sheet;
mod spec;
mod table;

pub use corrected::Corrected;
pub use linear::{Linear, LinearTerms, Tile};
pub use sheet::DataSheet;
pub use spec::{DeviceSheet, ModelKind, ModelSpec, Precision, SpecError};
pub use table::{Table, TableError, TableRow};

use crate::ids::ModelId;

/// What one packed pass asks of the hardware. Rows are ragged and priced jointly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassShape {
    /// Sequences in the pass.
    pub rows: u32,
    /// Σ tokens run through the model, catch-up included.
    pub new_tokens: u32,
    /// The part of `new_tokens` that is catch-up or prefill.
    pub catch_up_tokens: u32,
    /// Σ over rows of the tokens already in this model's KV cache: each is read once.
    pub context_tokens: u64,
    /// Σ over rows of new × (context + (new + 1) / 2): query-key pairs, for attention FLOPs.
    pub attention_pairs: u64,
    /// Positions whose logits are computed.
    pub logit_rows: u32,
}

impl PassShape {
    /// `rows` equal rows of `new` tokens over `context` cached tokens each, logits at every new
    /// position: the shape of a draft (`new` = 1) or of a verification (`new` = window + 1).
    pub fn uniform(rows: u32, new: u32, context: u64) -> Self {
        let (r, n) = (u64::from(rows), u64::from(new));
        Self {
            rows,
            new_tokens: rows * new,
            catch_up_tokens: 0,
            context_tokens: r * context,
            attention_pairs: r * (n * context + n * (n + 1) / 2),
            logit_rows: rows * new,
        }
    }

    /// Adds one row of `new` tokens, `catch_up` of them catch-up, over `context` cached tokens,
    /// with logits at `logits` positions.
    #[inline]
    pub fn add_row(&mut self, new: u32, catch_up: u32, context: u32, logits: u32) {
        let (n, c) = (u64::from(new), u64::from(context));
        self.rows += 1;
        self.new_tokens += new;
        self.catch_up_tokens += catch_up;
        self.context_tokens += c;
        self.attention_pairs += n * c + n * (n + 1) / 2;
        self.logit_rows += logits;
    }

    /// The shape of the next pass over the same drafting rows: one token each, over what this pass
    /// has added to their caches.
    #[inline]
    #[must_use]
    pub fn draft_after(self) -> Self {
        let context_tokens = self.context_tokens + u64::from(self.new_tokens);
        Self {
            rows: self.rows,
            new_tokens: self.rows,
            catch_up_tokens: 0,
            context_tokens,
            attention_pairs: context_tokens + u64::from(self.rows),
            logit_rows: self.rows,
        }
    }

    /// The shape of both, packed.
    pub fn plus(self, other: Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            new_tokens: self.new_tokens + other.new_tokens,
            catch_up_tokens: self.catch_up_tokens + other.catch_up_tokens,
            context_tokens: self.context_tokens + other.context_tokens,
            attention_pairs: self.attention_pairs + other.attention_pairs,
            logit_rows: self.logit_rows + other.logit_rows,
        }
    }
}

/// A belief about pass times: seconds for a pass of `model` with `shape`.
pub trait PassCosts: Send + Sync {
    /// Seconds; finite and above 0 for every shape with at least one new token.
    fn seconds(&self, model: ModelId, shape: &PassShape) -> f64;
}
