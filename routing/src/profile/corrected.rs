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
/// The fit that believes the prior.
const AS_BELIEVED: Parts = [0.0, 1.0, 1.0];
/// Relative change of a ratio that counts as news.
const NEWS: f64 = 0.02;

/// The paper's profiler: moving averages of observed over believed time, made to say something of passes not seen yet.
///
/// A data sheet is wrong in more than one way: launches and host time add to every pass, weights and caches are each
/// read at some share of the sheet's rate. So for each model observed times are fitted as
/// `a + b * believed without context + c * what the context adds`, none below 0, over the sizes of pass seen
/// (half-octaves of new tokens, each with its moving averages). What the fit leaves is kept as a ratio by size,
/// interpolated between the sizes seen. A model never seen is believed as is.
#[derive(Clone)]
pub struct Corrected {
    prior: Arc<dyn PassCosts>,
    models: Vec<Ratios>,
    version: u64,
}

/// A believed time in parts: 1, seconds without context, seconds that the context adds.
type Parts = [f64; 3];

#[derive(Clone)]
struct Ratios {
    seen: u64,
    buckets: [Bucket; BUCKETS],
    /// What each part takes in truth: seconds, factor, factor.
    fit: Parts,
}

/// One size of pass.
#[derive(Clone, Copy)]
struct Bucket {
    /// Mean observed seconds, and mean parts of what was believed.
    observed: f64,
    parts: Parts,
    /// Observed over believed when the version last grew for it.
    told: f64,
    passes: u32,
}

impl Corrected {
    /// No correction yet.
    pub fn new(prior: Arc<dyn PassCosts>) -> Self {
        let bucket = Bucket { observed: 0.0, parts: [1.0, 0.0, 0.0], told: 1.0, passes: 0 };
        let none = Ratios { seen: 0, buckets: [bucket; BUCKETS], fit: AS_BELIEVED };
        Self { prior, models: vec![none; MAX_MODELS], version: 0 }
    }

    /// Learns from one pass. Answers what was believed of it before, in seconds.
    #[inline]
    pub fn observe(&mut self, model: ModelId, shape: &PassShape, duration: Span) -> f64 {
        let (parts, observed) = (self.parts(model, shape), duration.seconds());
        let index = position(shape.new_tokens);
        let ratios = &mut self.models[model.index()];
        let before = ratios.seconds(&parts, index);
        let first = ratios.seen & (1 << index) == 0;
        let bucket = &mut ratios.buckets[index];
        bucket.passes = bucket.passes.saturating_add(1);
        // A young bucket averages, a warm one forgets.
        let weight = WEIGHT.max(1.0 / f64::from(bucket.passes));
        bucket.observed += weight * (observed - bucket.observed);
        for (mean, part) in bucket.parts.iter_mut().zip(parts) {
            *mean += weight * (part - *mean);
        }
        ratios.seen |= 1 << index;
        let ratio = bucket.observed / (bucket.parts[1] + bucket.parts[2]);
        if first || (ratio - bucket.told).abs() > NEWS * bucket.told {
            bucket.told = ratio;
            self.version += 1;
            ratios.refit();
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

    #[inline]
    fn parts(&self, model: ModelId, shape: &PassShape) -> Parts {
        let all = self.prior.seconds(model, shape);
        if shape.context_tokens == 0 {
            return [1.0, all, 0.0];
        }
        let across = u64::from(shape.new_tokens / shape.rows.max(1)) * shape.context_tokens;
        let bare = PassShape {
            context_tokens: 0,
            attention_pairs: shape.attention_pairs.saturating_sub(across).max(u64::from(shape.new_tokens)),
            ..*shape
        };
        let bare = self.prior.seconds(model, &bare).min(all);
        [1.0, bare, all - bare]
    }
}

impl PassCosts for Corrected {
    fn seconds(&self, model: ModelId, shape: &PassShape) -> f64 {
        self.models[model.index()].seconds(&self.parts(model, shape), position(shape.new_tokens))
    }
}

fn sum(fit: &Parts, parts: &Parts) -> f64 {
    fit.iter().zip(parts).map(|(a, b)| a * b).sum()
}

impl Ratios {
    /// Seconds of a pass of the size `bucket` of which `parts` were believed.
    #[inline]
    fn seconds(&self, parts: &Parts, bucket: usize) -> f64 {
        sum(&self.fit, parts) * self.left(bucket)
    }

    /// Least squares of relative errors over the sizes seen, nothing below 0, drawn slightly to "as believed": one size
    /// alone does not say which part is wrong.
    fn refit(&mut self) {
        let seen =
            (0..BUCKETS).filter(|&index| self.seen >> index & 1 == 1).map(|index| &self.buckets[index]);
        // The first unknown in units of the smallest pass seen.
        let unit = seen.clone().map(|bucket| bucket.observed).fold(f64::INFINITY, f64::min);
        let scale = [unit, 1.0, 1.0];
        let (mut left, mut right) = ([[0.0; 3]; 3], [0.0; 3]);
        for part in 0..3 {
            left[part][part] = RIDGE;
            right[part] = RIDGE * AS_BELIEVED[part];
        }
        for bucket in seen {
            let row: Parts = std::array::from_fn(|part| bucket.parts[part] * scale[part] / bucket.observed);
            for a in 0..3 {
                right[a] += row[a];
                for b in 0..3 {
                    left[a][b] += row[a] * row[b];
                }
            }
        }
        let mut used = [true; 3];
        let solution = loop {
            let solution = solve(&left, &right, used);
            let least =
                (0..3).filter(|&part| used[part]).min_by(|&a, &b| solution[a].total_cmp(&solution[b]));
            match least.filter(|&part| solution[part] < 0.0) {
                Some(part) => used[part] = false,
                None => break solution,
            }
        };
        if solution.iter().all(|value| value.is_finite()) {
            self.fit = std::array::from_fn(|part| solution[part] * scale[part]);
        }
    }

    /// What the fit leaves at a size seen, or between the nearest that were seen below and above it.
    #[inline]
    fn left(&self, bucket: usize) -> f64 {
        let own = |index: usize| {
            let Bucket { observed, parts, .. } = &self.buckets[index];
            observed / sum(&self.fit, parts)
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

/// Solves `left * x = right` over the unknowns in use; the others are 0. Symmetric and, by its ridge, definite.
fn solve(left: &[[f64; 3]; 3], right: &Parts, used: [bool; 3]) -> Parts {
    let (mut m, mut x) = (*left, *right);
    for p in (0..3).filter(|&p| used[p]) {
        for r in (0..3).filter(|&r| used[r] && r != p) {
            let (factor, pivot) = (m[r][p] / m[p][p], m[p]);
            for (cell, from) in m[r].iter_mut().zip(pivot) {
                *cell -= factor * from;
            }
            x[r] -= factor * x[p];
        }
    }
    std::array::from_fn(|p| if used[p] { x[p] / m[p][p] } else { 0.0 })
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
