//! Policies that checks plan with: one plan always, or another chain in every round.

use specrouter_routing::chain::ChainPlan;
use specrouter_routing::ids::ModelId;
use specrouter_routing::luck::{Draws, Luck, Stream};
use specrouter_routing::policy::{Ask, Plan, Policy, Probe};

/// The same plan for every sequence, always.
#[derive(Clone, Debug)]
pub struct Always(pub ChainPlan);

impl Policy for Always {
    fn name(&self) -> &str {
        "always"
    }

    fn plan(&mut self, _: &Ask<'_>, plan: &mut Plan) {
        plan.set_all(self.0);
    }
}

/// Another chain in every round of every sequence: its first plan in every other round, and one of the
/// others in between. A model that the round has no use for is probed beside every second round.
///
/// What it does is a function of its seed, the request's id and the number of the request's round.
#[derive(Clone, Debug)]
pub struct EveryRound {
    plans: Vec<ChainPlan>,
    draws: Draws,
}

impl EveryRound {
    /// Switches among `first` and those of `others` that have other models.
    pub fn new(first: ChainPlan, others: &[ChainPlan], seed: u64) -> Self {
        let other = others.iter().copied().filter(|plan| plan.models() != first.models());
        let plans = std::iter::once(first).chain(other).collect();
        Self { plans, draws: Luck::new(seed).stream(Stream::Policy) }
    }
}

impl Policy for EveryRound {
    fn name(&self) -> &str {
        "every_round"
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        for &slot in ask.starting {
            let view = ask.request(slot);
            let bits = self.draws.bits(view.id().0, u64::from(view.rounds()));
            // The prefill was round 0.
            let others = self.plans.len() - 1;
            let choice = match view.rounds() % 2 {
                0 if others > 0 => 1 + bits as usize % others,
                _ => 0,
            };
            let chosen = self.plans[choice];
            plan.push(chosen);
            // A model of the chain sees the text anyway.
            let unused = |model: &ModelId| !chosen.uses(*model);
            if bits >> 40 & 1 == 0
                && let Some(model) = (0..chosen.target().0).map(ModelId).find(unused)
            {
                plan.probe(Probe { slot, model });
            }
        }
    }
}
