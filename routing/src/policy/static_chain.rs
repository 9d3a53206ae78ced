//! Fixed plans: the target alone, or one chain whatever happens.

use super::{Ask, Plan, Policy};
use crate::chain::ChainPlan;

/// The same plan for every sequence, always. With the target alone it is plain decoding; with one
/// draft model it is classic speculative decoding (Leviathan et al. 2023).
pub struct StaticChain {
    name: &'static str,
    plan: ChainPlan,
}

impl StaticChain {
    /// `plan`, always, under the name `static`.
    pub fn new(plan: ChainPlan) -> Self {
        Self { name: "static", plan }
    }

    /// Plain decoding, under the name `target_only`.
    pub fn target_only(plan: ChainPlan) -> Self {
        Self { name: "target_only", plan: ChainPlan::target_only(plan.target()) }
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
