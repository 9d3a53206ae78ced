//! Do the data look as the fits say.

use serde::Serialize;
use statrs::distribution::{Beta, ChiSquared, ContinuousCDF};

use super::evidence::Evidence;
use super::variation::{Spread, beta};
use super::{Fitted, LEAST_REQUESTS, Shortage, enough};

/// Expected counts below which cells are joined.
const LEAST_EXPECTED: f64 = 5.0;
/// Blocks below which lengths are not tested.
const LEAST_BLOCKS: usize = 100;

/// A test of a fit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Test {
    /// The statistic: Kolmogorov and Smirnov's D, or χ².
    pub statistic: f64,
    /// Degrees of freedom; `None` for D.
    pub freedom: Option<usize>,
    /// Chance of a statistic at least as large if the fit were true.
    pub p: f64,
    /// Requests or blocks behind it.
    pub count: usize,
}

/// Kolmogorov and Smirnov's test of requests' own means against the Beta law of their mean and their observed
/// deviation: it judges the shape. With two parameters taken from the data p is too large, so a small one is
/// news and a large one is not.
///
/// # Errors
/// [`super::Shortage`] below [`LEAST_REQUESTS`] requests, or where they do not differ.
pub fn beta_shape(spread: &Spread) -> Fitted<Test> {
    let values = &spread.observed;
    let n = values.len() as f64;
    let law = observed_law(spread)?;
    let distance = values.iter().enumerate().fold(0.0f64, |most, (index, &value)| {
        let at = law.cdf(value.clamp(0.0, 1.0));
        most.max(at - index as f64 / n).max((index + 1) as f64 / n - at)
    });
    Ok(Test { statistic: distance, freedom: None, p: kolmogorov(distance, n), count: values.len() })
}

/// The Beta law of the requests' own means as they were observed, sampling included.
fn observed_law(spread: &Spread) -> Fitted<Beta> {
    let values = &spread.observed;
    enough("requests of 16 tokens", values.len(), LEAST_REQUESTS)?;
    let squares: f64 = values.iter().map(|v| (v - spread.mean).powi(2)).sum();
    let deviation = (squares / (values.len() as f64 - 1.0)).sqrt();
    let law = beta(spread.mean, deviation).and_then(|(a, b)| Beta::new(a, b).ok());
    law.ok_or(Shortage { what: "different requests", got: 1, needed: 2 })
}

/// The distribution function of the law that [`beta_shape`] tests, for plots; empty where there is none.
pub fn beta_distribution(spread: &Spread) -> Vec<(f64, f64)> {
    const POINTS: u32 = 100;
    let Ok(law) = observed_law(spread) else { return Vec::new() };
    let (Some(low), Some(high)) = (spread.observed.first(), spread.observed.last()) else {
        return Vec::new();
    };
    let at = |i: u32| (low + (high - low) * f64::from(i) / f64::from(POINTS)).clamp(0.0, 1.0);
    (0..=POINTS).map(|i| (at(i), law.cdf(at(i)))).collect()
}

/// The chance of a distance of at least `distance` among `n` values.
///
/// Source: Stephens (1970); Numerical Recipes, 14.3.
fn kolmogorov(distance: f64, n: f64) -> f64 {
    let x = (n.sqrt() + 0.12 + 0.11 / n.sqrt()) * distance;
    if x < 0.2 {
        return 1.0; // The series converges slowly where there is nothing to see.
    }
    let term = |k: i32| f64::from(2 * (k % 2) - 1) * (-2.0 * f64::from(k * k) * x * x).exp();
    (2.0 * (1..=100).map(term).sum::<f64>()).clamp(0.0, 1.0)
}

/// χ² of accepted lengths against independent coins of the blocks' own α, at the commonest draft length of a
/// pair: whether `constant` acceptance would do. Blocks that a stop token ended are left out.
///
/// # Errors
/// [`super::Shortage`] with few blocks of one length, or too few lengths to compare.
pub fn one_coin(evidence: &Evidence, drafter: usize, verifier: usize) -> Fitted<(u32, Test)> {
    let mut by_length: Vec<Vec<u32>> = Vec::new();
    let own = |b: &&super::evidence::Block| (b.drafter, b.verifier) == (drafter, verifier);
    for block in evidence.blocks.iter().filter(own) {
        if block.rejected || block.accepted == block.drafted {
            let drafted = block.drafted as usize;
            if by_length.len() <= drafted {
                by_length.resize(drafted + 1, Vec::new());
            }
            by_length[drafted].push(block.accepted);
        }
    }
    let commonest = (0..by_length.len()).max_by_key(|&k| by_length[k].len()).unwrap_or(0);
    let none = Vec::new();
    let accepted = by_length.get(commonest).unwrap_or(&none);
    enough("blocks of one length", accepted.len(), LEAST_BLOCKS)?;
    let n = accepted.len() as f64;
    let kept: u32 = accepted.iter().sum();
    let rejections = accepted.iter().filter(|&&a| (a as usize) < commonest).count() as f64;
    let alpha = f64::from(kept) / (f64::from(kept) + rejections);
    let mut cells: Vec<(f64, f64)> = (0..=commonest)
        .map(|length| {
            let seen = accepted.iter().filter(|&&a| a as usize == length).count() as f64;
            let last = if length == commonest { 1.0 } else { 1.0 - alpha };
            (seen, n * alpha.powi(length as i32) * last)
        })
        .collect();
    // Join the rarest with their neighbours.
    while let Some(rare) = cells.iter().position(|cell| cell.1 < LEAST_EXPECTED)
        && cells.len() > 1
    {
        let (seen, expected) = cells.remove(rare);
        let to = rare.min(cells.len() - 1);
        cells[to] = (cells[to].0 + seen, cells[to].1 + expected);
    }
    enough("accepted lengths", cells.len(), 3)?;
    let statistic = cells.iter().map(|(seen, expected)| (seen - expected).powi(2) / expected).sum();
    Ok((commonest as u32, chi_square(statistic, cells.len() - 2, accepted.len())))
}

/// χ² of what rounds kept against what the scores of the very positions foretell, by depth in the block:
/// whether the traces' two accounts of acceptance are one. Given the text before it a token is kept with
/// the chance of its overlap, so counts by depth are sums of coins of known chances.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// Tokens that were judged.
    pub judged: u64,
    /// Of those, kept.
    pub kept: u64,
    /// Σ of their overlaps.
    pub foretold: f64,
    /// The test; `None` where scores are all 0 or 1 and nothing is left to chance.
    pub test: Option<Test>,
}

/// Compares the rounds on scored texts with the scores, for the pair at `pair` in the order of pairs.
///
/// # Errors
/// [`super::Shortage`] with few rounds.
pub fn rounds_against_scores(evidence: &Evidence, pair: usize) -> Fitted<Agreement> {
    #[derive(Clone, Copy, Default)]
    struct Cell {
        judged: u64,
        kept: u64,
        foretold: f64,
        variance: f64,
    }
    let mut depths: Vec<Cell> = Vec::new();
    let mut rounds = 0;
    for placed in evidence.placed.iter().filter(|placed| placed.pair == pair) {
        rounds += 1;
        let overlaps = &evidence.texts[placed.text].overlaps[pair];
        let judged = placed.drafted.min(placed.accepted + 1) as usize;
        if depths.len() < judged {
            depths.resize(judged, Cell::default());
        }
        // Past the text's end nothing was judged.
        for (depth, &overlap) in overlaps.iter().skip(placed.position as usize).take(judged).enumerate() {
            let chance = f64::from(overlap).clamp(0.0, 1.0);
            let cell = &mut depths[depth];
            cell.judged += 1;
            cell.kept += u64::from((depth as u32) < placed.accepted);
            cell.foretold += chance;
            cell.variance += chance * (1.0 - chance);
        }
    }
    enough("rounds on scored texts", rounds, LEAST_BLOCKS)?;
    let usable: Vec<&Cell> = depths.iter().filter(|cell| cell.variance >= LEAST_EXPECTED).collect();
    let statistic: f64 =
        usable.iter().map(|cell| (cell.kept as f64 - cell.foretold).powi(2) / cell.variance).sum();
    Ok(Agreement {
        judged: depths.iter().map(|cell| cell.judged).sum(),
        kept: depths.iter().map(|cell| cell.kept).sum(),
        foretold: depths.iter().map(|cell| cell.foretold).sum(),
        test: (!usable.is_empty()).then(|| chi_square(statistic, usable.len(), rounds)),
    })
}

fn chi_square(statistic: f64, freedom: usize, count: usize) -> Test {
    let law = ChiSquared::new(freedom as f64).expect("at least one degree of freedom");
    Test { statistic, freedom: Some(freedom), p: law.sf(statistic), count }
}

#[cfg(test)]
#[path = "goodness_tests.rs"]
mod tests;
