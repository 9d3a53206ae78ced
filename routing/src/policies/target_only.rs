//! Plain decoding: by the target, or by a smaller model in its place.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::StaticChain;
use super::recipe::{Builder, PolicyEntry, PolicyError, Recipe};
use crate::chain::ChainPlan;
use crate::policy::Policy;

/// `target_only` has no parameters.
pub(super) struct TargetOnlyConfig;

impl Recipe for TargetOnlyConfig {
    const ENTRY: PolicyEntry = PolicyEntry {
        name: "target_only",
        summary: "plain decoding by the target",
        source: "baseline",
        parameters: &[],
        example: r#""target_only""#,
    };

    fn build(&self, pool: &Builder<'_>) -> Result<Box<dyn Policy>, PolicyError> {
        Ok(Box::new(StaticChain::named(pool.policy, ChainPlan::target_only(pool.target()))))
    }
}

/// Parameters of `fixed_model`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FixedModelConfig {
    /// The pool's model that answers.
    pub model: String,
}

impl Recipe for FixedModelConfig {
    const ENTRY: PolicyEntry = PolicyEntry {
        name: "fixed_model",
        summary: "one smaller model of the pool answers instead of the target (other output)",
        source: "baseline",
        parameters: &[("model", "required", "the model that answers")],
        example: r#"{"fixed_model": {"model": "medium"}}"#,
    };

    fn label(&self) -> String {
        self.model.clone()
    }

    fn build(&self, pool: &Builder<'_>) -> Result<Box<dyn Policy>, PolicyError> {
        pool.model("model", &self.model)?;
        Ok(Box::new(StaticChain::named(pool.policy, ChainPlan::target_only(pool.target()))))
    }
}
