//! The simulator's backend: passes are priced, verdicts are drawn.

use std::convert::Infallible;
use std::sync::Arc;

use specrouter_routing::backend::{
    After, Backend, Cohort, FillEnd, Pass, PassOutcome, Row, RowOutcome, Work,
};
use specrouter_routing::chain::{ChainPlan, MAX_BLOCK, StopRule};
use specrouter_routing::ids::{ModelId, ReplicaId, Slot};
use specrouter_routing::luck::Luck;
use specrouter_routing::request::Request;

use crate::acceptance::law::{Coins, Law, Pair, Sequence, Walk};
use crate::acceptance::path::{Path, Verification, commit};
use crate::acceptance::{Source, with_law};
use crate::cost::CostModel;

/// One replica's backend: a cost model prices each pass, an acceptance source decides what is kept.
pub struct SimBackend {
    source: Arc<Source>,
    costs: Arc<CostModel>,
    replica: ReplicaId,
    contents: Contents,
}

impl SimBackend {
    /// The backend of `replica` in a run with this luck. Verdicts depend on requests alone, so every
    /// replica would give the same; prices have their own noise at each.
    pub fn new(source: Arc<Source>, costs: Arc<CostModel>, luck: Luck, replica: ReplicaId) -> Self {
        Self { source, costs, replica, contents: Contents::new(luck) }
    }
}

impl Backend for SimBackend {
    type Error = Infallible;

    fn admit(&mut self, slot: Slot, request: &Request) {
        let output = request.truth.output_tokens().max(1);
        let mut sequence =
            Sequence { request: request.id, class: request.class.0, output, ..Sequence::default() };
        with_law!(&*self.source, law => law.admit(&self.contents.coins, &mut sequence));
        self.contents.admit(slot, sequence);
    }

    fn run<P: Pass>(&mut self, pass: &P, outcome: &mut PassOutcome) -> Result<(), Infallible> {
        outcome.clear();
        let noise_key = (u64::from(self.replica.0), pass.tick());
        outcome.duration = self.costs.price(pass.model(), &pass.shape(), pass.after(), noise_key);
        let contents = &mut self.contents;
        with_law!(&*self.source, law => {
            contents.rows(law, pass.model(), pass.rows(), &mut outcome.rows);
            for (index, cohort) in pass.cohorts().iter().enumerate() {
                let row = |i| pass.draft_row(cohort, i);
                contents.drafts(law, &Fill::new(index, cohort), row, &mut outcome.fill_ends);
            }
            // Nothing is drawn for a draft, so the passes that follow are run at once, up to the first
            // in which a fill ends.
            let mut shape = pass.shape();
            for ahead in 1..pass.run_length() {
                if !outcome.fill_ends.is_empty() {
                    break;
                }
                shape = shape.draft_after();
                let (tick, cohort) = (pass.tick() + u64::from(ahead), &pass.cohorts()[0]);
                outcome.earlier.push(outcome.duration);
                outcome.duration = self.costs.price(pass.model(), &shape, After::Same, (noise_key.0, tick));
                let fill = Fill { drafted: cohort.drafted + ahead, ..Fill::new(0, cohort) };
                contents.drafts(law, &fill, |i| pass.draft_row(cohort, i), &mut outcome.fill_ends);
            }
        });
        for (index, cohort) in pass.cohorts().iter().enumerate() {
            if cohort.plan.stop != StopRule::Never {
                let row = |i| pass.draft_row(cohort, i);
                contents.confidence(&self.source, &Fill::new(index, cohort), row, &mut outcome.fill_ends);
            }
        }
        Ok(())
    }

    fn truncate(&mut self, _: Slot, _: ModelId, _: u32) {}

    fn free(&mut self, slot: Slot) {
        self.contents.free(slot);
    }
}

/// A cohort's draft pass, as much of it as verdicts need.
struct Fill<'a> {
    cohort: u32,
    plan: ChainPlan,
    drafted: u8,
    slots: &'a [Slot],
}

impl<'a> Fill<'a> {
    fn new(index: usize, cohort: &'a Cohort) -> Self {
        Self { cohort: index as u32, plan: cohort.plan, drafted: cohort.drafted, slots: &cohort.slots }
    }
}

/// A draft of the running fill that will be its sequence's stop token.
#[derive(Clone, Copy, Debug)]
struct Stop {
    slot: Slot,
    drafted: u8,
}

/// What is in a replica's sequences, by slot.
struct Contents {
    coins: Coins,
    sequences: Vec<Sequence>,
    /// Touched for chains of three levels and more only.
    paths: Vec<Path>,
    /// May a fill of the sequence's round reach its end?
    near: Vec<bool>,
    /// How many may.
    near_count: u32,
    stops: Vec<Stop>,
}

impl Contents {
    fn new(luck: Luck) -> Self {
        let (sequences, paths, near, stops) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { coins: Coins::new(luck), sequences, paths, near, near_count: 0, stops }
    }

    fn admit(&mut self, slot: Slot, sequence: Sequence) {
        let index = slot.index();
        if index >= self.sequences.len() {
            self.sequences.resize(index + 1, Sequence::default());
            self.paths.resize(index + 1, Path::default());
            self.near.resize(index + 1, false);
        }
        self.sequences[index] = sequence;
        self.paths[index] = Path::default();
        // A recomputed sequence may stand anywhere; its next commit says where.
        self.set_near(slot, true);
    }

    fn free(&mut self, slot: Slot) {
        self.set_near(slot, false);
        self.stops.retain(|stop| stop.slot != slot);
    }

    #[inline]
    fn set_near(&mut self, slot: Slot, near: bool) {
        let was = std::mem::replace(&mut self.near[slot.index()], near);
        self.near_count = self.near_count + u32::from(near) - u32::from(was);
    }

    /// One outcome for each row.
    fn rows<L: Law>(&mut self, law: &L, model: ModelId, rows: &[Row], outcomes: &mut Vec<RowOutcome>) {
        outcomes.reserve(rows.len());
        // With many replicas these are cold: read ahead, the misses overlap.
        let ahead = rows.iter().fold(0, |word, row| word ^ self.sequences[row.slot.index()].output);
        std::hint::black_box(ahead);
        for row in rows {
            outcomes.push(match row.work {
                Work::Verify { level, block } => self.verify(law, row, usize::from(level), u32::from(block)),
                Work::Probe { window } => self.probe(law, model, row, u32::from(window)),
                Work::CatchUp | Work::Draft { .. } => RowOutcome::default(),
            });
        }
    }

    #[inline]
    fn verify<L: Law>(&mut self, law: &L, row: &Row, level: usize, block: u32) -> RowOutcome {
        let sequence = &mut self.sequences[row.slot.index()];
        law.settle(&self.coins, sequence, row.committed);
        let sequence = &self.sequences[row.slot.index()];
        let walk = Walk::new(&self.coins, sequence);
        let depth = row.plan.depth();
        let start = row.committed + row.ahead;
        let remaining = sequence.output.saturating_sub(start);
        let result = if level + 1 == depth && depth <= 2 {
            let kept = match (depth, block) {
                (2, 1..) => {
                    law.prefix(walk, start, block.min(remaining), row.plan.model(0), row.plan.model(1))
                }
                _ => 0,
            };
            commit(kept, row.committed, sequence.output)
        } else if level == 0 {
            commit(0, row.committed, sequence.output) // A chain cut down to its target; the lowest level never verifies.
        } else {
            let path = &mut self.paths[row.slot.index()];
            path.verify(law, walk, &row.plan, level, (row.committed, start, block))
        };
        let Verification { accepted, emitted, ended } = result;
        // Nothing is compared behind a stop token that was kept.
        let compared = if accepted == emitted { accepted } else { accepted + 1 };
        let (examined, similarity) = match level.checked_sub(1) {
            Some(below) if block > 0 => {
                let examined = compared.min(block);
                (
                    examined,
                    law.similarities(walk, start, examined, row.plan.model(below), row.plan.model(level)),
                )
            }
            _ => (0, 0.0),
        };
        if level + 1 == depth {
            let left = sequence.output.saturating_sub(row.committed + emitted);
            self.set_near(row.slot, left <= MAX_BLOCK);
        }
        RowOutcome {
            accepted: accepted as u8,
            emitted: emitted as u8,
            ended,
            examined: examined as u8,
            similarity: similarity as f32,
        }
    }

    fn probe<L: Law>(&mut self, law: &L, model: ModelId, row: &Row, window: u32) -> RowOutcome {
        let sequence = &mut self.sequences[row.slot.index()];
        let similarity = law.probe(&self.coins, sequence, row.committed, window, model, row.plan.target());
        let examined = window.min(row.committed) as u8;
        RowOutcome { examined, similarity: similarity as f32, ..RowOutcome::default() }
    }

    /// The rows of a draft pass whose token is a stop token. The rows of a fill are looked at once, at
    /// its first token, and only those that may reach their end; later passes look at the few that will.
    fn drafts<L: Law>(
        &mut self,
        law: &L,
        fill: &Fill<'_>,
        row: impl Fn(usize) -> Row,
        ends: &mut Vec<FillEnd>,
    ) {
        if fill.drafted == 0 && !self.stops.is_empty() {
            // These rows begin another fill. (A stop stays until then: the pass it was told for may be
            // cut off by an arrival and run again.)
            self.stops.retain(|stop| !fill.slots.contains(&stop.slot));
        }
        if fill.drafted == 0 && self.near_count > 0 {
            for (index, &slot) in fill.slots.iter().enumerate() {
                if self.near[slot.index()] {
                    self.look_ahead(law, fill, &row(index));
                }
            }
        }
        if self.stops.is_empty() {
            return;
        }
        let first = ends.len();
        let cohort = fill.cohort;
        for stop in self.stops.iter().filter(|stop| stop.drafted == fill.drafted) {
            let index = fill.slots.iter().position(|&slot| slot == stop.slot);
            ends.extend(index.map(|row| FillEnd { cohort, row: row as u32, stop_token: true }));
        }
        ends[first..].sort_unstable_by_key(|end| end.row);
    }

    /// Remembers which draft of the row's fill, if any, is its stop token.
    fn look_ahead<L: Law>(&mut self, law: &L, fill: &Fill<'_>, row: &Row) {
        let index = row.slot.index();
        let Some(&window) = fill.plan.windows().first() else { return };
        let (head, last) = (row.committed + row.ahead, self.sequences[index].output - 1);
        let Some(reach) = last.checked_sub(head).filter(|&reach| reach < u32::from(window)) else { return };
        law.settle(&self.coins, &mut self.sequences[index], row.committed);
        let walk = Walk::new(&self.coins, &self.sequences[index]);
        if self.paths[index].stands_until(law, walk, &fill.plan, row.committed, (head, last)) {
            self.stops.push(Stop { slot: row.slot, drafted: reach as u8 });
        }
    }

    /// The rows of a draft pass whose token the plan's stop rule ends the fill with: keep, then stop.
    fn confidence(
        &mut self,
        source: &Source,
        fill: &Fill<'_>,
        row: impl Fn(usize) -> Row,
        ends: &mut Vec<FillEnd>,
    ) {
        if fill.plan.depth() < 2 {
            return;
        }
        let cohort = fill.cohort;
        let stops = ends.iter().filter(|end| end.cohort == cohort).map(|end| end.row).collect::<Vec<_>>();
        let pair = Pair {
            drafter: fill.plan.model(0),
            verifier: fill.plan.model(1),
            depth: u32::from(fill.drafted),
        };
        for index in 0..fill.slots.len() {
            let row = row(index);
            let position = row.committed + row.ahead;
            let signal = source.signal(&self.coins, &self.sequences[row.slot.index()], position, pair);
            let stop = match fill.plan.stop {
                StopRule::Never => false,
                StopRule::TopProbabilityBelow(threshold) => signal.top_probability < threshold,
                StopRule::EntropyAbove(threshold) => signal.entropy > threshold,
            };
            if stop && !stops.contains(&(index as u32)) {
                ends.push(FillEnd { cohort, row: index as u32, stop_token: false });
            }
        }
        ends.sort_unstable_by_key(|end| (end.cohort, end.row));
    }
}

#[cfg(test)]
mod tests;
