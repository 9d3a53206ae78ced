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
/// Relative change of a ratio that counts as news.
const NEWS: f64 = 0.02;

/// The paper's profiler: for each model and size of pass an exponential moving average of observed
/// over believed time.
///
/// A belief is right in shape and wrong by a factor that depends on the size of the pass
/// (launches and host time weigh most on small ones), so the factor is kept per half-octave of new
/// tokens and interpolated between the sizes seen; sizes beyond them take the nearest, and a model
/// never seen is believed as is.
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
}

/// One size of pass.
#[derive(Clone, Copy)]
struct Bucket {
    /// Observed over believed.
    ratio: f64,
    /// The ratio when the version last grew for it.
    told: f64,
    passes: u32,
}

impl Corrected {
    /// No correction yet.
    pub fn new(prior: Arc<dyn PassCosts>) -> Self {
        let none = Ratios { seen: 0, buckets: [Bucket { ratio: 1.0, told: 1.0, passes: 0 }; BUCKETS] };
        Self { prior, models: vec![none; MAX_MODELS], version: 0 }
    }

    /// Learns from one pass. Answers what was believed of it before, in seconds.
    #[inline]
    pub fn observe(&mut self, model: ModelId, shape: &PassShape, duration: Span) -> f64 {
        let prior = self.prior.seconds(model, shape);
        let observed = duration.seconds() / prior;
        let before = prior * self.models[model.index()].ratio(position(shape.new_tokens));
        let ratios = &mut self.models[model.index()];
        let index = position(shape.new_tokens);
        let first = ratios.seen & (1 << index) == 0;
        let bucket = &mut ratios.buckets[index];
        bucket.passes = bucket.passes.saturating_add(1);
        if first {
            ratios.seen |= 1 << index;
            bucket.ratio = observed;
        } else {
            // A young bucket averages, a warm one forgets.
            let weight = WEIGHT.max(1.0 / f64::from(bucket.passes));
            bucket.ratio += weight * (observed - bucket.ratio);
        }
        if first || (bucket.ratio - bucket.told).abs() > NEWS * bucket.told {
            bucket.told = bucket.ratio;
            self.version += 1;
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
        self.prior.seconds(model, shape) * self.models[model.index()].ratio(position(shape.new_tokens))
    }
}

impl Ratios {
    /// The ratio at a bucket, or between the nearest that were seen below and above it.
    #[inline]
    fn ratio(&self, bucket: usize) -> f64 {
        if self.seen & (1 << bucket) != 0 {
            return self.buckets[bucket].ratio;
        }
        let below = self.seen & ((1u64 << bucket) - 1);
        let above = self.seen & !((1u64 << bucket) - 1);
        match (below, above) {
            (0, 0) => 1.0,
            (0, _) => self.buckets[above.trailing_zeros() as usize].ratio,
            (_, 0) => self.buckets[63 - below.leading_zeros() as usize].ratio,
            _ => {
                let (low, high) = (63 - below.leading_zeros() as usize, above.trailing_zeros() as usize);
                let share = (bucket - low) as f64 / (high - low) as f64;
                self.buckets[low].ratio + share * (self.buckets[high].ratio - self.buckets[low].ratio)
            }
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
