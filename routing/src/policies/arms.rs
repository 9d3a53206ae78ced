//! Arms: the few plans among which policies choose that try and compare.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::recipe::{Builder, PolicyError};
use crate::chain::ChainPlan;
use crate::ids::ModelId;

/// A plan that a policy may choose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArmConfig {
    /// Models of the chain, cheapest first, ending in the target.
    pub chain: Vec<String>,
    /// One window for each level above the lowest; none for the target alone.
    #[serde(default)]
    pub windows: Vec<u32>,
}

/// What a catalog entry says of a parameter that [`plans`] reads.
pub(super) const ARMS: (&str, &str, &str) = (
    "arms",
    "the target alone; every chain of two with windows 1, 2, 4, 8; every chain of three with (2, 4)",
    "plans to choose among, as {chain, windows}",
);

/// The plans of `arms`, or where that is empty those that [`ARMS`] names. At least one.
///
/// # Errors
/// As [`Builder::chain`], and for an arm given twice.
pub(super) fn plans(pool: &Builder<'_>, arms: &[ArmConfig]) -> Result<Vec<ChainPlan>, PolicyError> {
    if arms.is_empty() {
        return Ok(usual(pool));
    }
    let plan = |arm: &ArmConfig| pool.chain("arms", &arm.chain, "arms", &arm.windows);
    let plans = arms.iter().map(plan).collect::<Result<Vec<_>, _>>()?;
    match (1..plans.len()).find(|&index| plans[..index].contains(&plans[index])) {
        Some(twice) => Err(pool.refuse("arms", "plans that differ", plans[twice])),
        None => Ok(plans),
    }
}

/// The target alone, then chains by depth, then by models, then by windows.
fn usual(pool: &Builder<'_>) -> Vec<ChainPlan> {
    let target = pool.target();
    let (below, limits) = (|| (0..target.0).map(ModelId), pool.pool);
    let pairs = below().flat_map(|d| [1, 2, 4, 8].map(|window| (vec![d, target], vec![window])));
    let threes =
        below().flat_map(|d| (d.0 + 1..target.0).map(move |m| (vec![d, ModelId(m), target], vec![2, 4])));
    let plans = pairs.chain(threes).filter_map(|(models, windows)| ChainPlan::new(&models, &windows).ok());
    let fits = |plan: &ChainPlan| limits.candidates.allows(plan) && plan.block() <= limits.max_block;
    std::iter::once(ChainPlan::target_only(target)).chain(plans.filter(fits)).collect()
}

/// `draft` below `target` with a window; plain decoding for a window of 0, or one that is none.
pub(super) fn with_draft(draft: ModelId, target: ModelId, window: u32) -> ChainPlan {
    let plain = ChainPlan::target_only(target);
    if window == 0 { plain } else { ChainPlan::new(&[draft, target], &[window]).unwrap_or(plain) }
}
