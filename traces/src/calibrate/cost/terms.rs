//! Pass times as a sum of terms.

use std::num::NonZeroU32;

use specrouter_routing::backend::After;
use specrouter_routing::profile::LinearTerms;

use super::super::squares::non_negative;
use super::{Sample, trimmed};

/// The least a pass is said to take: shorter is no time on the clock.
const LEAST_SECONDS: f64 = 1e-9;
/// Sizes that tiles have, in tokens: of vector and matrix units, of thread blocks.
const TILES: [u32; 6] = [4, 8, 16, 32, 64, 128];
/// Samples that suffice to tell which.
const LOOK_AT: usize = 4_000;
/// An error counts up to this much when tiles are compared: stalls tell nothing.
const MOST_ERROR: f64 = 0.5;
/// Tiles must foretell passes better by this share, or there are none.
const MUST_GAIN: f64 = 0.02;

/// Terms of a pass: of one after another of the same model, and what is added where it is not.
pub(super) struct Terms {
    pub warm: LinearTerms,
    pub other: f64,
    pub idle: f64,
}

impl Terms {
    /// From the terms in the order of [`terms_of`].
    fn new(
        [pass, row, token, context, pair, tiles, other, idle]: [f64; TERMS],
        tile: Option<NonZeroU32>,
    ) -> Self {
        let sum = LinearTerms::new(pass, row, token, context, pair);
        let sum = sum.and_then(|sum| match tile.filter(|_| tiles > 0.0) {
            Some(tile) => sum.with_tiles(tile, tiles),
            None => Ok(sum),
        });
        let warm = sum.expect("the squares of finite times are finite, and no coefficient is negative");
        Self { warm, other, idle }
    }

    /// Seconds of a pass like `sample`.
    pub fn seconds(&self, sample: &Sample) -> f64 {
        self.warm.seconds(&sample.shape) + self.more(sample.after)
    }

    /// What is added after `after`.
    pub fn more(&self, after: After) -> f64 {
        match after {
            After::Same => 0.0,
            After::Other => self.other,
            After::Idle => self.idle,
        }
    }
}

/// The size of tiles that foretells `samples` best, if any does much better than none.
pub(super) fn tile(samples: &[Sample]) -> Option<NonZeroU32> {
    let some: Vec<Sample> = samples.iter().step_by(samples.len().div_ceil(LOOK_AT).max(1)).copied().collect();
    let error = |tile: Option<NonZeroU32>| {
        let terms = fit(&some, tile);
        let off = |sample: &Sample| (terms.seconds(sample) / sample.seconds - 1.0).abs().min(MOST_ERROR);
        some.iter().map(off).sum::<f64>()
    };
    let none = error(None);
    let tiles = TILES.into_iter().filter_map(NonZeroU32::new).map(|tile| (error(Some(tile)), tile));
    let (least, tile) = tiles.min_by(|a, b| a.0.total_cmp(&b.0))?;
    (least < none * (1.0 - MUST_GAIN)).then_some(tile)
}

/// Number of terms.
const TERMS: usize = 8;

/// What each term is multiplied with: those of [`LinearTerms`] in order, then after another model and after idling;
/// what the samples never were without (`always`) is no term of its own.
fn terms_of(sample: &Sample, tile: Option<NonZeroU32>, always: After) -> [f64; TERMS] {
    let Sample { shape, after, .. } = sample;
    let when = |is: After| if *after == is && is != always { 1.0 } else { 0.0 };
    [
        1.0,
        f64::from(shape.rows),
        f64::from(shape.new_tokens),
        shape.context_tokens as f64,
        shape.attention_pairs as f64,
        tile.map_or(0.0, |tile| f64::from(shape.new_tokens.div_ceil(tile.get()))),
        when(After::Other),
        when(After::Idle),
    ]
}

/// Non-negative least squares of relative errors, weighed down past Huber's bound, so that a stalled pass
/// does not price the others.
///
/// Errors are relative to the prediction of the round before: relative to the observation, slow passes
/// would weigh least and every price would come out low. What is fitted so is the usual pass; a simulation needs
/// what passes take together, so all terms are scaled to that at last.
pub(super) fn fit(samples: &[Sample], tile: Option<NonZeroU32>) -> Terms {
    const ROUNDS: usize = 12;
    const HUBER: f64 = 1.345;
    let mut weights: Vec<f64> = samples.iter().map(|s| 1.0 / (s.seconds * s.seconds)).collect();
    let seen = |after: &After| samples.iter().any(|sample| sample.after == *after);
    let always = [After::Same, After::Other].into_iter().find(seen).unwrap_or(After::Idle);
    let mut found = [0.0; TERMS];
    for _ in 0..ROUNDS {
        let (mut gram, mut right) = ([[0.0; TERMS]; TERMS], [0.0; TERMS]);
        for (sample, &weight) in samples.iter().zip(&weights) {
            let x = terms_of(sample, tile, always);
            for i in 0..TERMS {
                right[i] += weight * x[i] * sample.seconds;
                for j in 0..TERMS {
                    gram[i][j] += weight * x[i] * x[j];
                }
            }
        }
        found = non_negative(&gram, &right);
        let predict = |sample: &Sample| {
            terms_of(sample, tile, always)
                .iter()
                .zip(&found)
                .map(|(x, f)| x * f)
                .sum::<f64>()
                .max(LEAST_SECONDS)
        };
        let residuals: Vec<f64> =
            samples.iter().map(|s| ((s.seconds - predict(s)) / predict(s)).abs()).collect();
        let mut sorted = residuals.clone();
        sorted.sort_by(f64::total_cmp);
        let bound = HUBER * 1.4826 * sorted[sorted.len() / 2] + 1e-9;
        for ((weight, residual), sample) in weights.iter_mut().zip(residuals).zip(samples) {
            let predicted = predict(sample);
            *weight = (bound / residual.max(bound)) / (predicted * predicted);
        }
    }
    found[0] = found[0].max(LEAST_SECONDS);
    let usual = Terms::new(found, tile);
    let mut ratios: Vec<(f64, f64)> = samples.iter().map(|s| (s.seconds, usual.seconds(s))).collect();
    ratios.sort_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
    let (took, foretold) =
        trimmed(&ratios).iter().fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    Terms::new(found.map(|term| term * took / foretold), tile)
}
