//! The plans of another run, over again.

use std::collections::BTreeMap;

use crate::chain::ChainPlan;
use crate::ids::{ModelId, RequestId};
use crate::policy::{Ask, Plan, Policy};
use crate::record::RoundRecord;

/// Repeats logged plans, round by round of each request; a round that was never logged runs the target alone.
///
/// No scenario names it: it is how a trace is replayed under its own plans, and how a policy that lives on
/// what it measured is replayed exactly.
#[derive(Clone, Debug, Default)]
pub struct Logged {
    target: ModelId,
    plans: BTreeMap<(RequestId, u32), ChainPlan>,
}

impl Logged {
    /// The plans that `rounds` executed, in a pool whose target is `target`.
    pub fn new(target: ModelId, rounds: &[RoundRecord]) -> Self {
        Self {
            target,
            plans: rounds.iter().map(|round| ((round.request, round.round), round.plan)).collect(),
        }
    }
}

impl Policy for Logged {
    fn name(&self) -> &str {
        "logged"
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        for &slot in ask.starting {
            let request = ask.request(slot);
            let logged = self.plans.get(&(request.id(), request.rounds()));
            plan.push(logged.copied().unwrap_or_else(|| ChainPlan::target_only(self.target)));
        }
    }
}
