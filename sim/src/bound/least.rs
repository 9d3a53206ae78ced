//! The least that an output costs, over all chains and over windows chosen at every fill: dynamic
//! programming over output positions.
//!
//! Let a *cycle* of model k at position z be one of its verifications below the target: it emits the
//! tokens z .. z + d + 1, of which the level below drafted d. A set of models S, its largest the top,
//! is a chain's part below its next verifier, and
//!
//! ```text
//! make_S(a, y): least to have S write the tokens a .. y of the committed text
//!     one model:  Σ of single-token passes
//!     S' below k: shortest way from a to y by cycles (z, d), each
//!                 make_S'(z, z + d) + pass_k(d + 1)  if k keeps S'’s top for d tokens from z, d >= 1
//!                 waste_S'(z) + pass_k(2)            for d = 0: the fill must ask for one token
//! to_go(n) = 0
//! to_go(a) = min( pass_T(1) + to_go(a + 1),
//!                 min over S, d: make_S(a, a + d) + pass_T(d + 1) + to_go(a + d + 1) )
//! ```
//!
//! **Why nothing is cheaper.** Take any round of any run and cut every block to the part that the
//! target committed. The target's pass held its row of at least as many tokens as it emitted. The
//! tokens it kept were emitted by cycles of the level below, in order; the last may be cut, and then
//! its last token, though drafted, is counted as its own: the pass was no smaller and the level below
//! drafted no fewer. The same holds for the cycles of every level below. Depths in blocks do not change,
//! since every block keeps its beginning. So if `pass_k(n)` never exceeds the price of a pass with a row
//! of k of at least n tokens there, the round costs no less than its term here. Passes of one sequence
//! never overlap, and whatever else a run has (off-path drafts, catch-up, waiting) only adds.
//!
//! Blocks with tokens that will be rejected are never needed: the verifier's own token stands in their
//! place. Stop tokens need no case of their own: a block up to and with a kept stop token costs no less
//! than a block one shorter, whose bonus is the stop token.

use specrouter_routing::chain::MAX_LEVELS;

use super::verdicts::Verdicts;

/// Tables of one request; the buffers are reused from request to request.
///
/// Costs are whole numbers of any unit, so sums are exact.
#[derive(Clone, Debug, Default)]
pub(crate) struct Least {
    /// Most tokens of a block.
    most: usize,
    /// `[model · tokens + position][own tokens]`.
    passes: Vec<u64>,
    /// By set of models below the target, as a bit mask.
    sets: Vec<Set>,
    /// By position: the least from there to the end.
    to_go: Vec<u64>,
    cycles: Vec<u64>,
}

/// A chain's part below some verifier.
#[derive(Clone, Debug, Default)]
struct Set {
    /// `[position][tokens]`: the least to write so many tokens from there.
    make: Vec<u64>,
    /// By position: the least that a fill of one token costs, wherever it leads.
    waste: Vec<u64>,
}

const NEVER: u64 = u64::MAX / 4;

impl Least {
    /// Prices all blocks of at most `most` tokens. `pass(model, position, prices)` writes the price of
    /// a pass of `model` whose row begins at output `position` with 1, 2, … own tokens into
    /// `prices[1..]`; more tokens must not be cheaper.
    pub fn make(&mut self, verdicts: &Verdicts, most: usize, mut pass: impl FnMut(usize, usize, &mut [u64])) {
        let (models, tokens) = (verdicts.models(), verdicts.tokens());
        let width = most + 2;
        self.most = most;
        self.passes.clear();
        self.passes.resize(models * tokens * width, 0);
        for (row, prices) in self.passes.chunks_exact_mut(width).enumerate() {
            let (model, position) = (row / tokens, row % tokens);
            if position > 0 {
                // No block is longer than what the verifier keeps of it, a wasted token aside.
                let block = (0..model).map(|below| verdicts.run(below, model, position)).max().unwrap_or(0);
                pass(model, position, &mut prices[..=block.max(1) + 1]);
            }
        }
        self.sets.resize_with(1 << (models - 1), Set::default);
        for mask in 1..self.sets.len() {
            if self.allowed(mask) {
                self.make_set(verdicts, mask);
            }
        }
    }

    fn allowed(&self, mask: usize) -> bool {
        let levels = mask.count_ones() as usize;
        levels < MAX_LEVELS && levels <= self.most
    }

    fn prices(&self, tokens: usize, model: usize, position: usize) -> &[u64] {
        let width = self.most + 2;
        &self.passes[(model * tokens + position) * width..][..width]
    }

    fn make_set(&mut self, verdicts: &Verdicts, mask: usize) {
        let (models, tokens, width) = (verdicts.models(), verdicts.tokens(), self.most + 1);
        let top = mask.ilog2() as usize;
        let below = mask & !(1 << top);
        let mut set = std::mem::take(&mut self.sets[mask]);
        let mut cycles = std::mem::take(&mut self.cycles);
        for table in [&mut set.make, &mut cycles] {
            table.clear();
            table.resize(tokens * width, NEVER);
        }
        set.waste.clear();
        set.waste.resize(tokens, 0);
        // `cycles[z][d]`: one pass of the top with the fill below it; it emits d + 1 tokens.
        let drafted = |z| match below {
            0 => 0,
            // The windows above, one or more of them, take a token each of the block limit.
            _ => verdicts.run(below.ilog2() as usize, top, z).min(self.most - 1),
        };
        for z in 1..tokens {
            let prices = self.prices(tokens, top, z);
            let cycle = &mut cycles[z * width..][..width];
            if below == 0 {
                cycle[0] = prices[1];
            } else {
                let lower = &self.sets[below];
                cycle[0] = lower.waste[z] + prices[2];
                for d in 1..=drafted(z) {
                    cycle[d] = lower.make[z * width + d] + prices[d + 1];
                }
            }
            set.waste[z] = cycle[0];
        }
        for a in 1..tokens {
            let reach = (top + 1..models).map(|v| verdicts.run(top, v, a)).max().unwrap_or(0);
            let make = &mut set.make[a * width..][..width];
            make[0] = 0;
            for done in 0..reach {
                let most = drafted(a + done).min(reach - done - 1);
                let cycle = &cycles[(a + done) * width..][..=most];
                let so_far = make[done];
                for (emitted, &cost) in make[done + 1..].iter_mut().zip(cycle) {
                    *emitted = (*emitted).min(so_far + cost);
                }
            }
        }
        self.cycles = cycles;
        self.sets[mask] = set;
    }

    /// The least from every position to the end of the output, over chains of the target and models of
    /// `allowed`, a bit mask; `[position]`, the first token (position 0) not counted.
    pub fn rest(&mut self, verdicts: &Verdicts, allowed: usize) -> &[u64] {
        let (models, tokens, width) = (verdicts.models(), verdicts.tokens(), self.most + 1);
        let mut to_go = std::mem::take(&mut self.to_go);
        to_go.clear();
        to_go.resize(tokens + 1, 0);
        for a in (1..tokens).rev() {
            let prices = self.prices(tokens, models - 1, a);
            let mut best = prices[1] + to_go[a + 1];
            for mask in (1..self.sets.len()).filter(|mask| mask & !allowed == 0 && self.allowed(*mask)) {
                let run = verdicts.run(mask.ilog2() as usize, models - 1, a);
                let make = &self.sets[mask].make[a * width..][..width];
                for d in 1..=run {
                    best = best.min(make[d] + prices[d + 1] + to_go[a + d + 1]);
                }
            }
            to_go[a] = best;
        }
        self.to_go = to_go;
        &self.to_go
    }
}
