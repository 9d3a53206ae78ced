//! A prior belief about pass times, corrected by the times a replica has observed.

use std::sync::Arc;

use super::{PassCosts, PassShape};
use crate::chain::MAX_MODELS;
use crate::ids::ModelId;
use crate::units::Span;

/// Half-octaves of new tokens: 1, 2, 3, 4, 6, 8, 12, …
const BUCKETS: usize = 40;
/// Weight of a new observation once a bucket is warm: an EMA over some 16 passes.
const WEIGHT: f64 = 1.0 / 16.0;
/// Weight of "as believed" against one size of pass.
const RIDGE: f64 = 1e-3;
/// Relative change of a ratio that counts as news.
const NEWS: f64 = 0.02;

/// The paper's profiler: moving averages of observed over believed time, made to say something of passes not seen yet.
///
/// A data sheet is wrong in two ways: launches and host time add to every pass, and what is left runs at a share of the
/// sheet's rate. So for each model observed times are fitted as `a + b * believed`, over the sizes of pass seen
/// (half-octaves of new tokens, each with its moving average), and what the fit leaves is kept as a ratio by size,
/// interpolated between the sizes seen. A model never seen is believed as is.
#[derive(Clone)]
pub struct Corrected {
    prior: Arc<dyn PassCosts>,
    models: Vec<Ratios>,
    version: u64,
}

#[derive(Clone)]
struct Ratios {
    seen: u64,
    buckets: [Bucket; BUCKETS],
    /// Seconds that every pass takes besides, and the factor on what is believed.
    fixed: f64,
    factor: f64,
}

/// One size of pass.
#[derive(Clone, Copy)]
struct Bucket {
    /// Mean observed and mean believed seconds.
    observed: f64,
    believed: f64,
    /// Observed over believed when the version last grew for it.
    told: f64,
    passes: u32,
}

impl Corrected {
    /// No correction yet.
    pub fn new(prior: Arc<dyn PassCosts>) -> Self {
        let bucket = Bucket { observed: 0.0, believed: 0.0, told: 1.0, passes: 0 };
        let none = Ratios { seen: 0, buckets: [bucket; BUCKETS], fixed: 0.0, factor: 1.0 };
        Self { prior, models: vec![none; MAX_MODELS], version: 0 }
    }

    /// Learns from one pass. Answers what was believed of it before, in seconds.
    #[inline]
    pub fn observe(&mut self, model: ModelId, shape: &PassShape, duration: Span) -> f64 {
        let (prior, observed) = (self.prior.seconds(model, shape), duration.seconds());
        let index = position(shape.new_tokens);
        let ratios = &mut self.models[model.index()];
        let before = ratios.seconds(prior, index);
        let first = ratios.seen & (1 << index) == 0;
        let bucket = &mut ratios.buckets[index];
        bucket.passes = bucket.passes.saturating_add(1);
        // A young bucket averages, a warm one forgets.
        let weight = WEIGHT.max(1.0 / f64::from(bucket.passes));
        bucket.observed += weight * (observed - bucket.observed);
        bucket.believed += weight * (prior - bucket.believed);
        ratios.seen |= 1 << index;
        let ratio = bucket.observed / bucket.believed;
        if first || (ratio - bucket.told).abs() > NEWS * bucket.told {
            bucket.told = ratio;
            self.version += 1;
            ratios.fit();
        }
        before
    }

    /// Grows whenever some price has moved by 2 % or a size was seen for the first time: a
    /// decision made at an older version is stale.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Has this model been observed at all?
    pub fn observed(&self, model: ModelId) -> bool {
        self.models[model.index()].seen != 0
    }
}

impl PassCosts for Corrected {
    fn seconds(&self, model: ModelId, shape: &PassShape) -> f64 {
        self.models[model.index()].seconds(self.prior.seconds(model, shape), position(shape.new_tokens))
    }
}

impl Ratios {
    /// Seconds of a pass of the size `bucket` that `prior` seconds were believed of.
    #[inline]
    fn seconds(&self, prior: f64, bucket: usize) -> f64 {
        (self.fixed + self.factor * prior) * self.left(bucket)
    }

    /// Least squares of relative errors over the sizes seen, neither number below 0, drawn slightly to "as believed":
    /// one size alone says nothing of which of the two is wrong.
    fn fit(&mut self) {
        let seen = (0..BUCKETS).filter(|&index| self.seen >> index & 1 == 1).map(|index| &self.buckets[index]);
        // Unknowns in units of the smallest pass seen: a' = a / unit.
        let unit = seen.clone().map(|bucket| bucket.observed).fold(f64::INFINITY, f64::min);
        let (mut aa, mut ab, mut bb, mut ay, mut by) = (RIDGE, 0.0, RIDGE, 0.0, RIDGE);
        for bucket in seen {
            let (x, y) = (unit / bucket.observed, bucket.believed / bucket.observed);
            aa += x * x;
            ab += x * y;
            bb += y * y;
            ay += x;
            by += y;
        }
        let determinant = aa * bb - ab * ab;
        let (fixed, factor) = ((ay * bb - by * ab) / determinant, (by * aa - ay * ab) / determinant);
        let (fixed, factor) = match (fixed >= 0.0, factor >= 0.0) {
            (true, true) => (fixed, factor),
            (false, _) => (0.0, by / bb),
            (_, false) => (ay / aa, 0.0),
        };
        if fixed.is_finite() && factor.is_finite() {
            (self.fixed, self.factor) = (fixed * unit, factor);
        }
    }

    /// What the fit leaves at a size seen, or between the nearest that were seen below and above it.
    #[inline]
    fn left(&self, bucket: usize) -> f64 {
        let own = |index: usize| {
            let Bucket { observed, believed, .. } = self.buckets[index];
            observed / (self.fixed + self.factor * believed)
        };
        if self.seen & (1 << bucket) != 0 {
            return own(bucket);
        }
        let below = self.seen & ((1u64 << bucket) - 1);
        let above = self.seen & !((1u64 << bucket) - 1);
        let (low, high) = ((63 - (below | 1).leading_zeros()) as usize, above.trailing_zeros() as usize);
        match (below, above) {
            (0, 0) => 1.0,
            (0, _) => own(high),
            (_, 0) => own(low),
            _ => own(low) + (bucket - low) as f64 / (high - low) as f64 * (own(high) - own(low)),
        }
    }
}

/// The half-octave of a number of tokens.
#[inline]
fn position(tokens: u32) -> usize {
    let tokens = tokens.max(1);
    let power = 31 - tokens.leading_zeros();
    let half = if power == 0 { 0 } else { (tokens >> (power - 1)) & 1 };
    ((2 * power + half) as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One;
    impl PassCosts for One {
        fn seconds(&self, _: ModelId, _: &PassShape) -> f64 {
            1.0
        }
    }

    fn seconds(costs: &Corrected, tokens: u32) -> f64 {
        costs.seconds(ModelId(0), &PassShape::uniform(1, tokens, 0))
    }

    #[test]
    fn unseen_sizes_lie_between_those_seen() {
        let mut costs = Corrected::new(Arc::new(One));
        assert!((seconds(&costs, 9) - 1.0).abs() < 1e-12);
        costs.observe(ModelId(0), &PassShape::uniform(1, 1, 0), Span::from_nanos(3_000_000_000));
        assert!((seconds(&costs, 512) - 3.0).abs() < 1e-12);
        costs.observe(ModelId(0), &PassShape::uniform(1, 64, 0), Span::from_nanos(1_000_000_000));
        assert!((seconds(&costs, 8) - 2.0).abs() < 1e-12, "half way in octaves");
        assert!(
            (costs.seconds(ModelId(1), &PassShape::uniform(1, 8, 0)) - 1.0).abs() < 1e-12,
            "other models keep their prior"
        );
    }

    #[test]
    fn the_average_follows_a_change_and_says_so() {
        let mut costs = Corrected::new(Arc::new(One));
        let shape = PassShape::uniform(1, 1, 0);
        for _ in 0..50 {
            costs.observe(ModelId(0), &shape, Span::from_nanos(1_000_000_000));
        }
        let version = costs.version();
        for _ in 0..100 {
            costs.observe(ModelId(0), &shape, Span::from_nanos(2_000_000_000));
        }
        assert!((seconds(&costs, 1) - 2.0).abs() < 0.01 && costs.version() > version);
    }
}
