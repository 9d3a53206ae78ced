//! What a round of a plan costs a batch, and the tokens it brings.
//!
//! One recursion for any number of levels. Lengths of blocks are priced by their distribution
//! with surplus kept; passes are shared by the rows that still need them, so a deep chain pays for
//! its stragglers (algorithms.md, 2.5). Not priced: stop rules, the end of outputs, and the token
//! or two that a lower level catches up after a block was accepted whole.

use crate::chain::{ChainPlan, MAX_BLOCK, MAX_LEVELS, MAX_MODELS};
use crate::ids::ModelId;
use crate::policy::maths::{Lengths, chance, expected_tokens};
use crate::profile::{ModelKind, ModelSpec, PassShape};

/// A belief about pass times: seconds for one pass of a model. Anything but a number of 0 or more
/// counts as never ending.
pub type Costs<'a> = dyn Fn(ModelId, &PassShape) -> f64 + 'a;

/// Most rows that are told apart; a larger batch is priced as this many.
const MOST_ROWS: u32 = 1 << 20;
/// A cycle that runs less often than this is not priced.
const RARE: f64 = 1e-7;

/// Chance that a token proposed by one model is accepted by another, all before it accepted.
///
/// Symmetric, as 1 − TV and the agreement of choices are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AlphaMatrix {
    values: [f64; MAX_MODELS * MAX_MODELS],
}

impl AlphaMatrix {
    /// Every pair at `alpha`, a chance in `[0, 1]`.
    pub fn uniform(alpha: f64) -> Self {
        Self { values: [chance(alpha); MAX_MODELS * MAX_MODELS] }
    }

    /// `α(drafter, verifier)`.
    #[inline]
    pub fn get(&self, drafter: ModelId, verifier: ModelId) -> f64 {
        self.values[(drafter.index() % MAX_MODELS) * MAX_MODELS + verifier.index() % MAX_MODELS]
    }

    /// Sets the pair, both ways round.
    pub fn set(&mut self, drafter: ModelId, verifier: ModelId, alpha: f64) {
        let (d, v) = (drafter.index() % MAX_MODELS, verifier.index() % MAX_MODELS);
        self.values[d * MAX_MODELS + v] = chance(alpha);
        self.values[v * MAX_MODELS + d] = chance(alpha);
    }
}

/// The rows that would all run one plan, in phase.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Batch {
    /// Sequences; 0 counts as 1.
    pub rows: u32,
    /// Mean tokens of a row in every model's cache.
    pub context_tokens_mean: f64,
    /// Other work that rides in every pass of the target, such as prefill chunks.
    pub background: PassShape,
    /// Per model: Σ over the rows of the catch-up tokens that its first pass would have to run.
    pub catch_up: [f64; MAX_MODELS],
    /// Rounds that the plan is expected to stay: each is charged this share of the catch-up.
    pub stay_rounds: f64,
}

impl Batch {
    /// `rows` rows of a mean context, nothing beside them, no lag.
    pub fn of(rows: u32, context_tokens_mean: f64) -> Self {
        Self { rows, context_tokens_mean, background: PassShape::default(), catch_up: [0.0; MAX_MODELS], stay_rounds: 32.0 }
    }
}

/// How a batch is priced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pricing {
    /// As the serving loop runs it: rows share passes, and a cycle runs as long as any row needs
    /// it. What policies use.
    #[default]
    Lockstep,
    /// Each row pays the passes of a batch of its own copies; no stragglers. Equals `Lockstep` at
    /// one row.
    PerRow,
}

/// The price of one round of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Priced {
    /// Expected seconds from one pass of the target to the next.
    pub round_seconds: f64,
    /// Expected tokens that the batch commits in them.
    pub tokens: f64,
    /// `round_seconds / tokens`: what a policy minimises.
    pub seconds_per_token: f64,
}

impl Priced {
    fn new(round_seconds: f64, tokens: f64) -> Self {
        Self { round_seconds, tokens, seconds_per_token: round_seconds / tokens }
    }

    /// Expected seconds between two tokens of one sequence of a batch of `rows`.
    pub fn seconds_per_row_token(&self, rows: u32) -> f64 {
        self.seconds_per_token * f64::from(rows.max(1))
    }
}

/// Which model may stand directly below which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidates {
    models: u8,
    below: [u8; MAX_MODELS],
}

impl Candidates {
    /// A pool of `models` (1 to [`MAX_MODELS`]), any of which may stand below any dearer one.
    pub fn all(models: usize) -> Self {
        let models = models.clamp(1, MAX_MODELS);
        let mut below = [0; MAX_MODELS];
        for (verifier, mask) in below.iter_mut().enumerate().take(models) {
            *mask = ((1u16 << verifier) - 1) as u8;
        }
        Self { models: models as u8, below }
    }

    /// What the kinds of a pool's models allow: a head stands directly below its own target only,
    /// and neither a head nor an n-gram look-up can verify.
    pub fn of_pool(pool: &[ModelSpec]) -> Self {
        let mut out = Self::all(pool.len());
        for (verifier, spec) in pool.iter().enumerate().take(MAX_MODELS) {
            if spec.kind != ModelKind::Model {
                out.below[verifier] = 0;
            }
            for (drafter, below) in pool.iter().enumerate().take(verifier) {
                if matches!(&below.kind, ModelKind::Head { of } if *of != spec.name) {
                    out.forbid(ModelId(drafter as u8), ModelId(verifier as u8));
                }
            }
        }
        out
    }

    /// Number of models in the pool; the last is the target.
    pub fn models(&self) -> usize {
        usize::from(self.models)
    }

    /// The pool's last model.
    pub fn target(&self) -> ModelId {
        ModelId(self.models - 1)
    }

    /// `drafter` may no longer stand directly below `verifier`.
    pub fn forbid(&mut self, drafter: ModelId, verifier: ModelId) {
        self.below[verifier.index() % MAX_MODELS] &= !(1u8 << (drafter.index() % MAX_MODELS));
    }

    /// The same without chains that use `model`, which must not be the target.
    pub fn without(mut self, model: ModelId) -> Self {
        for verifier in 0..self.models {
            self.forbid(model, ModelId(verifier));
        }
        self
    }

    /// May `drafter` stand directly below `verifier`?
    #[inline]
    pub fn may(&self, drafter: ModelId, verifier: ModelId) -> bool {
        self.below[verifier.index() % MAX_MODELS] >> (drafter.index() % MAX_MODELS) & 1 == 1
    }

    /// May every level of the chain stand where it does?
    pub fn allows(&self, plan: &ChainPlan) -> bool {
        plan.models().windows(2).all(|pair| self.may(pair[0], pair[1]))
    }
}

/// One verifying level of a plan.
#[derive(Clone, Debug)]
struct Stage {
    /// Length of the block it verifies.
    block: Lengths,
    /// Of `block`: the length when it is certain.
    certain: Option<u32>,
    /// Mean of `block`, and its standard deviation.
    mean: f64,
    deviation: f64,
    /// What one verification emits. Unused at the target.
    cycle: Lengths,
    /// `S_c`: a row still needs its c-th cycle in a fill for the level above.
    needs: [f64; MAX_BLOCK as usize],
    /// ln(1 − S_c).
    log_spared: [f64; MAX_BLOCK as usize],
    cycles: usize,
    /// Σ of all S_c, the rare ones too.
    cycles_mean: f64,
    /// Seconds of a verification of one row, or negative when not yet asked.
    single: f64,
}

/// Prices plans; keeps its buffers from one batch to the next.
#[derive(Clone, Debug)]
pub struct Pricer {
    /// Direct-mapped: pass seconds by (model, rows, tokens), valid in one `open`.
    cache: Vec<Entry>,
    opened: u32,
    stages: Vec<Stage>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    key: u64,
    opened: u32,
    seconds: f64,
}

const CACHE_BITS: u32 = 11;

impl Default for Pricer {
    fn default() -> Self {
        Self::new()
    }
}

impl Pricer {
    /// An empty pricer; it grows to about 60 KiB.
    pub fn new() -> Self {
        let point = Lengths::exactly(1);
        let stage = Stage {
            block: point,
            certain: Some(1),
            mean: 1.0,
            deviation: 0.0,
            cycle: point,
            needs: [0.0; MAX_BLOCK as usize],
            log_spared: [0.0; MAX_BLOCK as usize],
            cycles: 0,
            cycles_mean: 0.0,
            single: -1.0,
        };
        Self { cache: vec![Entry::default(); 1 << CACHE_BITS], opened: 0, stages: vec![stage; MAX_LEVELS] }
    }

    /// Prices for one batch under one set of beliefs.
    pub fn open<'a>(&'a mut self, batch: &'a Batch, alpha: &'a AlphaMatrix, costs: &'a Costs<'a>, pricing: Pricing) -> Quotes<'a> {
        self.opened = self.opened.wrapping_add(1);
        if self.opened == 0 {
            self.cache.fill(Entry::default());
            self.opened = 1;
        }
        let rows = batch.rows.clamp(1, MOST_ROWS);
        let context = if batch.context_tokens_mean > 0.0 { batch.context_tokens_mean.min(1e9) } else { 0.0 };
        Quotes { pricer: self, batch, alpha, costs, pricing, rows, context, built: None }
    }
}

/// The price of `plan` for `batch`, all of whose rows run it. For many plans of one batch, open a
/// [`Pricer`] once.
pub fn price(plan: &ChainPlan, batch: &Batch, alpha: &AlphaMatrix, costs: &Costs<'_>, pricing: Pricing) -> Priced {
    Pricer::new().open(batch, alpha, costs, pricing).price(plan)
}

/// Prices for one batch under one set of beliefs; a pass is asked for once.
pub struct Quotes<'a> {
    pricer: &'a mut Pricer,
    batch: &'a Batch,
    alpha: &'a AlphaMatrix,
    costs: &'a Costs<'a>,
    pricing: Pricing,
    rows: u32,
    context: f64,
    /// The plan whose stages stand in the pricer.
    built: Option<ChainPlan>,
}

impl Quotes<'_> {
    /// Rows of the batch.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// The belief about the acceptance of a pair.
    #[inline]
    pub fn alpha(&self, drafter: ModelId, verifier: ModelId) -> f64 {
        self.alpha.get(drafter, verifier)
    }

    /// Seconds of one pass of all rows with `width` new tokens each; the background rides along
    /// when the pass is the `target`'s.
    #[inline]
    pub fn pass(&mut self, model: ModelId, width: u32, target: bool) -> f64 {
        self.seconds(model, self.rows, self.rows * width, target)
    }

    /// The price of a round of `plan`.
    pub fn price(&mut self, plan: &ChainPlan) -> Priced {
        let (depth, rows) = (plan.depth(), f64::from(self.rows));
        let (mut seconds, tokens) = match depth {
            1 => (self.pass(plan.target(), 1, true), rows),
            2 => {
                // No block varies and nobody straggles: closed form.
                let window = u32::from(plan.windows()[0]);
                let (drafter, target) = (plan.model(0), plan.target());
                let drafts = f64::from(window) * self.pass(drafter, 1, false);
                let tokens = rows * expected_tokens(self.alpha(drafter, target), window);
                (drafts + self.pass(target, window + 1, true), tokens)
            }
            _ => {
                self.build(plan);
                let fill = match self.pricing {
                    Pricing::Lockstep => self.fill(plan, depth - 2, rows),
                    Pricing::PerRow => self.fill_of_copies(plan, depth - 2),
                };
                let alpha = self.alpha(plan.model(depth - 2), plan.target());
                let tokens = rows * self.pricer.stages[depth - 1].block.expected_tokens(alpha);
                (fill + self.verification(plan, depth - 1, rows), tokens)
            }
        };
        if self.batch.catch_up.iter().any(|&lag| lag > 0.0) {
            seconds += self.joining(plan);
        }
        Priced::new(seconds, tokens)
    }

    /// Works out the block lengths of every level, from the lowest that changed since the last
    /// plan.
    fn build(&mut self, plan: &ChainPlan) {
        let (models, windows) = (plan.models(), plan.windows());
        // Stage i is decided by models 0..=i and windows 0..=i (its own fill included).
        let kept = self.built.as_ref().map_or(0, |built| {
            let pairs = built.models().iter().zip(built.windows()).zip(models.iter().zip(windows));
            pairs.take_while(|(a, b)| a == b).count()
        });
        for level in kept.max(1)..plan.depth() {
            let (below, stages) = (level - 1, &mut self.pricer.stages);
            let block = if below == 0 {
                Lengths::exactly(u32::from(windows[0]))
            } else {
                stages[below].cycle.fill(u32::from(windows[below]))
            };
            let stage = &mut stages[level];
            stage.certain = block.certain();
            let (mean, variance) = block.moments();
            (stage.mean, stage.deviation) = (mean, libm::sqrt(variance));
            stage.block = block;
            stage.single = -1.0;
            if level < windows.len() {
                let window = u32::from(windows[level]);
                stage.cycle = block.verified(self.alpha.get(models[below], models[level]));
                // A cycle that no row of the batch is likely to need is left out.
                let least = if self.pricing == Pricing::PerRow { 0.0 } else { RARE / f64::from(self.rows) };
                stage.cycles = stage.cycle.needs(window, least, &mut stage.needs);
                stage.cycles_mean = stage.needs[..stage.cycles].iter().sum();
                for (log, need) in stage.log_spared.iter_mut().zip(stage.needs).take(stage.cycles) {
                    *log = libm::log1p(-need);
                }
            }
        }
        self.built = Some(*plan);
    }

    /// Seconds until each of `rows` rows (a mean, 1 or more) has its fill of `level` for the level
    /// above: the c-th cycle runs with chance `A_c = 1 − (1 − S_c)^rows`, on `rows·S_c / A_c` rows.
    fn fill(&mut self, plan: &ChainPlan, level: usize, rows: f64) -> f64 {
        if level == 0 {
            let drafter = plan.model(0);
            return f64::from(plan.windows()[0]) * self.between(rows, |quotes, r| quotes.seconds(drafter, r, r, false));
        }
        let mut seconds = 0.0;
        for c in 0..self.pricer.stages[level].cycles {
            let stage = &self.pricer.stages[level];
            let need = stage.needs[c];
            let runs = if need >= 1.0 { 1.0 } else { -libm::expm1(rows * stage.log_spared[c]) };
            if runs < RARE {
                break;
            }
            let still = (rows * need / runs).max(1.0);
            seconds += runs * (self.fill(plan, level - 1, still) + self.verification(plan, level, still));
        }
        seconds
    }

    /// Seconds of one verification at `level` by `rows` rows, a mean.
    fn verification(&mut self, plan: &ChainPlan, level: usize, rows: f64) -> f64 {
        let (model, target) = (plan.model(level), level + 1 == plan.depth());
        let stage = &self.pricer.stages[level];
        if let Some(block) = stage.certain {
            return self.between(rows, |quotes, r| quotes.seconds(model, r, r * (block + 1), target));
        }
        if self.pricing == Pricing::PerRow {
            return self.copies(model, level, target);
        }
        let (mean, deviation) = (stage.mean + 1.0, stage.deviation);
        self.between(rows, |quotes, r| {
            if r == 1 {
                // One row: the mean over its own lengths.
                if quotes.pricer.stages[level].single < 0.0 {
                    let block = quotes.pricer.stages[level].block;
                    let single = block.iter().map(|(n, p)| p * quotes.seconds(model, 1, n + 1, target)).sum();
                    quotes.pricer.stages[level].single = single;
                }
                return quotes.pricer.stages[level].single;
            }
            // The sum of r independent lengths, by the three-point rule of the normal
            // distribution: a staircase or a knee is met where the sum is likely to be.
            let (middle, spread) = (f64::from(r) * mean, SQRT_3 * libm::sqrt(f64::from(r)) * deviation);
            let mut at = |tokens: f64| quotes.seconds(model, r, (tokens + 0.5) as u32, target);
            (at(middle - spread) + 4.0 * at(middle) + at(middle + spread)) / 6.0
        })
    }

    /// Per-row pricing of [`fill`](Self::fill): cycles do not depend on when the fill ends (Wald).
    fn fill_of_copies(&mut self, plan: &ChainPlan, level: usize) -> f64 {
        if level == 0 {
            return f64::from(plan.windows()[0]) * self.pass(plan.model(0), 1, false);
        }
        let cycle = self.fill_of_copies(plan, level - 1) + self.copies(plan.model(level), level, false);
        self.pricer.stages[level].cycles_mean * cycle
    }

    /// Mean seconds of a verification in which every row has the same length.
    fn copies(&mut self, model: ModelId, level: usize, target: bool) -> f64 {
        let block = self.pricer.stages[level].block;
        block.iter().map(|(n, p)| p * self.pass(model, n + 1, target)).sum()
    }

    /// `seconds` at a mean number of rows, drawn straight between the whole numbers around it:
    /// that is what passes are run at.
    #[inline]
    fn between(&mut self, rows: f64, seconds: impl Fn(&mut Self, u32) -> f64) -> f64 {
        let low = rows.max(1.0) as u32;
        let share = rows - f64::from(low);
        let at_low = seconds(self, low);
        if share < 1e-9 {
            return at_low;
        }
        at_low + share * (seconds(self, low + 1) - at_low)
    }

    /// Seconds that the catch-up of the plan's models adds to a round, spread over the stay.
    fn joining(&mut self, plan: &ChainPlan) -> f64 {
        let rounds = self.batch.stay_rounds.max(1.0);
        let mut seconds = 0.0;
        for (level, &model) in plan.models().iter().enumerate() {
            let lag = self.batch.catch_up[model.index() % MAX_MODELS];
            if lag > 0.0 {
                let window = if level == 0 { 0 } else { u32::from(plan.windows()[level - 1]) };
                // Rows 0 is no pass: the key of what a catch-up adds to one.
                let key = key(model, 0, window, level + 1 == plan.depth());
                seconds += match self.known(key) {
                    Ok(known) => known,
                    Err(at) => {
                        let added = self.catch_up(model, window + 1, lag, level + 1 == plan.depth());
                        self.keep(at, key, added)
                    }
                };
            }
        }
        seconds / rounds
    }

    /// What `lag` tokens of catch-up add to a pass of `width` new tokens a row. A lag beyond the
    /// token budget runs as passes of its own; it is priced as one long pass all the same.
    fn catch_up(&mut self, model: ModelId, width: u32, lag: f64, target: bool) -> f64 {
        let rows = f64::from(self.rows);
        let lag = lag.min(1e9);
        let (behind, new) = ((self.context - lag / rows).max(0.0), f64::from(width) + lag / rows);
        let shape = PassShape {
            rows: self.rows,
            new_tokens: (rows * new + 0.5) as u32,
            catch_up_tokens: (lag + 0.5) as u32,
            context_tokens: (rows * behind + 0.5) as u64,
            attention_pairs: (rows * new * (behind + (new + 1.0) / 2.0) + 0.5) as u64,
            logit_rows: self.rows * width,
        };
        let shape = if target { shape.plus(self.batch.background) } else { shape };
        let with = believed((self.costs)(model, &shape));
        (with - self.seconds(model, self.rows, self.rows * width, target)).max(0.0)
    }

    /// Seconds of a pass of `rows` rows with `tokens` new tokens between them.
    #[inline]
    fn seconds(&mut self, model: ModelId, rows: u32, tokens: u32, target: bool) -> f64 {
        let key = key(model, rows, tokens, target);
        match self.known(key) {
            Ok(known) => known,
            Err(at) => {
                let (r, t) = (f64::from(rows), f64::from(tokens));
                let shape = PassShape {
                    rows,
                    new_tokens: tokens,
                    catch_up_tokens: 0,
                    context_tokens: (r * self.context + 0.5) as u64,
                    attention_pairs: (t * (self.context + (t / r + 1.0) / 2.0) + 0.5) as u64,
                    logit_rows: tokens,
                };
                let shape = if target { shape.plus(self.batch.background) } else { shape };
                let seconds = believed((self.costs)(model, &shape));
                self.keep(at, key, seconds)
            }
        }
    }

    /// What was kept under `key`, or where to keep it.
    #[inline]
    fn known(&self, key: u64) -> Result<f64, usize> {
        let at = (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - CACHE_BITS)) as usize;
        let entry = &self.pricer.cache[at];
        if entry.key == key && entry.opened == self.pricer.opened { Ok(entry.seconds) } else { Err(at) }
    }

    #[inline]
    fn keep(&mut self, at: usize, key: u64, seconds: f64) -> f64 {
        self.pricer.cache[at] = Entry { key, opened: self.pricer.opened, seconds };
        seconds
    }
}

const SQRT_3: f64 = 1.732_050_807_568_877_2;

/// Rows take 21 bits and tokens 32: no two passes share a key.
#[inline]
fn key(model: ModelId, rows: u32, tokens: u32, target: bool) -> u64 {
    u64::from(model.0) << 56 | u64::from(target) << 55 | u64::from(rows) << 32 | u64::from(tokens)
}

/// A pass whose price is no number of 0 or more never ends: no plan is chosen for it.
#[inline]
fn believed(seconds: f64) -> f64 {
    if seconds >= 0.0 { seconds } else { f64::INFINITY }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::luck::{Draws, Luck, Stream};

    fn plan(models: &[u8], windows: &[u32]) -> ChainPlan {
        ChainPlan::new(&models.iter().map(|&m| ModelId(m)).collect::<Vec<_>>(), windows).unwrap()
    }

    #[track_caller]
    fn close(got: f64, expected: f64, within: f64) {
        assert!((got - expected).abs() <= within, "got {got}, expected {expected} within {within}");
    }

    fn matrix(pairs: &[(u8, u8, f64)]) -> AlphaMatrix {
        let mut out = AlphaMatrix::uniform(0.0);
        pairs.iter().for_each(|&(d, v, a)| out.set(ModelId(d), ModelId(v), a));
        out
    }

    fn golden_pool() -> AlphaMatrix {
        matrix(&[(0, 1, 0.70), (0, 2, 0.62), (0, 3, 0.55), (1, 2, 0.78), (1, 3, 0.70), (2, 3, 0.85)])
    }

    /// `t · max(1, tokens / 256)`, t of the golden pool.
    fn golden_costs(model: ModelId, shape: &PassShape) -> f64 {
        [0.02, 0.08, 0.25, 1.0][model.index()] * (f64::from(shape.new_tokens) / 256.0).max(1.0)
    }

    #[test]
    fn golden_12_three_levels_exact_keep() {
        let alpha = matrix(&[(0, 1, 0.75), (1, 2, 0.85), (0, 2, 0.70)]);
        let costs = |model: ModelId, _: &PassShape| [0.02, 0.15, 1.0][model.index()];
        for (windows, expected) in [([3, 4], 0.33953), ([4, 8], 0.31601), ([4, 7], 0.31498), ([5, 6], 0.31814)] {
            for pricing in [Pricing::Lockstep, Pricing::PerRow] {
                let priced = price(&plan(&[0, 1, 2], &windows), &Batch::of(1, 0.0), &alpha, &costs, pricing);
                close(priced.seconds_per_token, expected, 5e-6);
            }
        }
        for (windows, expected) in [((3u32, 4u32), 0.36873), ((4, 8), 0.33467), ((5, 6), 0.34496)] {
            // Surplus cut: the same cycles, but the target sees the window only.
            let (_, cycles) = Lengths::exactly(windows.0).verified(0.75).fill_and_cycles(windows.1);
            let seconds = cycles * (f64::from(windows.0) * 0.02 + 0.15) + 1.0;
            close(seconds / expected_tokens(0.85, windows.1), expected, 5e-6);
        }
        let single = |models: &[u8], window| {
            price(&plan(models, &[window]), &Batch::of(1, 0.0), &alpha, &costs, Pricing::Lockstep).seconds_per_token
        };
        close(single(&[1, 2], 6), 0.41947, 5e-6);
    }

    #[test]
    fn golden_12_truth_per_row_in_the_golden_pool() {
        let cases: [(u32, &[u8], &[u32], f64); 6] = [
            (1, &[0, 2, 3], &[3, 5], 0.40660),
            (32, &[0, 2, 3], &[3, 5], 0.41010),
            (64, &[0, 2, 3], &[2, 2], 0.47424),
            (96, &[0, 1, 3], &[1, 1], 0.58125),
            (128, &[1, 3], &[1], 0.63529),
            (160, &[1, 3], &[1], 0.78235),
        ];
        for (rows, models, windows, expected) in cases {
            let priced = price(&plan(models, windows), &Batch::of(rows, 0.0), &golden_pool(), &golden_costs, Pricing::PerRow);
            close(priced.seconds_per_row_token(rows), expected, 5e-6);
        }
    }

    /// One round of `rows` rows, run pass by pass with coins: seconds and committed tokens.
    struct Ticks<'a> {
        plan: &'a ChainPlan,
        alpha: &'a AlphaMatrix,
        costs: &'a Costs<'a>,
        coins: Draws,
        round: u64,
        tossed: u64,
        seconds: f64,
    }

    impl Ticks<'_> {
        fn pass(&mut self, level: usize, tokens: u32, rows: u32) {
            let shape = PassShape { rows, new_tokens: tokens, ..PassShape::default() };
            self.seconds += (self.costs)(self.plan.model(level), &shape);
        }

        fn verify(&mut self, level: usize, blocks: &[u32]) -> Vec<u32> {
            let alpha = self.alpha.get(self.plan.model(level - 1), self.plan.model(level));
            self.pass(level, blocks.iter().map(|n| n + 1).sum(), blocks.len() as u32);
            let emitted = blocks.iter().map(|&n| {
                let mut kept = 0;
                while kept < n && self.coins.uniform(self.round, self.tossed + u64::from(kept)) < alpha {
                    kept += 1;
                }
                self.tossed += u64::from(n) + 1;
                kept + 1
            });
            emitted.collect()
        }

        fn fill(&mut self, level: usize, rows: usize) -> Vec<u32> {
            let window = u32::from(self.plan.windows()[level]);
            if level == 0 {
                (0..window).for_each(|_| self.pass(0, rows as u32, rows as u32));
                return vec![window; rows];
            }
            let mut lengths = vec![0; rows];
            loop {
                let short: Vec<usize> = (0..rows).filter(|&r| lengths[r] < window).collect();
                if short.is_empty() {
                    return lengths;
                }
                let blocks = self.fill(level - 1, short.len());
                for (row, emitted) in short.into_iter().zip(self.verify(level, &blocks)) {
                    lengths[row] += emitted;
                }
            }
        }
    }

    /// Seconds per row-token over `rounds` rounds, and its standard error.
    fn in_ticks(plan: &ChainPlan, rows: u32, alpha: &AlphaMatrix, costs: &Costs<'_>, rounds: u64) -> (f64, f64) {
        let coins = Luck::new(5).stream(Stream::Test);
        let mut ticks = Ticks { plan, alpha, costs, coins, round: 0, tossed: 0, seconds: 0.0 };
        let mut samples = Vec::new();
        for round in 0..rounds {
            (ticks.round, ticks.tossed, ticks.seconds) = (round, 0, 0.0);
            let blocks = ticks.fill(plan.depth() - 2, rows as usize);
            let tokens: u32 = ticks.verify(plan.depth() - 1, &blocks).iter().sum();
            samples.push((ticks.seconds, f64::from(tokens) / f64::from(rows)));
        }
        let seconds: f64 = samples.iter().map(|s| s.0).sum();
        let tokens: f64 = samples.iter().map(|s| s.1).sum();
        let ratio = seconds / tokens;
        // Ratio estimator: residuals of seconds on tokens.
        let squares: f64 = samples.iter().map(|s| (s.0 - ratio * s.1).powi(2)).sum();
        (ratio, squares.sqrt() / tokens)
    }

    #[test]
    fn one_row_agrees_with_its_coins() {
        for (models, windows) in [(&[0u8, 2, 3][..], &[3u32, 5][..]), (&[1, 3], &[4]), (&[0, 1, 2, 3], &[2, 3, 4])] {
            let chain = plan(models, windows);
            let (measured, error) = in_ticks(&chain, 1, &golden_pool(), &golden_costs, 40_000);
            let priced = price(&chain, &Batch::of(1, 0.0), &golden_pool(), &golden_costs, Pricing::Lockstep);
            assert!(error / measured < 0.003);
            close(priced.seconds_per_token, measured, 4.0 * error);
        }
    }

    #[test]
    fn a_batch_agrees_with_its_coins_within_two_percent_stragglers_included() {
        let chains = [(&[0u8, 2, 3][..], &[4u32, 6][..]), (&[0, 1, 3], &[2, 3]), (&[0, 1, 2, 3], &[2, 3, 4]), (&[1, 3], &[3])];
        for (models, windows) in chains {
            for rows in [2u32, 8, 32, 64, 128] {
                let chain = plan(models, windows);
                let (measured, error) = in_ticks(&chain, rows, &golden_pool(), &golden_costs, 24_000 / u64::from(rows));
                let priced = price(&chain, &Batch::of(rows, 0.0), &golden_pool(), &golden_costs, Pricing::Lockstep);
                let got = priced.seconds_per_row_token(rows);
                close(got / measured, 1.0, 0.012 + 3.0 * error / measured);
                let free = price(&chain, &Batch::of(rows, 0.0), &golden_pool(), &golden_costs, Pricing::PerRow);
                if models.len() > 2 && (8..=64).contains(&rows) {
                    assert!(free.round_seconds < 0.97 * priced.round_seconds, "{chain}: stragglers are the point");
                }
            }
        }
    }

    #[test]
    fn catch_up_is_charged_once_a_stay_and_background_rides_with_the_target() {
        let costs = |model: ModelId, shape: &PassShape| {
            [0.1, 1.0][model.index()] + 1e-3 * f64::from(shape.new_tokens) + 1e-6 * shape.attention_pairs as f64
        };
        let (alpha, chain) = (AlphaMatrix::uniform(0.8), plan(&[0, 1], &[4]));
        let mut batch = Batch { stay_rounds: 10.0, ..Batch::of(2, 100.0) };
        let free = price(&chain, &batch, &alpha, &costs, Pricing::Lockstep).round_seconds;
        batch.catch_up[0] = 60.0;
        let charged = price(&chain, &batch, &alpha, &costs, Pricing::Lockstep).round_seconds;
        // Two rows of 31 new tokens over 70, against two of 1 over 100.
        let pairs = 2.0 * (31.0 * 70.0 + 31.0 * 16.0) - 2.0 * 101.0;
        close(charged - free, (1e-3 * 60.0 + 1e-6 * pairs) / 10.0, 1e-12);
        let alone = ChainPlan::target_only(ModelId(1));
        let plain = price(&alone, &batch, &alpha, &costs, Pricing::Lockstep);
        close(plain.round_seconds, 1.0 + 2e-3 + 1e-6 * 202.0, 1e-12);
        close(plain.tokens, 2.0, 0.0);
        batch.background.add_row(500, 500, 0, 0);
        let loaded = price(&alone, &batch, &alpha, &costs, Pricing::Lockstep).round_seconds;
        close(loaded - plain.round_seconds, 0.5 + 1e-6 * 125_250.0, 1e-12);
        let drafting = price(&chain, &batch, &alpha, &costs, Pricing::Lockstep).round_seconds;
        close(drafting - charged, 0.5 + 1e-6 * 125_250.0, 1e-12);
    }

    #[test]
    fn a_price_that_is_no_number_is_never_the_least() {
        let costs = |model: ModelId, _: &PassShape| [f64::NAN, 1.0][model.index()];
        let alpha = AlphaMatrix::uniform(f64::NAN);
        let priced = price(&plan(&[0, 1], &[4]), &Batch::of(0, f64::NAN), &alpha, &costs, Pricing::Lockstep);
        assert!(priced.seconds_per_token.is_infinite() && priced.tokens >= 1.0);
    }

    #[test]
    fn heads_stand_below_their_own_target_and_look_ups_verify_nothing() {
        let spec = |name: &str, kind| {
            let text = (name.to_owned(), "llama".to_owned());
            ModelSpec {
                name: text.0,
                source: String::new(),
                kind,
                family: text.1,
                layers: 1,
                hidden: 1,
                heads: 1,
                kv_heads: 1,
                head_dim: 1,
                intermediate: 1,
                vocab: 1,
                tied_embeddings: false,
                context: 1,
                precision: crate::profile::Precision::Bf16,
                kv_bytes: 2,
            }
        };
        let pool = [
            spec("ngram", ModelKind::Ngram),
            spec("eagle", ModelKind::Head { of: "target".into() }),
            spec("small", ModelKind::Model),
            spec("target", ModelKind::Model),
        ];
        let candidates = Candidates::of_pool(&pool);
        let may = |d, v| candidates.may(ModelId(d), ModelId(v));
        assert!(may(0, 2) && may(0, 3) && may(1, 3) && may(2, 3));
        assert!(!may(0, 1) && !may(1, 2) && !may(3, 2) && !may(2, 2));
        assert!(candidates.allows(&plan(&[0, 2, 3], &[1, 1])) && !candidates.allows(&plan(&[0, 1, 3], &[1, 1])));
        assert!(!candidates.without(ModelId(2)).allows(&plan(&[2, 3], &[1])));
    }

    proptest! {
        #[test]
        fn one_row_in_lockstep_is_the_exact_distribution(
            w in (1u32..9, 1u32..9, 1u32..9), a in (0.0..1.0f64, 0.0..1.0f64, 0.0..1.0f64), slope in 0.0..0.2f64, deep in 1usize..4,
        ) {
            let alpha = matrix(&[(0, 1, a.0), (1, 2, a.1), (2, 3, a.2)]);
            let costs = |model: ModelId, shape: &PassShape| {
                [0.02, 0.1, 0.3, 1.0][model.index()] * (1.0 + slope * f64::from(shape.new_tokens * shape.new_tokens))
            };
            let chain = plan(&[0, 1, 2, 3][3 - deep..], &[w.0, w.1, w.2][3 - deep..]);
            let lockstep = price(&chain, &Batch::of(1, 0.0), &alpha, &costs, Pricing::Lockstep);
            let copies = price(&chain, &Batch::of(1, 0.0), &alpha, &costs, Pricing::PerRow);
            prop_assert!((lockstep.seconds_per_token / copies.seconds_per_token - 1.0).abs() < 1e-5);
        }

        #[test]
        fn more_rows_and_dearer_levels_are_never_cheaper_and_reuse_changes_nothing(
            w in (1u32..9, 1u32..9, 1u32..9), a in (0.0..1.0f64, 0.0..1.0f64, 0.0..1.0f64), rows in 1u32..200, more in 0.0..0.5f64,
            other in (1u32..9, 1u32..9, 1u32..9),
        ) {
            let alpha = matrix(&[(0, 1, a.0), (1, 2, a.1), (2, 3, a.2)]);
            let chain = plan(&[0, 1, 2, 3], &[w.0, w.1, w.2]);
            let dearer = |model: ModelId, shape: &PassShape| golden_costs(model, shape) + more * f64::from(u8::from(model.0 == 1));
            let at = |rows, costs: &Costs<'_>| price(&chain, &Batch::of(rows, 0.0), &alpha, costs, Pricing::Lockstep);
            let (one, next) = (at(rows, &golden_costs), at(rows + 1, &golden_costs));
            prop_assert!(next.round_seconds >= one.round_seconds * (1.0 - 1e-6));
            prop_assert!(at(rows, &dearer).round_seconds >= one.round_seconds * (1.0 - 1e-12));
            let mut pricer = Pricer::new();
            let batch = Batch::of(rows, 0.0);
            let mut quotes = pricer.open(&batch, &alpha, &golden_costs, Pricing::Lockstep);
            quotes.price(&plan(&[0, 1, 2, 3], &[other.0, other.1, other.2]));
            quotes.price(&plan(&[0, 1, 3], &[other.0, w.1]));
            quotes.price(&plan(&[0, 1, 2, 3], &[w.0, other.1, w.2]));
            prop_assert_eq!(quotes.price(&chain), one);
        }
    }
}
