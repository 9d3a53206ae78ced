//! Raw evidence of acceptance, and the estimators that read it.

mod clustered;

pub use clustered::{ClusteredMean, Share};

use crate::chain::MAX_MODELS;
use crate::ids::ModelId;

/// What has been seen of one drafter under one verifier, raw: smoothing is each policy's own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PairEvidence {
    /// Verifications of a block of at least one token.
    pub verifications: u64,
    /// Tokens verified.
    pub drafted: u64,
    /// Tokens kept.
    pub accepted: u64,
    /// Verifications that ended in a rejection.
    pub rejections: u64,
    /// Positions at which both distributions were compared, probes included.
    pub examined: u64,
    /// Σ similarity over them.
    pub similarity: f64,
    /// Tick of the newest piece; its age is the present tick minus this.
    pub tick: u64,
}

impl PairEvidence {
    /// Adds `other`'s counts, seen at `tick`.
    pub fn add(&mut self, other: &Self, tick: u64) {
        self.verifications += other.verifications;
        self.drafted += other.drafted;
        self.accepted += other.accepted;
        self.rejections += other.rejections;
        self.examined += other.examined;
        self.similarity += other.similarity;
        self.tick = tick;
    }

    /// The censoring-aware estimate `Σ accepted / (Σ accepted + rejections)`; `None` before the
    /// first verdict. Exact for one α; low where α varies between positions.
    ///
    /// Source: `algorithms.md` 2.6; a full acceptance says only "at least the window".
    pub fn acceptance(&self) -> Option<f64> {
        let judged = self.accepted + self.rejections;
        (judged > 0).then(|| self.accepted as f64 / judged as f64)
    }

    /// Mean similarity over examined positions; `None` before the first.
    pub fn mean_similarity(&self) -> Option<f64> {
        (self.examined > 0).then(|| self.similarity / self.examined as f64)
    }
}

/// Evidence of every pair of a pool.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    pairs: [[PairEvidence; MAX_MODELS]; MAX_MODELS],
}

impl Evidence {
    /// What has been seen of `drafter` under `verifier`.
    pub fn pair(&self, drafter: ModelId, verifier: ModelId) -> &PairEvidence {
        &self.pairs[drafter.index()][verifier.index()]
    }

    pub(crate) fn pair_mut(&mut self, drafter: ModelId, verifier: ModelId) -> &mut PairEvidence {
        &mut self.pairs[drafter.index()][verifier.index()]
    }
}

/// An exponential moving average over examined positions rather than updates, so that a wide block
/// weighs as much as its tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ema {
    value: f64,
    weight: f64,
}

impl Ema {
    /// Nothing seen yet.
    pub const EMPTY: Self = Self { value: 0.0, weight: 0.0 };

    /// Adds `n` positions of mean `mean`; what was there before keeps `2^(−n / half_life)`.
    #[inline]
    pub fn add(&mut self, mean: f64, n: f64, half_life: f64) {
        let keep = libm::exp2(-n / half_life);
        // Σ of the weights of n equal positions, newest 1, decaying by 2^(−1/half_life) each.
        let decay = libm::exp2(-1.0 / half_life);
        let new = (1.0 - keep) / (1.0 - decay);
        let weight = self.weight * keep + new;
        self.value = (self.value * self.weight * keep + mean * new) / weight;
        self.weight = weight;
    }

    /// The average; `None` before the first position.
    pub fn get(&self) -> Option<f64> {
        (self.weight > 0.0).then_some(self.value)
    }

    /// Positions' worth of weight behind the average, at most about 1.44 half-lives.
    pub const fn weight(&self) -> f64 {
        self.weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::luck::{Luck, Stream};

    #[test]
    fn censored_rounds_do_not_bias_the_estimate_of_one_alpha() {
        let draws = Luck::new(3).stream(Stream::Test);
        for (alpha, window) in [(0.8, 1u64), (0.8, 3), (0.6, 5), (0.9, 8)] {
            let mut pair = PairEvidence::default();
            for round in 0..40_000u64 {
                let accepted = (0..window)
                    .take_while(|&j| draws.uniform(round, j + 100 * window) < alpha)
                    .count() as u64;
                let seen = PairEvidence {
                    verifications: 1,
                    drafted: window,
                    accepted,
                    rejections: u64::from(accepted < window),
                    ..PairEvidence::default()
                };
                pair.add(&seen, round);
            }
            let estimate = pair.acceptance().unwrap();
            assert!((estimate - alpha).abs() < 0.01, "{estimate} for {alpha}");
            if alpha < 0.85 {
                // The engines' ratio is another number; see algorithms.md 2.6.
                assert!(pair.accepted as f64 / pair.drafted as f64 <= alpha + 0.01);
            }
        }
    }

    #[test]
    fn an_average_forgets_half_in_a_half_life() {
        let mut ema = Ema::EMPTY;
        ema.add(1.0, 1e6, 64.0);
        ema.add(0.0, 64.0, 64.0);
        assert!((ema.get().unwrap() - 0.5).abs() < 1e-9);
        let (mut one, mut many) = (Ema::EMPTY, Ema::EMPTY);
        one.add(0.3, 12.0, 64.0);
        (0..12).for_each(|_| many.add(0.3, 1.0, 64.0));
        assert!((one.weight() - many.weight()).abs() < 1e-9, "twelve at once weigh as twelve in a row");
    }
}
