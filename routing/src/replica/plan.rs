//! Asking the policy, checking its answer, and giving every starting sequence a plan that fits.

use super::{Replica, ReplicaError};
use crate::backend::Backend;
use crate::chain::ChainPlan;
use crate::ids::Slot;
use crate::policy::{Ask, PlanError, Planned};
use crate::record::{DecisionRecord, Sink, Wants};
use crate::sequence::Stage;
use crate::units::Time;

impl Replica {
    /// Plans every sequence that starts a round now.
    pub(super) fn plan_starting<B: Backend, S: Sink + ?Sized>(
        &mut self,
        now: Time,
        backend: &mut B,
        sink: &mut S,
    ) -> Result<(), ReplicaError> {
        let sequences = &self.sequences;
        if !self.starting.is_sorted_by_key(|s| sequences[s.index()].request) {
            self.starting.sort_unstable_by_key(|s| sequences[s.index()].request);
        }
        self.ask(now)?;
        let Wants { decisions, rounds, .. } = self.wants(sink);
        let starting = std::mem::take(&mut self.starting);
        let mut checked: Option<ChainPlan> = None;
        let (mut mask, mut in_mask) = (0u8, 0u64);
        for (index, &slot) in starting.iter().enumerate() {
            // Preempted by an older sequence's need while this list was worked through.
            if self.sequences[slot.index()].stage != Stage::Starting {
                continue;
            }
            let planned = self.plan.get(index);
            if checked != Some(planned.chain) {
                self.check(slot, &planned.chain)?;
                checked = Some(planned.chain);
            }
            let Some(executed) = self.reserve(slot, planned.chain, backend) else {
                continue; // Preempted itself: nothing younger was left to take memory from.
            };
            self.hold.add(&executed);
            let models = executed.models().iter().fold(0u8, |set, model| set | 1 << model.0);
            if models != mask {
                self.count_chains(now, mask, in_mask);
                (mask, in_mask) = (models, 0);
            }
            in_mask += 1;
            let sequence = &mut self.sequences[slot.index()];
            sequence.plan = executed;
            if rounds {
                self.cold[slot.index()].round_tick = self.tick;
            }
            if sequence.probing & models != 0 {
                self.drop_probes(slot, models);
            }
            self.enter_round(slot);
            if decisions {
                self.record_decision(now, slot, planned, executed, sink);
            }
        }
        self.count_chains(now, mask, in_mask);
        self.start_probes(&starting)?;
        let mut starting = starting;
        starting.clear();
        // Sequences preempted and resumed meanwhile would stand here; none can before the next tick.
        debug_assert!(self.starting.is_empty());
        self.starting = starting;
        Ok(())
    }

    fn ask(&mut self, now: Time) -> Result<(), ReplicaError> {
        self.plan.clear();
        let ask = Ask {
            replica: self.id,
            now,
            tick: self.tick,
            starting: &self.starting,
            running: self.running,
            decoding: self.decoding,
            queued: self.waiting.len(),
            context_tokens: self.context_tokens,
            kv: &self.kv,
            costs: &self.costs,
            evidence: &self.evidence,
            limits: &self.limits,
            sequences: &self.sequences,
            cold: &self.cold,
        };
        self.policy.plan(&ask, &mut self.plan);
        self.tally.decisions += 1;
        if self.plan.all.is_none() && self.plan.rows.len() != self.starting.len() {
            let policy = self.policy.name().to_owned();
            return Err(PlanError::Count {
                policy,
                starting: self.starting.len(),
                planned: self.plan.rows.len(),
            }
            .into());
        }
        Ok(())
    }

    fn check(&self, slot: Slot, chain: &ChainPlan) -> Result<(), PlanError> {
        chain.check(self.queues.len(), self.limits.max_block).map_err(|source| PlanError::Chain {
            policy: self.policy.name().to_owned(),
            request: self.sequences[slot.index()].request,
            source,
        })
    }

    /// Clamps the plan to what remains of the output and reserves Σ windows + 1 positions at every
    /// level. Where memory is short the *plan* gets a shorter chain, before anything is drawn.
    fn reserve<B: Backend>(&mut self, slot: Slot, chain: ChainPlan, backend: &mut B) -> Option<ChainPlan> {
        let sequence = &self.sequences[slot.index()];
        let remaining = sequence.remaining();
        let mut plan = if remaining > chain.block() { chain } else { chain.clamped(remaining) };
        loop {
            let want = self.kv.blocks(self.sequences[slot.index()].committed() + plan.block() + 1);
            let mut fits = true;
            for level in 0..plan.depth() - 1 {
                let model = plan.model(level);
                fits = self.kv.grow(model, &mut self.sequences[slot.index()].held[model.index()], want)
                    || (self.reclaim(model, slot, want, backend)
                        && self.kv.grow(model, &mut self.sequences[slot.index()].held[model.index()], want));
                if !fits {
                    break;
                }
            }
            // The target last: what is taken for it is taken from requests, not from drafts.
            fits = fits && {
                let held = &mut self.sequences[slot.index()].held[self.target.index()];
                self.kv.grow(self.target, held, want)
                    || plan.depth() == 1 && self.preempt_for(slot, want, backend)
            };
            if fits {
                return Some(plan);
            }
            if self.sequences[slot.index()].stage == Stage::Preempted {
                return None;
            }
            self.tally.shortened_plans += 1;
            plan = plan.shorter()?;
        }
    }

    /// Sends a planned sequence to its first pass.
    #[inline]
    pub(super) fn enter_round(&mut self, slot: Slot) {
        let sequence = &mut self.sequences[slot.index()];
        sequence.blocks = Default::default();
        sequence.ended = false;
        if sequence.plan.depth() == 1 {
            self.await_verification(slot, 0);
        } else {
            self.await_draft(slot);
        }
    }

    /// The sequence waits for the pass of `level`.
    #[inline]
    pub(super) fn await_verification(&mut self, slot: Slot, level: usize) {
        let sequence = &mut self.sequences[slot.index()];
        sequence.stage = Stage::Verifying;
        sequence.level = level as u8;
        let model = sequence.plan.model(level);
        self.queues[model.index()].push_verifying(sequence.request, slot, self.tick);
    }

    /// The sequence waits to begin a fill at the lowest level.
    #[inline]
    pub(super) fn await_draft(&mut self, slot: Slot) {
        let sequence = &mut self.sequences[slot.index()];
        sequence.stage = Stage::Entering;
        sequence.level = 0;
        let model = sequence.plan.model(0);
        self.queues[model.index()].push_entering(sequence.request, slot, self.tick);
    }

    fn count_chains(&mut self, now: Time, mask: u8, rounds: u64) {
        if rounds > 0 {
            *self.tally.series.at(now).chains.entry(mask).or_default() += rounds;
        }
    }

    fn drop_probes(&mut self, slot: Slot, models: u8) {
        for model in 0..self.queues.len() {
            if models & self.sequences[slot.index()].probing & (1 << model) != 0 {
                self.queues[model].remove_probe(slot);
            }
        }
        self.sequences[slot.index()].probing &= !models;
    }

    fn start_probes(&mut self, starting: &[Slot]) -> Result<(), PlanError> {
        for probe in std::mem::take(&mut self.plan.probes) {
            let known = starting.contains(&probe.slot) && probe.model < self.target;
            if !known {
                let policy = self.policy.name().to_owned();
                return Err(PlanError::Probe { policy, model: probe.model, slot: probe.slot });
            }
            let sequence = &mut self.sequences[probe.slot.index()];
            let bit = 1u8 << probe.model.0;
            let busy =
                matches!(sequence.stage, Stage::Preempted | Stage::Free) || sequence.plan.uses(probe.model);
            // With nothing to catch up on there is nothing to compare.
            if busy || sequence.probing & bit != 0 || sequence.lag(probe.model) == 0 {
                continue;
            }
            sequence.probing |= bit;
            self.queues[probe.model.index()].push_probing(sequence.request, probe.slot, self.tick);
        }
        Ok(())
    }

    fn record_decision<S: Sink + ?Sized>(
        &self,
        now: Time,
        slot: Slot,
        planned: Planned,
        executed: ChainPlan,
        sink: &mut S,
    ) {
        sink.decision(&DecisionRecord {
            replica: self.id,
            tick: self.tick,
            time: now,
            request: self.sequences[slot.index()].request,
            planned: planned.chain,
            executed,
            predicted: planned.predicted,
        });
    }
}
