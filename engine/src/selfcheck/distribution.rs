//! Sampled outputs, counted: the joint law of the first three tokens against the target's own.

use std::collections::BTreeMap;
use std::sync::Arc;

use specrouter_routing::backend::{Backend, PassOutcome};
use specrouter_routing::chain::ChainPlan;
use specrouter_routing::ids::ReplicaId;
use specrouter_routing::luck::Luck;
use specrouter_routing::policy::Policy;
use specrouter_routing::profile::Corrected;
use specrouter_routing::record::{RequestRecord, Sink, VerificationRecord, Wants};
use specrouter_routing::replica::Replica;
use specrouter_routing::units::Time;
use statrs::distribution::{ChiSquared, ContinuousCDF};

use super::policies::Always;
use super::tree::Tree;
use super::{Alike, CheckError, Counting, Task, limits};
use crate::backend::EngineBackend;
use crate::kernels::attention::PAGE;
use crate::level::LevelModel;
use crate::sampling::{Distribution, Sampling, Warper};
use crate::verify::Verify;

/// Output tokens whose joint law is counted.
pub const TOKENS: usize = 3;

/// The first output tokens.
pub type Outcome = [u32; TOKENS];

/// A law over outcomes, cut into cells: every outcome of which enough are expected is one, and what is left behind
/// each beginning is one more.
#[derive(Clone, Debug, Default)]
pub struct Law {
    /// Chances of the cells. An outcome belongs to the longest beginning of it that stands here.
    cells: BTreeMap<Vec<u32>, f64>,
    /// What comes next behind each beginning that was looked at.
    next: BTreeMap<Vec<u32>, Distribution>,
}

impl Law {
    /// The cell of an outcome; `None` for one that cannot be.
    fn cell(&self, outcome: &Outcome) -> Option<&[u32]> {
        let never = |known: usize| {
            self.next.get(&outcome[..known]).is_some_and(|p| p.probability(outcome[known]) <= 0.0)
        };
        if (0..TOKENS).any(never) {
            return None;
        }
        let longest = (0..=TOKENS).rev().find_map(|known| self.cells.get_key_value(&outcome[..known]));
        longest.map(|(cell, _)| cell.as_slice())
    }
}

/// Least count that is expected of a cell of the test.
const LEAST: f64 = 5.0;

/// Sequences that run at once.
const BATCH: u32 = 64;

/// What is drawn.
#[derive(Clone, Debug)]
pub struct Draw {
    /// The prompt that every output continues.
    pub prompt: Vec<u32>,
    /// How tokens are sampled.
    pub sampling: Sampling,
    /// Tokens of each output, at least [`TOKENS`]. A round cannot draft past it, so a chain needs some more.
    pub limit: u32,
    /// Chain and windows.
    pub plan: ChainPlan,
    /// The run's luck.
    pub luck: Luck,
}

/// Counted outcomes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// How often each came.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// Proposed tokens that were kept.
    pub accepted: u64,
    /// Verifications that rejected one.
    pub rejected: u64,
}

impl Counted {
    /// Both, together.
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        for (outcome, count) in other.outcomes {
            *self.outcomes.entry(outcome).or_default() += count;
        }
        self.accepted += other.accepted;
        self.rejected += other.rejected;
        self
    }
}

/// A one-sample G-test.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct GTest {
    /// Outcomes counted.
    pub draws: u64,
    /// Cells after merging.
    pub cells: usize,
    /// 2 Σ O ln(O / E).
    pub statistic: f64,
    /// The chance of a statistic as large or larger, were the law the one that is claimed.
    pub p_value: f64,
    /// Outcomes that the law holds for impossible; one is enough to refute it, and `p_value` is 0 then.
    pub impossible: u64,
}

/// The G-test of counts against a law; cells are merged, the rarest first, until [`LEAST`] are expected in each.
///
/// Source: Sokal & Rohlf, Biometry, 17.1; chi-square with cells − 1 degrees of freedom.
pub fn g_test(outcomes: &BTreeMap<Outcome, u64>, law: &Law) -> GTest {
    let draws: u64 = outcomes.values().sum();
    let mut seen: BTreeMap<&[u32], u64> = BTreeMap::new();
    let mut impossible = 0;
    for (outcome, count) in outcomes {
        match law.cell(outcome) {
            Some(cell) => *seen.entry(cell).or_default() += count,
            None => impossible += count,
        }
    }
    let count = |cell: &Vec<u32>| seen.get(cell.as_slice()).copied().unwrap_or(0) as f64;
    let mut cells: Vec<(f64, f64)> =
        law.cells.iter().map(|(cell, chance)| (chance * draws as f64, count(cell))).collect();
    cells.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut merged: Vec<(f64, f64)> = Vec::new();
    let mut open = (0.0, 0.0);
    for (expected, seen) in cells {
        open = (open.0 + expected, open.1 + seen);
        if open.0 >= LEAST {
            merged.push(std::mem::take(&mut open));
        }
    }
    if let Some(last) = merged.last_mut() {
        *last = (last.0 + open.0, last.1 + open.1);
    }
    let terms = merged.iter().filter(|cell| cell.1 > 0.0).map(|&(e, o)| 2.0 * o * (o / e).ln());
    let statistic: f64 = terms.sum();
    let p_value = match ChiSquared::new(merged.len().saturating_sub(1) as f64) {
        Ok(law) if impossible == 0 => law.sf(statistic.max(0.0)),
        // One cell has no freedom to differ in.
        _ => f64::from(u8::from(impossible == 0)),
    };
    GTest { draws, cells: merged.len(), statistic, p_value, impossible }
}

/// The target's own law of the first tokens, from its logits, in cells for a test of `draws` outcomes: beginnings
/// that come fewer than [`LEAST`] times are looked at no further.
///
/// # Errors
/// [`CheckError`], when the model fails.
pub fn law<M: LevelModel>(target: &Tree<M>, sampling: &Sampling, draws: u64) -> Result<Law, CheckError> {
    let least = LEAST / draws.max(1) as f64;
    let (mut warper, mut law) = (Warper::default(), Law::default());
    let mut texts: Vec<(Vec<u32>, f64)> = vec![(Vec::new(), 1.0)];
    for _ in 0..TOKENS {
        let mut longer = Vec::new();
        for some in texts.chunks(1024) {
            let outputs: Vec<Vec<u32>> = some.iter().map(|(text, _)| text.clone()).collect();
            for ((text, chance), logits) in some.iter().zip(target.logits(&outputs)?) {
                let mut p = Distribution::default();
                warper.warp(&logits, sampling, &mut p)?;
                let mut left = 0.0;
                for (token, probability) in p.iter().filter(|(_, probability)| *probability > 0.0) {
                    let chance = chance * probability;
                    if chance < least {
                        left += chance;
                    } else {
                        longer.push(([&text[..], &[token]].concat(), chance));
                    }
                }
                if left > 0.0 {
                    law.cells.insert(text.clone(), left);
                }
                law.next.insert(text.clone(), p);
            }
        }
        texts = longer;
    }
    law.cells.extend(texts);
    Ok(law)
}

/// Draws outputs numbered `seeds` from `models` under the real serving loop, and counts their first tokens.
///
/// # Errors
/// [`CheckError`], when a pass fails.
pub fn count<M: LevelModel>(
    models: Vec<M>,
    draw: &Draw,
    seeds: std::ops::Range<u64>,
) -> Result<(Counted, Vec<M>), CheckError> {
    let backend = EngineBackend::new(models, Verify::Speculative, draw.luck, Counting::default())?;
    let (counted, backend) = count_with(backend, draw, seeds)?;
    Ok((counted, backend.into_models()))
}

/// The same over trees, shared among the processor's cores.
///
/// # Errors
/// [`CheckError`], when a pass fails.
pub fn count_trees<M: LevelModel + Send>(
    trees: &[Tree<M>],
    draw: &Draw,
    draws: u64,
) -> Result<Counted, CheckError> {
    shared(draws, |seeds| Ok(count(trees.to_vec(), draw, seeds)?.0))
}

/// Cuts seeds into as many runs as there are cores, and adds them up. The runs have threads of their own: the
/// kernels' would be kept from everybody else's passes.
fn shared(
    draws: u64,
    count: impl Fn(std::ops::Range<u64>) -> Result<Counted, CheckError> + Sync,
) -> Result<Counted, CheckError> {
    let parts = rayon::current_num_threads() as u64;
    let count = &count;
    std::thread::scope(|scope| {
        let part = |part| scope.spawn(move || count(part * draws / parts..(part + 1) * draws / parts));
        let running: Vec<_> = (0..parts).map(part).collect();
        running.into_iter().try_fold(Counted::default(), |sum, run| match run.join() {
            Ok(counted) => Ok(sum.plus(counted?)),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

type Checked<M> = EngineBackend<M, Counting>;

fn count_with<M: LevelModel>(
    mut backend: Checked<M>,
    draw: &Draw,
    mut seeds: std::ops::Range<u64>,
) -> Result<(Counted, Checked<M>), CheckError> {
    let policy: Box<dyn Policy> = Box::new(Always(draw.plan));
    let task = |seed| Task { tokens: draw.prompt.clone(), limit: draw.limit, seed, stop: Vec::new() };
    let kv = u64::from(BATCH) * task(0).most_tokens(32).next_multiple_of(PAGE as u64);
    let kv = vec![kv; backend.models().len()];
    let costs = Corrected::new(Arc::new(Alike));
    let limits = specrouter_routing::replica::Limits { token_budget: 4096, ..limits(BATCH) };
    let mut replica = Replica::new(ReplicaId(0), limits, &kv, PAGE as u32, policy, costs)?;
    let mut sink = Verdicts(Counted::default());
    let (mut outcome, mut now) = (PassOutcome::default(), Time::ZERO);
    loop {
        while replica.load().queued < BATCH
            && let Some(seed) = seeds.next()
        {
            let (request, prompt) = task(seed).job(seed, draw.sampling);
            backend.submit(request.id, prompt)?;
            replica.submit(request, &mut sink);
        }
        if !replica.begin(now, &mut backend, &mut sink)? {
            return Ok((sink.0, backend));
        }
        backend.run(&replica.pass(), &mut outcome)?;
        now += outcome.duration;
        replica.finish(now, &outcome, &mut backend, &mut sink)?;
        for text in backend.take_finished() {
            if let Some(&first) = text.output().first_chunk() {
                *sink.0.outcomes.entry(first).or_default() += 1;
            }
        }
    }
}

struct Verdicts(Counted);

impl Sink for Verdicts {
    fn wants(&self) -> Wants {
        Wants { verifications: true, ..Wants::default() }
    }

    fn request(&mut self, _: &RequestRecord) {}

    fn verification(&mut self, record: &VerificationRecord) {
        self.0.accepted += u64::from(record.accepted);
        self.0.rejected += u64::from(record.accepted < record.drafted);
    }
}

#[cfg(test)]
#[path = "distribution_tests.rs"]
mod tests;
