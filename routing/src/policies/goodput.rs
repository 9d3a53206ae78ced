//! TurboSpec (SmartSpec, arXiv 2406.14066): the draft length with the highest goodput, generated
//! tokens per second, by a global acceptance estimate and profiled pass times.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::recipe::{Builder, PolicyEntry, PolicyError, Recipe};
use crate::chain::ChainPlan;
use crate::ids::ModelId;
use crate::policy::maths::expected_tokens;
use crate::policy::{Ask, Needs, PassReport, Plan, Planned, Policy};
use crate::profile::{PassCosts, PassShape};
use crate::record::Prediction;
use crate::units::Probability;

/// Parameters of `goodput`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GoodputConfig {
    /// The draft model.
    pub draft: String,
    /// Longest draft considered, in tokens.
    #[serde(default = "eight")]
    pub max_window: u32,
    /// Acceptance believed before the first verification; the paper's code has 0.7.
    #[serde(default = "seven_tenths")]
    pub initial_acceptance: Probability,
    /// Weight of a new pass in the moving average of acceptance; the paper's code has 0.15.
    #[serde(default = "fifteen_percent")]
    pub weight: Probability,
}

const fn eight() -> u32 {
    8
}

const fn seven_tenths() -> Probability {
    Probability::constant(0.7)
}

const fn fifteen_percent() -> Probability {
    Probability::constant(0.15)
}

impl Recipe for GoodputConfig {
    const ENTRY: PolicyEntry = PolicyEntry {
        name: "goodput",
        summary: "the draft length with the most tokens per second at the present batch (as published it does not explore: at length 0 it learns no more)",
        source: "TurboSpec / SmartSpec, arXiv 2406.14066",
        parameters: &[
            ("draft", "required", "the draft model"),
            ("max_window", "8", "longest draft in tokens"),
            ("initial_acceptance", "0.7", "acceptance believed before the first verification"),
            ("weight", "0.15", "weight of a new pass in the moving average"),
        ],
        example: r#"{"goodput": {"draft": "small"}}"#,
    };

    fn label(&self) -> String {
        self.draft.clone()
    }

    fn build(&self, pool: &Builder<'_>) -> Result<Box<dyn Policy>, PolicyError> {
        Ok(Box::new(Goodput {
            draft: pool.draft("draft", &self.draft)?,
            target: pool.target(),
            max_window: pool.window("max_window", self.max_window)?,
            acceptance: self.initial_acceptance.get(),
            weight: self.weight.get(),
            decided: None,
        }))
    }
}

/// Argmax over k of B (1 − α^{k+1}) / (1 − α) / (k t_draft(B) + t_target(B (k + 1))).
struct Goodput {
    draft: ModelId,
    target: ModelId,
    max_window: u32,
    acceptance: f64,
    weight: f64,
    decided: Option<Decided>,
}

/// A decision and what it rests on.
struct Decided {
    rows: u32,
    costs: u64,
    acceptance: f64,
    context: u64,
    planned: Planned,
}

impl Goodput {
    fn decide(&self, ask: &Ask<'_>, rows: u32, context: u64) -> Planned {
        let mut best: Option<(f64, Planned)> = None;
        let longest = self.max_window.min(ask.limits.max_block);
        let draft = ask.costs.seconds(self.draft, &PassShape::uniform(rows, 1, context));
        for k in 0..=longest {
            let verify = ask.costs.seconds(self.target, &PassShape::uniform(rows, k + 1, context));
            let (seconds, tokens) = (f64::from(k) * draft + verify, expected_tokens(self.acceptance, k));
            let chain = if k == 0 { None } else { ChainPlan::new(&[self.draft, self.target], &[k]).ok() };
            let chain = chain.unwrap_or(ChainPlan::target_only(self.target));
            if best.is_none_or(|(rate, _)| tokens / seconds > rate) {
                let predicted =
                    Prediction { round_seconds: seconds as f32, tokens: tokens as f32, propensity: 1.0 };
                best = Some((tokens / seconds, Planned { chain, predicted: Some(predicted) }));
            }
        }
        best.map_or(ChainPlan::target_only(self.target).into(), |(_, planned)| planned)
    }
}

impl Policy for Goodput {
    fn name(&self) -> &str {
        "goodput"
    }

    fn needs(&self) -> Needs {
        Needs { costs: true, ..Needs::default() }
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        let rows = ask.decoding.max(1);
        let context = ask.context_tokens / u64::from(ask.running.max(1));
        // Prices move with the batch, the context, the times seen and the acceptance; between
        // moves of these the answer stands.
        let stale = self.decided.as_ref().is_none_or(|d| {
            d.rows != rows
                || d.costs != ask.costs.version()
                || (d.acceptance - self.acceptance).abs() > 0.005
                || context.abs_diff(d.context) * 16 > d.context
        });
        if stale {
            let (costs, acceptance) = (ask.costs.version(), self.acceptance);
            self.decided =
                Some(Decided { rows, costs, acceptance, context, planned: self.decide(ask, rows, context) });
        }
        if let Some(decided) = &self.decided {
            plan.set_all(decided.planned);
        }
    }

    fn learn(&mut self, report: &PassReport<'_>) {
        for pair in report.pairs.iter().filter(|pair| pair.verifier == self.target) {
            if let Some(acceptance) = pair.seen.acceptance() {
                self.acceptance += self.weight * (acceptance - self.acceptance);
            }
        }
    }
}
