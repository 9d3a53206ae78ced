//! When KV memory is short: caches of models that nobody's chain uses, then the youngest request.

use super::Replica;
use crate::backend::Backend;
use crate::ids::{ModelId, Slot};
use crate::sequence::Stage;

impl Replica {
    /// Frees blocks of a draft `model` until `slot` could hold `want` of them: first caches of
    /// sequences whose present chain does not use the model (all of them, when no running chain
    /// does), then of sequences between rounds; youngest request first. False when that is not
    /// enough; then the plan is shortened.
    pub(super) fn reclaim<B: Backend>(
        &mut self,
        model: ModelId,
        slot: Slot,
        want: u32,
        backend: &mut B,
    ) -> bool {
        let missing = |replica: &Self| {
            want - replica.sequences[slot.index()].held[model.index()] > replica.kv.free(model)
        };
        let mut holders: Vec<Slot> = (0..self.sequences.len() as u32)
            .map(Slot)
            .filter(|&other| {
                let s = &self.sequences[other.index()];
                let between = s.stage == Stage::Starting || !s.plan.uses(model);
                other != slot && s.held[model.index()] > 0 && between
            })
            .collect();
        // Taken from the end: first those that do not use it, then those between rounds.
        holders.sort_unstable_by_key(|s| {
            let s = &self.sequences[s.index()];
            (!s.plan.uses(model), s.request)
        });
        while missing(self) {
            let Some(youngest) = holders.pop() else { return false };
            self.drop_cache(youngest, model, backend);
        }
        true
    }

    fn drop_cache<B: Backend>(&mut self, slot: Slot, model: ModelId, backend: &mut B) {
        self.loosened = true;
        let sequence = &mut self.sequences[slot.index()];
        sequence.cached[model.index()] = 0;
        self.kv.release(model, &mut sequence.held[model.index()]);
        backend.truncate(slot, model, 0);
    }

    /// Preempts the youngest requests until the target's blocks for `slot` are free. False when
    /// `slot` itself was the youngest: it is preempted then.
    pub(super) fn preempt_for<B: Backend>(&mut self, slot: Slot, want: u32, backend: &mut B) -> bool {
        loop {
            if self.kv.grow(self.target, &mut self.sequences[slot.index()].held[self.target.index()], want) {
                return true;
            }
            let running =
                |s: &Slot| !matches!(self.sequences[s.index()].stage, Stage::Free | Stage::Preempted);
            let youngest = (0..self.sequences.len() as u32)
                .map(Slot)
                .filter(running)
                .max_by_key(|s| self.sequences[s.index()].request);
            let victim = youngest.unwrap_or(slot);
            self.preempt(victim, backend);
            if victim == slot {
                return false;
            }
        }
    }

    /// Takes a sequence off the replica. It keeps its text and, in mid-round, its pending blocks:
    /// abandoning a block for what was drawn in it would bias the text.
    pub(super) fn preempt<B: Backend>(&mut self, slot: Slot, backend: &mut B) {
        let pool = self.queues.len();
        let stage = self.sequences[slot.index()].stage;
        if stage != Stage::Starting {
            let s = &self.sequences[slot.index()];
            let (waits_for, before) = (s.plan.model(usize::from(s.level)), s.committed() + s.ahead(1));
            if let Some(drafted) = self.queues[waits_for.index()].remove(slot, before) {
                self.sequences[slot.index()].blocks[0] = drafted;
            }
        }
        for model in 0..pool {
            let id = ModelId(model as u8);
            if self.sequences[slot.index()].probing & (1 << model) != 0 {
                self.queues[model].remove_probe(slot);
            }
            self.drop_cache(slot, id, backend);
        }
        let sequence = &mut self.sequences[slot.index()];
        sequence.probing = 0;
        self.cold[slot.index()].preemptions += 1;
        // What it will wait for when it comes back: a plan if it was between rounds.
        sequence.level = if stage == Stage::Starting { u8::MAX } else { sequence.level };
        let (request, started, context, plan) =
            (sequence.request, sequence.output > 0, sequence.committed(), sequence.plan);
        sequence.stage = Stage::Preempted;
        if !matches!(stage, Stage::Starting | Stage::Prefilling) {
            self.hold.remove(&plan);
        }
        self.running -= 1;
        self.decoding -= u32::from(started);
        self.context_tokens -= u64::from(context);
        self.tally.preemptions += 1;
        self.waiting.push_resumable(request, slot);
    }

    /// Lets a preempted sequence back in if the blocks for all it needs are free: at every level
    /// of its round, or at the target between rounds.
    pub(super) fn resume(&mut self, slot: Slot) -> bool {
        let sequence = &self.sequences[slot.index()];
        let (plan, between) = (sequence.plan, sequence.level == u8::MAX);
        let tokens = sequence.committed() + 1 + if between { 0 } else { plan.block() };
        let want = self.kv.blocks(tokens);
        let needed = if between { &plan.models()[plan.depth() - 1..] } else { plan.models() };
        if needed.iter().any(|&model| want > self.kv.free(model)) {
            return false;
        }
        for &model in needed {
            let grown = self.kv.grow(model, &mut self.sequences[slot.index()].held[model.index()], want);
            debug_assert!(grown, "a preempted sequence holds nothing and room was checked");
        }
        let sequence = &mut self.sequences[slot.index()];
        let (request, level, context) = (sequence.request, usize::from(sequence.level), sequence.committed());
        self.running += 1;
        self.decoding += u32::from(sequence.output > 0);
        self.context_tokens += u64::from(context);
        if between {
            sequence.stage = Stage::Starting;
            sequence.level = 0;
            self.starting.push(slot);
            return true;
        }
        let prefill = sequence.output == 0;
        if prefill {
            self.sequences[slot.index()].stage = Stage::Prefilling;
            self.queues[self.target.index()].push_prefilling(request, slot, self.tick);
            return true;
        }
        self.hold.add(&plan);
        if level == 0 && plan.depth() > 1 {
            self.await_draft(slot); // Resumes its fill: blocks[0] tokens are there already.
        } else {
            self.await_verification(slot, level);
        }
        true
    }
}
