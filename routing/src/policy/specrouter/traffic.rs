//! How much prefill rides along, and what that makes of the price of decoding.
//!
//! Prompts are run by the target whatever the plan. A verification that rides in a pass which
//! reads the weights for a prompt anyway costs only its own compute, so a plan is priced by what
//! it adds to such passes; and every lower level of a chain runs each prompt once more.

use crate::ids::ModelId;
use crate::policy::PassReport;
use crate::profile::{PassCosts, PassShape};

/// Catch-up below this many tokens is the odd token after a full acceptance, not prefill.
const PREFILL: u32 = 48;
const WEIGHT: f64 = 1.0 / 64.0;
const DECAY: f64 = 1.0 - 1.0 / 512.0;

/// Moving averages over the target's passes.
#[derive(Default)]
pub(super) struct Traffic {
    /// Share of the target's passes that carry prefill.
    share: f64,
    /// Prefill tokens of a pass that carries any.
    tokens: f64,
    /// Decayed sums: prefill tokens, and committed tokens.
    prefilled: f64,
    committed: f64,
    told: (f64, f64),
    version: u64,
}

impl Traffic {
    /// Learns from a pass of the target.
    pub fn learn(&mut self, report: &PassReport<'_>) {
        let prefill = report.shape.catch_up_tokens > PREFILL;
        self.share += WEIGHT * (f64::from(u8::from(prefill)) - self.share);
        if prefill {
            let tokens = f64::from(report.shape.catch_up_tokens);
            self.tokens += if self.tokens > 0.0 { (tokens - self.tokens) / 16.0 } else { tokens };
            self.prefilled += tokens;
        }
        self.committed += f64::from(report.committed);
        self.prefilled *= DECAY;
        self.committed *= DECAY;
        let now = (self.share, self.prompts_per_token());
        if (now.0 - self.told.0).abs() > 0.05 || (now.1 - self.told.1).abs() > 0.2 * self.told.1 + 0.1 {
            self.told = now;
            self.version += 1;
        }
    }

    /// Grows when the mix has moved enough to matter.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Seconds that a pass of the target over `shape` adds, averaged over passes with and without
    /// prefill.
    pub fn added(&self, costs: &dyn PassCosts, target: ModelId, shape: &PassShape) -> f64 {
        let alone = costs.seconds(target, shape);
        if self.share < 0.01 {
            return alone;
        }
        let prefill = PassShape::uniform(1, self.tokens as u32, 0);
        let beside = costs.seconds(target, &shape.plus(prefill)) - costs.seconds(target, &prefill);
        // Riding along is never dearer than a pass of its own.
        (1.0 - self.share) * alone + self.share * beside.clamp(0.01 * alone, alone)
    }

    /// Seconds that each committed token costs `model` for running prompts as a lower level.
    pub fn prompt_seconds(&self, costs: &dyn PassCosts, model: ModelId) -> f64 {
        let chunk = (self.tokens as u32).max(256);
        self.prompts_per_token() * costs.seconds(model, &PassShape::uniform(1, chunk, 0)) / f64::from(chunk)
    }

    /// Prompt tokens for each committed token.
    fn prompts_per_token(&self) -> f64 {
        // Before a few requests have gone through the ratio says nothing but that prompts come first.
        if self.committed < 256.0 { 0.0 } else { self.prefilled / self.committed }
    }
}
