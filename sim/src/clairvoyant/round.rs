//! One round of one sequence, played through before it is run.

use specrouter_routing::chain::{ChainPlan, MAX_LEVELS};
use specrouter_routing::ids::ModelId;

use crate::acceptance::law::{Coins, Law, Sequence, Walk};
use crate::acceptance::path::Path;
use crate::bound::Verdicts;

/// A round of a plan, with the luck it will meet.
pub(super) struct Round<'a, L: Law> {
    law: &'a L,
    walk: Walk<'a>,
    plan: &'a ChainPlan,
    /// `[model][own tokens]`.
    passes: &'a [Vec<u64>],
    committed: u32,
    path: Path,
    nanos: u64,
}

impl<'a, L: Law> Round<'a, L> {
    /// The round that begins at `committed` output tokens, where `sequence` is settled.
    pub fn new(
        law: &'a L,
        coins: &'a Coins,
        sequence: &'a Sequence,
        plan: &'a ChainPlan,
        passes: &'a [Vec<u64>],
        committed: u32,
    ) -> Self {
        let (walk, path) = (Walk::new(coins, sequence), Path::default());
        Self { law, walk, plan, passes, committed, path, nanos: 0 }
    }

    /// Time of all passes so far.
    pub fn nanos(&self) -> u64 {
        self.nanos
    }

    /// Plays it; answers how many tokens it commits.
    pub fn play(&mut self) -> usize {
        let top = self.plan.depth() - 1;
        let (block, _) = if top == 0 { (0, false) } else { self.fill(top - 1, self.committed) };
        self.verify(top, self.committed, block).0 as usize
    }

    /// A fill by `level` that begins at output position `start`: its tokens, and whether the last is a
    /// stop token.
    fn fill(&mut self, level: usize, start: u32) -> (u32, bool) {
        let window = u32::from(self.plan.windows()[level]);
        if level == 0 {
            let last = self.walk.sequence.output - 1;
            let ends = last.checked_sub(start).filter(|&reach| reach < window).filter(|_| {
                self.path.stands_until(self.law, self.walk, self.plan, self.committed, (start, last))
            });
            let tokens = ends.map_or(window, |reach| reach + 1);
            self.nanos += u64::from(tokens) * self.price(0, 1);
            return (tokens, ends.is_some());
        }
        let (mut tokens, mut ended) = (0, false);
        while tokens < window && !ended {
            let (block, _) = self.fill(level - 1, start + tokens);
            let (emitted, end) = self.verify(level, start + tokens, block);
            (tokens, ended) = (tokens + emitted, end);
        }
        (tokens, ended)
    }

    fn verify(&mut self, level: usize, start: u32, block: u32) -> (u32, bool) {
        self.nanos += self.price(level, block as usize + 1);
        if self.plan.depth() == 1 {
            return (1, false);
        }
        let made = (self.committed, start, block);
        let v = self.path.verify(self.law, self.walk, self.plan, level, made);
        (v.emitted, v.ended)
    }

    fn price(&self, level: usize, own: usize) -> u64 {
        self.passes[self.plan.model(level).index()][own]
    }
}

/// Plans with two levels or more over models of `set`, a bit mask, that may be worth a round from
/// `position`: no window beyond what its verifier keeps anywhere in the round.
pub(super) fn useful_plans(
    verdicts: &Verdicts,
    set: usize,
    position: usize,
    max_block: u32,
    plans: &mut Vec<ChainPlan>,
) {
    let target = verdicts.models() - 1;
    for mask in (1..1usize << target).filter(|mask| mask & !set == 0) {
        let levels: Vec<usize> = (0..target).filter(|m| mask >> m & 1 == 1).chain([target]).collect();
        let block = verdicts.run(levels[levels.len() - 2], target, position);
        if block == 0 || levels.len() > MAX_LEVELS {
            continue; // Its first draft would be in vain.
        }
        // The most of each window, lowest first.
        let most: Vec<u32> = levels
            .windows(2)
            .map(|pair| {
                let there = position..if pair[1] == target { position + 1 } else { position + block };
                there.map(|z| verdicts.run(pair[0], pair[1], z)).max().unwrap_or(0).max(1) as u32
            })
            .collect();
        let chain: Vec<ModelId> = levels.iter().map(|&m| ModelId(m as u8)).collect();
        let mut windows = vec![1; most.len()];
        loop {
            if windows.iter().sum::<u32>() <= max_block {
                plans.extend(ChainPlan::new(&chain, &windows));
            }
            let Some(at) = (0..windows.len()).rev().find(|&i| windows[i] < most[i]) else { break };
            // Singly up to 8, then in steps of a quarter; the longest is always among them.
            windows[at] = (windows[at] + (windows[at] / 4).max(1)).min(most[at]);
            windows[at + 1..].fill(1);
        }
    }
}
