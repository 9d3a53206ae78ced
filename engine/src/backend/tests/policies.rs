//! Policies that tests plan with. Each shows its state, so that states can be merged by it.

use std::sync::{Arc, Mutex};

use specrouter_routing::luck::Draws;
use specrouter_routing::policies::{PolicyConfig, PolicyPool};
use specrouter_routing::policy::price::Candidates;
use specrouter_routing::policy::{Ask, Needs, PassReport, Plan, Policy, Probe};

use super::*;
use specrouter_routing::luck::Stream;

/// A policy's state, for those who watch it.
pub type State = Arc<Mutex<Vec<u32>>>;

/// One plan, always.
pub struct Always(pub ChainPlan);

impl Policy for Always {
    fn name(&self) -> &str {
        "always"
    }
    fn plan(&mut self, _: &Ask<'_>, plan: &mut Plan) {
        plan.set_all(self.0);
    }
}

/// A plan for each request, by its id.
pub struct OneEach(pub Vec<ChainPlan>);

impl Policy for OneEach {
    fn name(&self) -> &str {
        "one each"
    }
    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        ask.starting.iter().for_each(|&slot| plan.push(self.0[ask.request(slot).id().index()]));
    }
}

/// Chooses among plans by all that it has seen of the last verifications, those of intermediate
/// levels included, whose tokens may have been rolled back since.
pub struct Reactive {
    pub plans: Vec<ChainPlan>,
    /// [accepted by the last intermediate level, was it similar, accepted by the target].
    pub state: State,
}

impl Policy for Reactive {
    fn name(&self) -> &str {
        "reactive"
    }
    fn needs(&self) -> Needs {
        Needs { rows: true, costs: false }
    }
    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        let state = self.state.lock().unwrap();
        let seen = state[0] + 2 * state[1] + 3 * state[2];
        for &slot in ask.starting {
            let choice = seen + ask.request(slot).emitted().saturating_sub(1);
            plan.push(self.plans[choice as usize % self.plans.len()]);
        }
    }
    fn learn(&mut self, report: &PassReport<'_>) {
        let mut state = self.state.lock().unwrap();
        for row in report.rows.iter().filter(|row| row.drafted > 0) {
            if row.verifier.0 == 2 {
                state[2] = u32::from(row.accepted);
            } else {
                state[0] = u32::from(row.accepted);
                state[1] = u32::from(row.similarity > 0.7 * f32::from(row.examined));
            }
        }
    }
}

pub fn reactive(plans: &[ChainPlan]) -> (Box<dyn Policy>, State) {
    let state = Arc::new(Mutex::new(vec![0; 3]));
    (Box::new(Reactive { plans: plans.to_vec(), state: state.clone() }), state)
}

/// A policy of the product. Its state is not shown, so states are alike only where all that it was
/// ever asked and told is: what it does next is a function of that.
pub struct Remembering {
    inner: Box<dyn Policy>,
    told: State,
}

pub fn remembering(config: &PolicyConfig, max_block: u32) -> (Box<dyn Policy>, State) {
    let names: Vec<String> = (0..3).map(|m| format!("toy-{m}")).collect();
    let draws = Luck::new(5).stream(Stream::Policy);
    let classes = ["all".to_owned()];
    let candidates = Candidates::all(3);
    let pool = PolicyPool { names: &names, candidates, classes: &classes, max_block, draws };
    let (inner, told) = (config.build(&pool).unwrap(), State::default());
    (Box::new(Remembering { inner, told: told.clone() }), told)
}

impl Policy for Remembering {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn needs(&self) -> Needs {
        self.inner.needs()
    }
    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        let mut told = self.told.lock().unwrap();
        for &slot in ask.starting {
            told.push(ask.request(slot).emitted());
            told.extend((0..3).map(|m| ask.request(slot).lag(ModelId(m))));
        }
        told.extend([ask.tick as u32, ask.context_tokens as u32]);
        self.inner.plan(ask, plan);
    }
    fn learn(&mut self, report: &PassReport<'_>) {
        let mut told = self.told.lock().unwrap();
        told.extend([report.tick as u32, u32::from(report.model.0), report.shape.new_tokens]);
        for pair in report.pairs {
            let (seen, models) = (&pair.seen, u32::from(pair.drafter.0) << 8 | u32::from(pair.verifier.0));
            told.extend([models, seen.drafted as u32, seen.accepted as u32, seen.rejections as u32]);
            told.extend([seen.examined as u32, (seen.similarity as f32).to_bits()]);
        }
        for row in report.rows {
            told.extend([row.slot.0, u32::from(row.drafter.0) << 8 | u32::from(row.verifier.0)]);
            told.extend([row.drafted, row.accepted, row.examined, row.committed].map(u32::from));
            told.push(row.similarity.to_bits());
        }
        self.inner.learn(report);
    }
}

/// Another chain for every sequence in every round, and probes now and then.
pub struct Switching {
    pub draws: Draws,
    pub pool: u8,
    pub probes: bool,
}

impl Switching {
    pub fn boxed(seed: u64, pool: usize) -> Box<dyn Policy> {
        let draws = Luck::new(seed).stream(Stream::Policy);
        Box::new(Self { draws, pool: pool as u8, probes: true })
    }
}

impl Policy for Switching {
    fn name(&self) -> &str {
        "switching"
    }
    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        for &slot in ask.starting {
            let view = ask.request(slot);
            let bits = self.draws.bits(view.id().0, u64::from(view.rounds()));
            let mut models: Vec<u8> = (0..self.pool - 1).filter(|m| bits >> m & 1 == 1).collect();
            models.push(self.pool - 1);
            let windows: Vec<u32> =
                (1..models.len()).map(|level| 1 + (bits >> (8 * level) & 3) as u32).collect();
            let stop = match bits >> 50 & 3 {
                0 => StopRule::TopProbabilityBelow(0.5),
                1 => StopRule::EntropyAbove(0.9),
                _ => StopRule::Never,
            };
            plan.push(super::plan(&models, &windows).stopping(stop));
            if self.probes && bits >> 40 & 3 == 0 && self.pool > 1 {
                plan.probe(Probe { slot, model: ModelId((bits >> 44) as u8 % (self.pool - 1)) });
            }
        }
    }
}
