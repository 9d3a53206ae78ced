//! Looks at pairs that have not been seen for long.

use super::lead::Lead;
use super::{ChainRouter, Load, catch_up};
use crate::chain::ChainPlan;
use crate::ids::{ModelId, RequestId, Slot};
use crate::policy::{Ask, Plan, Planned, Probe};
use crate::profile::{PassCosts, PassShape};

/// Looks that promise nothing double the time to the next, up to this factor; those that do halve it.
const MOST_PATIENCE: u64 = 64;
/// A look must promise this share to be taken.
const PROMISE: f64 = 0.01;
/// Where a sequence runs alone, a look after a long wait takes the most hopeful of several draws, at most so many: a
/// trial adds no passes there, and a chain that one unlucky look ruled out would stay out for long.
const DRAWS_ALONE: u64 = 4;
/// Rounds that one sequence tries a chain.
const TRIAL: u64 = 4;
/// Share of the time that passes added by looks may take.
const SHARE: f64 = 0.003;

/// When to look at stale pairs.
pub(super) struct Looks {
    every: u64,
    next: u64,
    patience: u64,
    trial: Option<Trial>,
}

/// One sequence runs a hoped chain for a while.
#[derive(Clone, Copy)]
struct Trial {
    slot: Slot,
    request: RequestId,
    planned: Planned,
    /// The round that it ends before.
    until: u64,
}

impl Looks {
    /// The first look after `every` rounds, and looks that find something as far apart.
    pub const fn new(every: u64) -> Self {
        Self { every, next: every, patience: 1, trial: None }
    }

    /// The world has moved: look around again soon.
    pub fn wake(&mut self, round: u64) {
        self.patience = 1;
        self.next = self.next.min(round + self.every);
    }
}

impl ChainRouter {
    /// Looks at one stale pair if what may be found there would change the lead: a pair with the target by a probe, a
    /// pair below it by letting one sequence run the chain for a while. The dearer a look, the longer until the next.
    pub(super) fn look(&mut self, ask: &Ask<'_>, load: Load, lead: &Lead, plan: &mut Plan) {
        if let Some(trial) = self.looks.trial.filter(|trial| self.rounds < trial.until) {
            let runs = |slot: &Slot| *slot == trial.slot && ask.request(*slot).id() == trial.request;
            if let Some(index) = ask.starting.iter().position(runs) {
                plan.replace(index, ask.starting.len(), trial.planned);
            }
            return;
        }
        self.looks.trial = None;
        if self.rounds < self.looks.next {
            return;
        }
        self.looks.next = self.rounds + self.looks.every * self.looks.patience;
        let draws = if load.rows == 1 { self.looks.patience.min(DRAWS_ALONE) } else { 1 };
        let hoped = self.leads.hoped(ask, &self.beliefs, &self.lengths, (self.rounds, draws));
        let age = |pair: &[ModelId]| self.beliefs.age(pair[0], pair[1], self.rounds).unwrap_or(u64::MAX);
        let stale = |pair: &&[ModelId]| age(pair) > self.looks.every;
        // The one not seen for longest; of several never seen, the target's.
        let pair = match hoped.price < lead.price * (1.0 - PROMISE) {
            true => hoped.chain().models().windows(2).filter(stale).max_by_key(|pair| age(pair)),
            false => None,
        };
        let Some(pair) = pair else {
            self.looks.patience = (2 * self.looks.patience).min(MOST_PATIENCE);
            return;
        };
        self.looks.patience = (self.looks.patience / 2).max(1);
        let (drafter, verifier) = (pair[0], pair[1]);
        let lag = |slot: &&Slot| ask.request(**slot).lag(drafter);
        let shortest = ask.starting.iter().filter(|slot| lag(slot) > 0).min_by_key(lag);
        let cost = match shortest {
            Some(&slot) if verifier == self.candidates.target() => {
                plan.probe(Probe { slot, model: drafter });
                catch_up(ask, Load { rows: 1, ..load }, slot, drafter)
            }
            // Only a verification can tell.
            _ => {
                let slot = ask.starting[0];
                let (request, until) = (ask.request(slot).id(), self.rounds + TRIAL);
                plan.replace(0, ask.starting.len(), hoped.planned);
                self.looks.trial = Some(Trial { slot, request, planned: hoped.planned, until });
                trial_seconds(ask, load, slot, hoped.chain(), lead)
            }
        };
        let round = lead.planned.predicted.map_or(f64::INFINITY, |seen| f64::from(seen.round_seconds));
        self.looks.next = self.looks.next.max(self.rounds + (cost / round / SHARE) as u64);
    }
}

/// What a trial costs the batch beyond its lead: the tokens that its models lack, and passes for one sequence alone,
/// in seconds. That the chain may be slower than the lead is not counted.
fn trial_seconds(ask: &Ask<'_>, load: Load, slot: Slot, chain: &ChainPlan, lead: &Lead) -> f64 {
    let lower = chain.models()[..chain.depth() - 1].iter().enumerate();
    let seconds = lower.map(|(level, &model)| {
        let passes = if level == 0 { u32::from(chain.windows()[0]) } else { 1 };
        let alone = load.rows > 1 && !lead.chain().models().contains(&model);
        let rounds = if alone { TRIAL as f64 } else { 0.0 };
        let pass = ask.costs.seconds(model, &PassShape::uniform(1, 1, load.context));
        catch_up(ask, Load { rows: 1, ..load }, slot, model) + rounds * f64::from(passes) * pass
    });
    seconds.sum()
}
