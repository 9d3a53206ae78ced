//! The least that a pass with a certain row takes, whatever else is in it.

use specrouter_routing::ids::ModelId;
use specrouter_routing::profile::{PassCosts, PassShape};

/// Prices and the passes that can be.
#[derive(Clone, Copy)]
pub(super) struct Passes<'a> {
    pub costs: &'a dyn PassCosts,
    /// More tokens over the same rows may take less.
    pub falling: bool,
    /// Most rows of a pass.
    pub rows: u32,
    /// Most tokens of a pass.
    pub tokens: u32,
}

/// One row: what it asks of a pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowOf {
    pub model: usize,
    /// Own tokens: those after the catch-up.
    pub own: u32,
    /// Known tokens before them, cached or caught up in the same pass.
    pub known: u32,
    /// Positions with logits.
    pub logits: u32,
}

impl Passes<'_> {
    /// The least over supersets of `row`: up to `rows` rows, up to `tokens` tokens. In nanoseconds,
    /// rounded as prices are.
    ///
    /// Prices do not fall in contexts, pairs and logits, nor (unless `falling`) in tokens at the same
    /// number of rows. So other rows are taken with one token, no context, no logits; what may be had for
    /// less is fewer cached tokens against more new ones (catch-up in the same pass), and, in a table
    /// over means per row, more rows. Ranges of either are priced at their cheap ends.
    pub fn least(&self, row: RowOf) -> u64 {
        let RowOf { own, known, .. } = row;
        let pairs = u64::from(own) * u64::from(known) + u64::from(own) * (u64::from(own) + 1) / 2;
        let mut best = u64::MAX;
        let mut rows = 1;
        while rows <= self.rows && own + rows - 1 <= self.tokens {
            let last = if self.falling { rows } else { rows + rows / 64 }; // Singly up to 64.
            let mut more = 0;
            while own + rows - 1 + more <= self.tokens && (self.falling || more <= known) {
                let most = if self.falling || more == 0 { more } else { 2 * more - 1 };
                // Among the tokens more, catch-up: at least `more` of it when prices do not fall.
                let (caught, m) = (u64::from(known.saturating_sub(most)), u64::from(more));
                let catch_up = if self.falling { 0 } else { m * (u64::from(known) - m) + m * (m + 1) / 2 };
                let scale = |value: u64| value * u64::from(rows) / u64::from(last);
                let shape = PassShape {
                    rows,
                    new_tokens: scale(u64::from(own + rows - 1 + more)) as u32,
                    catch_up_tokens: 0,
                    context_tokens: scale(caught),
                    attention_pairs: scale(pairs + catch_up + u64::from(rows - 1)),
                    logit_rows: row.logits,
                };
                best = best.min(nanos(self.costs.seconds(ModelId(row.model as u8), &shape)));
                more = most + 1;
            }
            rows = last + 1;
        }
        best
    }
}

/// A price to the nanosecond, as the simulator charges it.
pub(crate) fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9 + 0.5) as u64
}

/// Contexts up to here are told apart; beyond, steps of 1/32.
const EXACT: u32 = 64;

/// The start of the range of contexts that `known` is priced as, and the range's number.
fn bucket(known: u32) -> (u32, usize) {
    if known < EXACT {
        return (known, known as usize);
    }
    let power = known.ilog2(); // At least 6.
    let step = (known >> (power - 5)) & 31;
    ((32 + step) << (power - 5), EXACT as usize + (((power - 6) as usize) << 5) + step as usize)
}

/// Prices of single rows, each asked for once.
pub(super) struct Solo<'a> {
    passes: Passes<'a>,
    most: usize,
    /// `[model][bucket of known tokens]`: by own tokens; empty when not yet asked.
    rows: Vec<Vec<Vec<u64>>>,
}

impl<'a> Solo<'a> {
    /// Of verifications of at most `most` drafted tokens.
    pub fn new(passes: Passes<'a>, models: usize, most: usize) -> Self {
        Self { passes, most, rows: vec![Vec::new(); models] }
    }

    /// Writes the least price of a pass with a row of 1, 2, … own tokens after `known` ones into
    /// `out[1..]`, in nanoseconds.
    pub fn prices(&mut self, model: usize, known: u32, out: &mut [u64]) {
        let (known, bucket) = bucket(known);
        let rows = &mut self.rows[model];
        if bucket >= rows.len() {
            rows.resize(bucket + 1, Vec::new());
        }
        let row = &mut rows[bucket];
        if row.is_empty() {
            row.resize(self.most + 2, u64::MAX / 4);
            let mut least = u64::MAX / 4;
            // From the longest: a longer row is a superset of a shorter one.
            for own in (1..=self.most as u32 + 1).rev() {
                least = least.min(self.passes.least(RowOf { model, own, known, logits: own }));
                row[own as usize] = least;
            }
        }
        let asked = out.len();
        out[1..].copy_from_slice(&row[1..asked]);
    }
}

/// Steps that a prompt is divided into where it may run in several chunks.
const STEPS: u32 = 128;

/// Least times of prompts at the target, by length.
pub(super) struct Prefill<'a> {
    passes: Passes<'a>,
    target: usize,
    /// Tokens of a step; chunks of many lengths are told apart to a step.
    step: u32,
    /// `[u]`: least to have run x tokens in whatever chunks, (u − 1) · step < x <= u · step; u >= 1.
    run: Vec<u64>,
}

impl<'a> Prefill<'a> {
    /// Of prompts of at most `longest` tokens.
    pub fn new(passes: Passes<'a>, target: usize, longest: u32) -> Self {
        let step = longest.div_ceil(STEPS).max(1);
        let mut prefill = Self { passes, target, step, run: vec![0] };
        for u in 1..=longest.div_ceil(step) {
            let least = (0..u).map(|from| prefill.run[from as usize] + prefill.chunk(from, u, 0)).min();
            prefill.run.push(least.unwrap_or(0).min(NEVER));
        }
        prefill
    }

    /// The least of a chunk that takes a prompt from within step `from` (0: from its beginning) to within
    /// step `to`.
    fn chunk(&self, from: u32, to: u32, logits: u32) -> u64 {
        // Both ends lie anywhere in their steps; the beginning is exact.
        let own =
            if from == 0 { (to - 1) * self.step + 1 } else { (to - from).max(1) * self.step - self.step + 1 };
        let known = if from == 0 { 0 } else { (from - 1) * self.step + 1 };
        if own > self.passes.tokens {
            NEVER
        } else {
            self.passes.least(RowOf { model: self.target, own, known, logits }).min(NEVER)
        }
    }

    /// The least time from a prompt's arrival to the first token, in nanoseconds: in one pass if it
    /// fits, or in several.
    pub fn nanos(&self, prompt: u32) -> u64 {
        let row = RowOf { model: self.target, own: prompt, known: 0, logits: 1 };
        let whole = if prompt <= self.passes.tokens { self.passes.least(row) } else { NEVER };
        let u = prompt.div_ceil(self.step);
        let several = (1..=u).map(|from| self.run[from as usize] + self.chunk(from, u, 1)).min();
        whole.min(several.unwrap_or(NEVER))
    }
}

const NEVER: u64 = u64::MAX / 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_priced_as_no_longer_ones() {
        let mut last = None;
        for known in 0..100_000 {
            let (start, number) = bucket(known);
            assert!(start <= known && known - start <= known / 32, "{known}: {start}");
            assert!(last.is_none_or(|(s, n)| (start, number) == (s, n) || (start > s && number == n + 1)));
            last = Some((start, number));
        }
    }
}
