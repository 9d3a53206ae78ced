//! What a round of a plan costs a batch, and the tokens it brings.
//!
//! One recursion for any number of levels. Lengths of blocks are priced by their distribution
//! with surplus kept; passes are shared by the rows that still need them, so a deep chain pays for
//! its stragglers (algorithms.md, 2.5). Not priced: stop rules, the end of outputs, and the token
//! or two that a lower level catches up after a block was accepted whole.

use crate::chain::{ChainPlan, MAX_BLOCK, MAX_LEVELS, MAX_MODELS};
use crate::ids::ModelId;
use crate::policy::maths::{Lengths, expected_tokens};
use crate::profile::PassShape;

pub use terms::{AlphaMatrix, Batch, Candidates, Priced, Pricing};

mod terms;

/// A belief about pass times: seconds for one pass of a model. Anything but a number of 0 or more
/// counts as never ending.
pub type Costs<'a> = dyn Fn(ModelId, &PassShape) -> f64 + 'a;

/// Most rows that are told apart; a larger batch is priced as this many.
const MOST_ROWS: u32 = 1 << 20;
/// A cycle that runs less often than this is not priced.
const RARE: f64 = 1e-7;

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
    pub fn open<'a>(
        &'a mut self,
        batch: &'a Batch,
        alpha: &'a AlphaMatrix,
        costs: &'a Costs<'a>,
        pricing: Pricing,
    ) -> Quotes<'a> {
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
pub fn price(
    plan: &ChainPlan,
    batch: &Batch,
    alpha: &AlphaMatrix,
    costs: &Costs<'_>,
    pricing: Pricing,
) -> Priced {
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
            return f64::from(plan.windows()[0])
                * self.between(rows, |quotes, r| quotes.seconds(drafter, r, r, false));
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
mod tests;
