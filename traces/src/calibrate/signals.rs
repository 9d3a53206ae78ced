//! How well a drafter's confidence foretells that its token is kept, and how levels go together.

use serde::Serialize;
use specrouter_routing::record::{Decoding, pair_index, pairs};

use super::evidence::Evidence;
use super::{Fitted, enough};

/// Positions below which no correlation is given.
pub const LEAST_POSITIONS: usize = 200;
/// Most positions that are ranked; more are thinned evenly.
const MOST_RANKED: usize = 200_000;
/// Points of a curve.
const BINS: usize = 20;

/// Rank correlations of a drafter's signals with the chance that its token is kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SignalQuality {
    /// Who proposes, by place in the pool.
    pub drafter: usize,
    /// Who judges.
    pub verifier: usize,
    /// Spearman's correlation of the top probability with the overlap.
    pub top_probability: f64,
    /// Spearman's correlation of the entropy with the overlap; below 0 where it foretells.
    pub entropy: f64,
    /// Positions ranked.
    pub positions: usize,
}

/// The quality of every pair's signals, within classes: what differs between classes a class label already
/// tells, so correlations are means over classes by their positions.
///
/// # Errors
/// [`super::Shortage`] below [`LEAST_POSITIONS`] scored positions in every class.
pub fn quality(evidence: &Evidence) -> Fitted<Vec<SignalQuality>> {
    let mut found = Vec::new();
    for (pair, (drafter, verifier)) in pairs(evidence.pool.len()).enumerate() {
        let (mut top, mut entropy, mut ranked) = (0.0, 0.0, 0);
        let mut most = 0;
        for class in 0..evidence.classes.len() {
            let texts = || evidence.texts.iter().filter(move |text| text.class == class);
            let overlaps = thinned(texts().map(|text| text.overlaps[pair].as_slice()));
            most = most.max(overlaps.len());
            if overlaps.len() < LEAST_POSITIONS {
                continue;
            }
            let kept = ranks(&overlaps);
            let share = overlaps.len() as f64;
            let tops = thinned(texts().map(|text| text.top_probability[drafter].as_slice()));
            let entropies = thinned(texts().map(|text| text.entropy[drafter].as_slice()));
            top += share * correlation(&ranks(&tops), &kept);
            entropy += share * correlation(&ranks(&entropies), &kept);
            ranked += overlaps.len();
        }
        enough("scored positions", most, LEAST_POSITIONS)?;
        found.push(SignalQuality {
            drafter,
            verifier,
            top_probability: top / ranked as f64,
            entropy: entropy / ranked as f64,
            positions: ranked,
        });
    }
    Ok(found)
}

/// Correlation, position by position and within classes, of two drafts' overlaps with the target.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LevelCorrelation {
    /// One draft, by place in the pool.
    pub first: usize,
    /// The other.
    pub second: usize,
    /// Pearson's correlation.
    pub correlation: f64,
}

/// The correlation of every two drafts.
///
/// # Errors
/// [`super::Shortage`] below [`LEAST_POSITIONS`] scored positions.
pub fn levels(evidence: &Evidence) -> Fitted<Vec<LevelCorrelation>> {
    let models = evidence.pool.len();
    let positions: usize = evidence.texts.iter().map(super::evidence::Text::len).sum();
    enough("scored positions", positions, LEAST_POSITIONS)?;
    let target = models - 1;
    let drafts = pairs(models).filter(|&(_, second)| second != target);
    Ok(drafts
        .map(|(first, second)| {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            for class in 0..evidence.classes.len() {
                for (pair, values) in [(first, &mut a), (second, &mut b)] {
                    let pair = pair_index(models, pair, target);
                    let texts = evidence.texts.iter().filter(|text| text.class == class);
                    let own = thinned(texts.map(|text| text.overlaps[pair].as_slice()));
                    let mean = own.iter().sum::<f64>() / own.len().max(1) as f64;
                    values.extend(own.into_iter().map(|v| v - mean));
                }
            }
            LevelCorrelation { first, second, correlation: correlation(&a, &b) }
        })
        .collect())
}

/// A curve from what is measured to the acceptance it stands for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mapping {
    /// Who proposes, by place in the pool.
    pub drafter: usize,
    /// Who judges.
    pub verifier: usize,
    /// `(measured, acceptance)`, rising; empty for the identity.
    pub points: Vec<(f64, f64)>,
    /// Root mean square distance of the bins from the curve; 0 for the identity.
    pub residual: f64,
}

/// The mapping f of every pair. Sampled and verified by min(1, p/q), acceptance is the overlap itself and
/// f the identity. Where choices must agree, overlaps are agreements already and the curve leads
/// from the drafter's top probability to the rate of agreement: isotonic regression over bins of equal counts.
///
/// # Errors
/// [`super::Shortage`] below [`LEAST_POSITIONS`] scored positions where a curve is needed.
pub fn mapping(evidence: &Evidence, decoding: Decoding) -> Fitted<Vec<Mapping>> {
    let mut found = Vec::new();
    for (pair, (drafter, verifier)) in pairs(evidence.pool.len()).enumerate() {
        if !decoding.by_agreement() {
            found.push(Mapping { drafter, verifier, points: Vec::new(), residual: 0.0 });
            continue;
        }
        let kept = thinned(evidence.texts.iter().map(|text| text.overlaps[pair].as_slice()));
        enough("scored positions", kept.len(), LEAST_POSITIONS)?;
        let tops = thinned(evidence.texts.iter().map(|text| text.top_probability[drafter].as_slice()));
        let bins = binned(&tops, &kept);
        let curve = rising(&bins);
        let squares: f64 = bins.iter().zip(&curve).map(|(bin, at)| (bin.1 - at).powi(2)).sum();
        let residual = (squares / bins.len() as f64).sqrt();
        let points = bins.iter().zip(curve).map(|(bin, at)| (bin.0, at)).collect();
        found.push(Mapping { drafter, verifier, points, residual });
    }
    Ok(found)
}

/// Means of `(x, y)` in bins of equal counts, by rising x: for curves and plots.
pub fn binned(x: &[f64], y: &[f64]) -> Vec<(f64, f64)> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| x[a].total_cmp(&x[b]));
    let size = order.len().div_ceil(BINS).max(1);
    let mean = |values: &[f64], bin: &[usize]| bin.iter().map(|&i| values[i]).sum::<f64>() / bin.len() as f64;
    order.chunks(size).map(|bin| (mean(x, bin), mean(y, bin))).collect()
}

/// Top probabilities of a pair's drafter against its overlaps, in bins, over all classes.
pub fn curve(evidence: &Evidence, drafter: usize, verifier: usize) -> Vec<(f64, f64)> {
    let pair = pair_index(evidence.pool.len(), drafter, verifier);
    let tops = thinned(evidence.texts.iter().map(|text| text.top_probability[drafter].as_slice()));
    let kept = thinned(evidence.texts.iter().map(|text| text.overlaps[pair].as_slice()));
    binned(&tops, &kept)
}

/// The rising sequence nearest to the bins' heights, by pooling neighbours that fall (bins weigh alike).
fn rising(bins: &[(f64, f64)]) -> Vec<f64> {
    let mut blocks: Vec<(f64, usize)> = Vec::new();
    for &(_, height) in bins {
        blocks.push((height, 1));
        while let [.., (before, n), (last, m)] = blocks[..]
            && before > last
        {
            blocks.truncate(blocks.len() - 2);
            blocks.push(((before * n as f64 + last * m as f64) / (n + m) as f64, n + m));
        }
    }
    blocks.into_iter().flat_map(|(height, count)| std::iter::repeat_n(height, count)).collect()
}

/// All values, or evenly every n-th where there are more than [`MOST_RANKED`]; the same ones whatever is asked.
fn thinned<'a>(parts: impl Iterator<Item = &'a [f32]>) -> Vec<f64> {
    let all: Vec<f64> = parts.flatten().map(|&v| f64::from(v)).collect();
    let every = all.len().div_ceil(MOST_RANKED).max(1);
    all.into_iter().step_by(every).collect()
}

/// Ranks from 0; equal values share the middle of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for tied in order.chunk_by(|&a, &b| values[a].total_cmp(&values[b]).is_eq()) {
        tied.iter().for_each(|&i| ranks[i] = before as f64 + (tied.len() - 1) as f64 / 2.0);
        before += tied.len();
    }
    ranks
}

/// Pearson's correlation; 0 where either side does not vary.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len().max(1) as f64;
    let (mean_a, mean_b) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        ab += (x - mean_a) * (y - mean_b);
        aa += (x - mean_a).powi(2);
        bb += (y - mean_b).powi(2);
    }
    if aa > 0.0 && bb > 0.0 { ab / (aa * bb).sqrt() } else { 0.0 }
}

#[cfg(test)]
#[path = "signals_tests.rs"]
mod tests;
