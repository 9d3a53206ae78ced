//! The acceptance matrix per class, and how acceptance goes along a text and a block.
//!
//! The estimand is the mean over committed positions. Scored texts give it as the mean overlap, whatever
//! the policy was. Without them there are judged blocks, whose estimate is exact for one α and low where α
//! varies: a bad stretch takes more rounds, and its rejections are all seen. Source: `algorithms.md` 2.6.

use std::collections::BTreeMap;

use serde::Serialize;
use specrouter_routing::estimate::Share;
use specrouter_routing::record::{pair_index, pairs};

use super::evidence::{Block, Cluster, Evidence};
use super::{Estimate, Fitted, triangle};

/// Where an acceptance comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Mean overlap over committed positions.
    Scores,
    /// Accepted / (accepted + rejections) of judged blocks: low where acceptance varies.
    Rounds,
    /// Never seen: the product by way of another model, bounded by the triangle of total variation.
    Triangle,
    /// Never seen, and nothing bounds it.
    Nothing,
}

/// The acceptance of one pair in one class.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PairFit {
    /// Who proposes, by place in the pool.
    pub drafter: usize,
    /// Who judges.
    pub verifier: usize,
    /// What it rests on.
    pub origin: Origin,
    /// The acceptance; `None` where nothing bounds it.
    pub acceptance: Option<f64>,
    /// 95 % interval over requests, or the triangle's bounds; `None` where blocks are of no known request.
    pub interval: Option<(f64, f64)>,
    /// From scored texts.
    pub scores: Fitted<Estimate>,
    /// From judged blocks: of the positions that were judged, not of all.
    pub rounds: Fitted<Estimate>,
}

impl PairFit {
    /// What a change of this acceptance should cost where the matrix must change: 1 / standard error, so that
    /// what is known least moves first.
    pub fn weight(&self) -> f64 {
        let known = match self.origin {
            Origin::Scores => self.scores.as_ref().ok(),
            Origin::Rounds => self.rounds.as_ref().ok(),
            Origin::Triangle | Origin::Nothing => None,
        };
        let width = self.interval.map_or(1.0, |(low, high)| (high - low) / 4.0);
        1.0 / known.map_or(width, |known| known.standard_error).max(1e-4)
    }
}

/// The acceptance matrix of `class`, or of all classes together: every pair, in the order of [`pairs`].
pub fn matrix(evidence: &Evidence, class: Option<usize>) -> Vec<PairFit> {
    let models = evidence.pool.len();
    let wanted = |of: usize| class.is_none_or(|class| class == of);
    let mut fits: Vec<PairFit> = pairs(models)
        .enumerate()
        .map(|(pair, (drafter, verifier))| {
            let scores = Estimate::of(&text_shares(evidence, pair, wanted));
            let mine: Vec<&Block> = evidence
                .blocks
                .iter()
                .filter(|b| (b.drafter, b.verifier) == (drafter, verifier) && wanted(b.class))
                .collect();
            let rounds = Estimate::of(&block_shares(&mine));
            let known = match (&scores, &rounds) {
                (Ok(scores), _) => Some((Origin::Scores, scores.mean, Some((scores.low, scores.high)))),
                (_, Ok(rounds)) => Some((Origin::Rounds, rounds.mean, Some((rounds.low, rounds.high)))),
                // Few requests are not enough, however many their tokens.
                _ if mine.iter().any(|block| block.cluster.is_some()) => None,
                // Blocks of unknown requests: a number, and no interval.
                _ => pooled(&mine).map(|rate| (Origin::Rounds, rate, None)),
            };
            let (origin, acceptance, interval) =
                known.map_or((Origin::Nothing, None, None), |(o, a, i)| (o, Some(a), i));
            PairFit { drafter, verifier, origin, acceptance, interval, scores, rounds }
        })
        .collect();
    let intervals: Vec<Option<(f64, f64)>> =
        fits.iter().map(|fit| fit.acceptance.map(|a| fit.interval.unwrap_or((a, a)))).collect();
    let points: Vec<Option<f64>> = fits.iter().map(|fit| fit.acceptance).collect();
    let bounds = triangle::bounds(models, &intervals);
    for fit in fits.iter_mut().filter(|fit| fit.origin == Origin::Nothing) {
        if let Some(guess) = triangle::guess(models, &points, fit.drafter, fit.verifier) {
            let (low, high) = bounds[pair_index(models, fit.drafter, fit.verifier)];
            fit.origin = Origin::Triangle;
            fit.acceptance = Some(guess);
            fit.interval = Some((low.min(guess), high.max(guess)));
        }
    }
    fits
}

/// Σ overlap and positions of each request.
fn text_shares(evidence: &Evidence, pair: usize, wanted: impl Fn(usize) -> bool) -> Vec<Share> {
    let mut shares: BTreeMap<Cluster, Share> = BTreeMap::new();
    for text in evidence.texts.iter().filter(|text| wanted(text.class)) {
        let share = shares.entry(text.cluster).or_default();
        text.overlaps[pair].iter().for_each(|&overlap| share.add(f64::from(overlap), 1.0));
    }
    values(shares)
}

/// Tokens kept, and tokens kept or rejected, of each request that is known.
fn block_shares(blocks: &[&Block]) -> Vec<Share> {
    let mut shares: BTreeMap<Cluster, Share> = BTreeMap::new();
    for block in blocks {
        if let Some(cluster) = block.cluster {
            let share = shares.entry(cluster).or_default();
            share.add(1.0, f64::from(block.accepted));
            share.add(0.0, f64::from(u8::from(block.rejected)));
        }
    }
    values(shares)
}

fn values(shares: BTreeMap<Cluster, Share>) -> Vec<Share> {
    shares.into_values().collect()
}

/// Accepted / (accepted + rejections): a whole block kept says only "at least". `None` before a verdict.
fn pooled(blocks: &[&Block]) -> Option<f64> {
    let accepted: u64 = blocks.iter().map(|b| u64::from(b.accepted)).sum();
    let rejected = blocks.iter().filter(|b| b.rejected).count() as u64;
    (accepted + rejected > 0).then(|| accepted as f64 / (accepted + rejected) as f64)
}

/// Acceptance at a stretch of positions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Stretch {
    /// Its first position.
    pub from: u32,
    /// Its last position.
    pub to: u32,
    /// Mean overlap over it.
    pub acceptance: Estimate,
}

/// Mean overlap of a pair by place in the output, over all classes: octaves 0, 1, 2-3, 4-7, … as far as
/// enough requests go.
pub fn by_position(evidence: &Evidence, pair: usize) -> Vec<Stretch> {
    const MOST: u32 = 20;
    let octaves = (0..MOST).map(|k| if k == 0 { (0, 0) } else { (1 << (k - 1), (1 << k) - 1) });
    octaves
        .map_while(|(from, to): (u32, u32)| {
            let mut shares: BTreeMap<Cluster, Share> = BTreeMap::new();
            for text in &evidence.texts {
                let stretch = text.overlaps[pair].iter().take(to as usize + 1).skip(from as usize);
                let share = shares.entry(text.cluster).or_default();
                stretch.for_each(|&overlap| share.add(f64::from(overlap), 1.0));
            }
            let acceptance = Estimate::of(&values(shares)).ok()?;
            Some(Stretch { from, to, acceptance })
        })
        .collect()
}

/// Acceptance at one depth of a block.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Depth {
    /// Tokens before it in the block.
    pub depth: u32,
    /// Of the tokens judged there, the share that was kept.
    pub acceptance: Estimate,
}

/// Conditional acceptance of a pair by depth in its blocks, over all classes, as far as enough requests go.
pub fn by_depth(evidence: &Evidence, drafter: usize, verifier: usize) -> Vec<Depth> {
    let mine: Vec<&Block> = evidence
        .blocks
        .iter()
        .filter(|b| (b.drafter, b.verifier) == (drafter, verifier) && b.cluster.is_some())
        .collect();
    let deepest = mine.iter().map(|b| b.drafted).max().unwrap_or(0);
    (0..deepest)
        .map_while(|depth| {
            let mut shares: BTreeMap<Cluster, Share> = BTreeMap::new();
            for block in &mine {
                let kept = block.accepted > depth;
                if let Some(cluster) =
                    block.cluster.filter(|_| kept || (block.rejected && block.accepted == depth))
                {
                    shares.entry(cluster).or_default().add(f64::from(u8::from(kept)), 1.0);
                }
            }
            Some(Depth { depth, acceptance: Estimate::of(&values(shares)).ok()? })
        })
        .collect()
}

#[cfg(test)]
#[path = "acceptance_tests.rs"]
mod tests;
