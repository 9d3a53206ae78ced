//! Which model runs next, and the packed pass of all rows that wait for it.

use super::Replica;
use super::queues::{Waiter, in_order};
use crate::backend::{Cohort, Row, Work};
use crate::chain::StopRule;
use crate::ids::{ModelId, Slot};
use crate::sequence::Stage;

/// Positions that a probe compares.
const PROBE_WINDOW: u32 = 32;

impl Replica {
    /// The smallest model with work; but a larger one runs once its oldest row has waited long
    /// enough. Counted in passes, never in time, so both twins choose alike.
    pub(super) fn choose(&self) -> Option<ModelId> {
        let hold = u64::from(self.limits.hold_passes.unwrap_or_else(|| self.hold.longest()));
        let mut smallest = None;
        for (index, queue) in self.queues.iter().enumerate() {
            if queue.is_empty() {
                continue;
            }
            let model = ModelId(index as u8);
            let overdue = !queue.is_idle() && self.tick - queue.since >= hold
                || !queue.prefilling.is_empty() && self.tick - queue.prefill_since >= 1
                || !queue.probing.is_empty() && self.tick - queue.probe_since >= hold;
            if overdue {
                return Some(model);
            }
            // Probes alone let others go first, until they are overdue or nothing else is there.
            if smallest.is_none_or(|s: ModelId| {
                self.queues[s.index()].is_idle() && self.queues[s.index()].prefilling.is_empty()
            }) {
                smallest =
                    smallest.filter(|_| queue.is_idle() && queue.prefilling.is_empty()).or(Some(model));
            }
        }
        smallest
    }

    /// Packs the pass: cohorts, then rows that verify, prompts, probes; what does not fit the
    /// token budget waits, or runs a chunk of its catch-up.
    pub(super) fn assemble(&mut self, model: ModelId) {
        let m = model.index();
        self.pass.model = model;
        self.pass.shape = Default::default();
        self.pass.rows.clear();
        self.pass.cohort_tokens.clear();
        self.pass.busy = true;
        debug_assert!(self.pass.cohorts.is_empty(), "finish empties them");
        std::mem::swap(&mut self.pass.cohorts, &mut self.queues[m].cohorts);
        let mut budget = self.limits.token_budget;
        for cohort in &self.pass.cohorts {
            let rows = cohort.slots.len() as u32;
            let shape = &mut self.pass.shape;
            shape.rows += rows;
            shape.new_tokens += rows;
            shape.context_tokens += cohort.context_tokens;
            shape.attention_pairs += cohort.context_tokens + u64::from(rows);
            shape.logit_rows += rows;
            self.pass.cohort_tokens.push(rows);
            budget = budget.saturating_sub(rows);
        }
        let mut left = self.enter(model, &mut budget);
        left |= self.verify(model, &mut budget);
        let prefill_left = self.prefill(model, &mut budget);
        let probes_left = self.probe(model, &mut budget);
        let queue = &mut self.queues[m];
        if left {
            queue.since = self.tick + 1;
        }
        if prefill_left {
            queue.prefill_since = self.tick + 1;
        }
        if probes_left {
            queue.probe_since = self.tick + 1;
        }
        self.pass.run_length = self.run_length();
        self.pass.queued = self.waiting.len();
    }

    /// How many passes would run over the same single cohort if nothing arrived: until its window
    /// is full, or a larger model's rows have waited long enough.
    fn run_length(&self) -> u8 {
        let [cohort] = self.pass.cohorts.as_slice() else { return 1 };
        let m = self.pass.model.index();
        if self.loosened && self.waiting.len() > 0 {
            return 1;
        }
        if !self.pass.rows.is_empty() || !self.queues[m].is_empty() || cohort.plan.stop != StopRule::Never {
            return 1;
        }
        let hold = u64::from(self.limits.hold_passes.unwrap_or_else(|| self.hold.longest()));
        let mut most = u64::from(cohort.plan.windows()[0] - cohort.drafted);
        for queue in &self.queues[m + 1..] {
            if !queue.prefilling.is_empty() {
                return 1;
            }
            if !queue.probing.is_empty() {
                most = most.min((queue.probe_since + hold).saturating_sub(self.tick));
            }
            if !queue.is_idle() {
                // After n passes the oldest row has waited tick + n − since.
                most = most.min((queue.since + hold).saturating_sub(self.tick));
            }
        }
        // A smaller model's probe would have gone first.
        if self.queues[..m].iter().any(|queue| !queue.is_empty()) { 1 } else { most.max(1) as u8 }
    }

    /// Forms cohorts of the rows that begin a fill. A row whose lag does not fit runs a chunk of
    /// it and waits on. True when some wait on.
    fn enter(&mut self, model: ModelId, budget: &mut u32) -> bool {
        let mut entering = std::mem::take(&mut self.queues[model.index()].entering);
        in_order(&mut entering);
        let first_new = self.pass.cohorts.len();
        entering.retain(|&(request, slot)| {
            let sequence = &mut self.sequences[slot.index()];
            let drafted = sequence.blocks[0];
            let ahead = sequence.ahead(1) + u32::from(drafted);
            let known = sequence.committed() + ahead;
            let context = sequence.cached[model.index()];
            let catch_up = known - 1 - context;
            if catch_up + 1 > *budget && self.pass.shape.rows > 0 || catch_up + 1 > self.limits.token_budget {
                let chunk = catch_up.min(*budget);
                if chunk > 0 {
                    let row = Row {
                        slot,
                        request,
                        plan: sequence.plan,
                        catch_up: chunk,
                        context,
                        committed: sequence.output,
                        ahead,
                        work: Work::CatchUp,
                    };
                    push_row(&mut self.pass, row, budget);
                }
                return true;
            }
            *budget = budget.saturating_sub(catch_up + 1);
            self.pass.shape.add_row(catch_up + 1, catch_up, context, 1);
            sequence.stage = Stage::Drafting;
            sequence.blocks[0] = 0;
            let plan = sequence.plan;
            let fits = |c: &Cohort| c.fresh && c.drafted == drafted && c.plan == plan;
            let at = (first_new..self.pass.cohorts.len()).rev().find(|&i| fits(&self.pass.cohorts[i]));
            let at = at.unwrap_or_else(|| {
                let slots = self.spare_slots.pop().unwrap_or_default();
                self.pass.cohorts.push(Cohort { plan, drafted, slots, fresh: true, context_tokens: 0 });
                self.pass.cohort_tokens.push(0);
                self.pass.cohorts.len() - 1
            });
            let cohort = &mut self.pass.cohorts[at];
            cohort.slots.push(slot);
            cohort.context_tokens += u64::from(context);
            self.pass.cohort_tokens[at] += catch_up + 1;
            false
        });
        let left = !entering.is_empty();
        self.queues[model.index()].entering = entering;
        left
    }

    /// Rows that verify or decode plainly.
    fn verify(&mut self, model: ModelId, budget: &mut u32) -> bool {
        let mut waiting = std::mem::take(&mut self.queues[model.index()].verifying);
        in_order(&mut waiting);
        // Mostly all go; what stays moves to the front.
        let mut stay = 0;
        for index in 0..waiting.len() {
            if !self.pack_verification(model, waiting[index], budget) {
                waiting[stay] = waiting[index];
                stay += 1;
            }
        }
        waiting.truncate(stay);
        self.queues[model.index()].verifying = waiting;
        stay > 0
    }

    /// Prompts, oldest first, in chunks of what the budget leaves.
    fn prefill(&mut self, model: ModelId, budget: &mut u32) -> bool {
        if self.queues[model.index()].prefilling.is_empty() {
            return false;
        }
        let mut waiting = std::mem::take(&mut self.queues[model.index()].prefilling);
        in_order(&mut waiting);
        waiting.retain(|&waiter| *budget == 0 || !self.pack_verification(model, waiter, budget));
        let left = !waiting.is_empty();
        self.queues[model.index()].prefilling = waiting;
        left
    }

    /// Packs one verification with its catch-up, or as much of the catch-up as fits. True when the
    /// row is in whole.
    fn pack_verification(&mut self, model: ModelId, (request, slot): Waiter, budget: &mut u32) -> bool {
        let sequence = &self.sequences[slot.index()];
        let level = usize::from(sequence.level);
        let block = if level == 0 { 0 } else { sequence.blocks[level - 1] };
        let ahead = sequence.ahead(level);
        let context = sequence.cached[model.index()];
        let catch_up = sequence.committed() + ahead - 1 - context;
        let own = u32::from(block) + 1;
        let whole = Row {
            slot,
            request,
            plan: sequence.plan,
            catch_up,
            context,
            committed: sequence.output,
            ahead,
            work: Work::Verify { level: sequence.level, block },
        };
        if catch_up + own <= *budget {
            push_row(&mut self.pass, whole, budget);
            return true;
        }
        let chunk = catch_up.min(*budget);
        if chunk > 0 {
            push_row(&mut self.pass, Row { catch_up: chunk, work: Work::CatchUp, ..whole }, budget);
        }
        false
    }

    /// Probe rows with the budget that is left; a probe that cannot have memory is dropped. True when
    /// some wait on.
    fn probe(&mut self, model: ModelId, budget: &mut u32) -> bool {
        if self.queues[model.index()].probing.is_empty() {
            return false;
        }
        let mut waiting = std::mem::take(&mut self.queues[model.index()].probing);
        in_order(&mut waiting);
        waiting.retain(|&(request, slot)| {
            if *budget == 0 {
                return true;
            }
            let sequence = &mut self.sequences[slot.index()];
            let want = self.kv.blocks(sequence.committed());
            let catch_up = sequence.lag(model);
            if catch_up == 0 || !self.kv.grow(model, &mut sequence.held[model.index()], want) {
                sequence.probing &= !(1 << model.0);
                return false;
            }
            let chunk = catch_up.min(*budget);
            let whole = chunk == catch_up;
            let window = catch_up.min(PROBE_WINDOW) as u8;
            let row = Row {
                slot,
                request,
                plan: sequence.plan,
                catch_up: chunk,
                context: sequence.cached[model.index()],
                committed: sequence.output,
                ahead: 0,
                work: if whole { Work::Probe { window } } else { Work::CatchUp },
            };
            push_row(&mut self.pass, row, budget);
            !whole
        });
        let left = !waiting.is_empty();
        self.queues[model.index()].probing = waiting;
        left
    }

    pub(super) fn recycle(&mut self, mut slots: Vec<Slot>) {
        slots.clear();
        self.spare_slots.push(slots);
    }
}

#[inline]
fn push_row(pass: &mut super::CurrentPass, row: Row, budget: &mut u32) {
    let new = row.new_tokens();
    *budget = budget.saturating_sub(new);
    pass.shape.add_row(new, row.catch_up, row.context, row.logits());
    pass.rows.push(row);
}
