//! One chain with fixed windows, whatever happens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::recipe::{Builder, PolicyEntry, PolicyError, Recipe, shown};
use crate::chain::{ChainPlan, StopRule};
use crate::policy::{Ask, Plan, Policy};
use crate::units::{NonNegative, Probability};

/// Parameters of `static`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StaticConfig {
    /// Models of the chain, cheapest first, ending in the target.
    pub chain: Vec<String>,
    /// One window for each level above the lowest: how many tokens it asks of the one below.
    #[serde(default)]
    pub windows: Vec<u32>,
    /// When the lowest level stops before its window is full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<StopConfig>,
}

/// A draft stop rule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopConfig {
    /// Stop after a token whose draft distribution had a top probability below this.
    TopProbabilityBelow(Probability),
    /// Stop after a token whose draft distribution had an entropy, in nats, above this.
    EntropyAbove(NonNegative),
}

impl From<StopConfig> for StopRule {
    fn from(config: StopConfig) -> Self {
        match config {
            StopConfig::TopProbabilityBelow(p) => Self::TopProbabilityBelow(p.get() as f32),
            StopConfig::EntropyAbove(h) => Self::EntropyAbove(h.get() as f32),
        }
    }
}

impl Recipe for StaticConfig {
    const ENTRY: PolicyEntry = PolicyEntry {
        name: "static",
        summary: "one chain with fixed windows; two levels are classic speculative decoding",
        source: "Leviathan et al., arXiv 2211.17192",
        parameters: &[
            ("chain", "required", "models, cheapest first, ending in the target"),
            ("windows", "required", "tokens each level asks of the one below; one fewer than the chain"),
            ("stop", "none", "top_probability_below or entropy_above: keep the token, then stop drafting"),
        ],
        example: r#"{"static": {"chain": ["small", "medium", "large"], "windows": [2, 4]}}"#,
    };

    fn label(&self) -> String {
        let stop = match self.stop {
            None => String::new(),
            Some(StopConfig::TopProbabilityBelow(p)) => format!(" stop p<{}", p.get()),
            Some(StopConfig::EntropyAbove(h)) => format!(" stop H>{}", h.get()),
        };
        shown(&self.chain, &self.windows) + &stop
    }

    fn build(&self, pool: &Builder<'_>) -> Result<Box<dyn Policy>, PolicyError> {
        let plan = pool.chain("chain", &self.chain, "windows", &self.windows)?;
        Ok(Box::new(StaticChain::new(plan.stopping(self.stop.map_or(StopRule::Never, Into::into)))))
    }
}

/// The same plan for every sequence, always. With the target alone it is plain decoding; with one
/// draft model it is classic speculative decoding (Leviathan et al. 2023).
pub struct StaticChain {
    name: &'static str,
    plan: ChainPlan,
}

impl StaticChain {
    /// `plan`, always, under the name `static`.
    pub fn new(plan: ChainPlan) -> Self {
        Self::named(StaticConfig::ENTRY.name, plan)
    }

    /// `plan`, always, under another name.
    pub(super) fn named(name: &'static str, plan: ChainPlan) -> Self {
        Self { name, plan }
    }
}

impl Policy for StaticChain {
    fn name(&self) -> &str {
        self.name
    }

    fn plan(&mut self, _: &Ask<'_>, plan: &mut Plan) {
        plan.set_all(self.plan);
    }
}
