//! Prompts on the target, and what they do to a plan.
//!
//! The target runs prompts whatever the plan, but not at the same price. A prompt that becomes
//! known while the lower levels still have two passes or more to go gets a pass of its own (it
//! waits for one pass, not for a verification), and its sequence then starts out of phase, which
//! holds the others up by one draft. With fewer passes to go it rides along with the verification
//! and costs only what it adds. Every lower level of a chain runs each prompt once more.

use crate::chain::ChainPlan;
use crate::ids::ModelId;
use crate::policy::PassReport;
use crate::profile::{PassCosts, PassShape};

/// Catch-up below this many tokens is the odd token after a full acceptance, not a prompt.
const PREFILL: u32 = 48;
/// Forgets over some 512 passes of the target.
const DECAY: f64 = 1.0 - 1.0 / 512.0;
/// Share of the time that prompts may be believed to take.
const MOST: f64 = 0.9;

/// Decayed sums over passes.
#[derive(Default)]
pub(super) struct Traffic {
    /// Passes of the target that carried prompts.
    prefills: f64,
    /// Prompt tokens in them.
    tokens: f64,
    /// Time of all passes, in seconds.
    elapsed: f64,
    /// Tokens committed.
    committed: f64,
    told: (f64, f64),
    version: u64,
}

impl Traffic {
    /// Learns from a pass.
    pub fn learn(&mut self, report: &PassReport<'_>, target: ModelId) {
        self.elapsed += report.duration.seconds();
        if report.model != target {
            return;
        }
        if report.shape.catch_up_tokens > PREFILL {
            self.prefills += 1.0;
            self.tokens += f64::from(report.shape.catch_up_tokens);
        }
        self.committed += f64::from(report.committed);
        for sum in [&mut self.prefills, &mut self.tokens, &mut self.elapsed, &mut self.committed] {
            *sum *= DECAY;
        }
        let now = (self.prefills / self.elapsed, self.prompts_per_token());
        let moved = |now: f64, told: f64| (now - told).abs() > 0.15 * told + 1e-3;
        if moved(now.0, self.told.0) || moved(now.1, self.told.1) {
            self.told = now;
            self.version += 1;
        }
    }

    /// Grows when the traffic has moved enough to matter.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// `round_seconds` of `plan` for `rows` rows over a mean context, with the prompts that come
    /// meanwhile.
    pub fn with_prompts(
        &self,
        costs: &dyn PassCosts,
        plan: &ChainPlan,
        rows: u32,
        context: u64,
        round_seconds: f64,
    ) -> f64 {
        if self.prefills < 0.5 {
            return round_seconds;
        }
        let target = plan.target();
        let width = plan.windows().last().map_or(1, |&window| u32::from(window) + 1);
        let verification = PassShape::uniform(rows, width, context);
        let prompt = PassShape::uniform(1, (self.tokens / self.prefills) as u32, 0);
        let verify = costs.seconds(target, &verification);
        let beside = (costs.seconds(target, &verification.plus(prompt)) - verify).max(0.0);
        let (passes, draft) = match plan.windows().first() {
            None => (0, 0.0),
            Some(&window) => {
                let draft = costs.seconds(plan.model(0), &PassShape::uniform(rows, 1, context));
                (u32::from(window) + plan.depth() as u32 - 2, draft)
            }
        };
        let alone = costs.seconds(target, &prompt) + draft;
        // A prompt that comes in the verification, or more than two passes before the next, is alone.
        let riding = if passes >= 2 { (2.0 * draft / round_seconds).min(1.0) } else { 1.0 };
        let each = riding * beside + (1.0 - riding) * alone.max(beside);
        round_seconds / (1.0 - (self.prefills / self.elapsed * each).min(MOST))
    }

    /// Tokens of a prompt in one pass, in the mean; at least 1.
    pub fn chunk(&self) -> u32 {
        if self.prefills < 0.5 { 256 } else { ((self.tokens / self.prefills) as u32).max(1) }
    }

    /// Seconds that each committed token costs `model` for running prompts as a lower level: what they add to its
    /// passes over `rows` rows of a mean context.
    pub fn prompt_seconds(&self, costs: &dyn PassCosts, model: ModelId, rows: u32, context: u64) -> f64 {
        if self.prefills < 0.5 {
            return 0.0;
        }
        let chunk = self.chunk();
        let draft = PassShape::uniform(rows, 1, context);
        let with = costs.seconds(model, &draft.plus(PassShape::uniform(1, chunk, 0)));
        self.prompts_per_token() * (with - costs.seconds(model, &draft)).max(0.0) / f64::from(chunk)
    }

    /// Prompt tokens for each committed token.
    fn prompts_per_token(&self) -> f64 {
        // Before a few requests have gone through the ratio says nothing but that prompts come first.
        if self.committed < 256.0 { 0.0 } else { self.tokens / self.committed }
    }
}
