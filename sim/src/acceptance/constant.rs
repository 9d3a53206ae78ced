//! One acceptance probability per pair: independent coins, one per position and verifier.

use specrouter_routing::chain::MAX_MODELS;
use specrouter_routing::ids::ModelId;

use super::config::AcceptanceError;
use super::law::{Law, OffPath, Pair, Walk};

/// `α[drafter][verifier]`; `None` where the pool has no such pair.
pub(crate) type Matrix = [[Option<f64>; MAX_MODELS]; MAX_MODELS];

/// Constant acceptance. A token of `i` on the path is kept by `k` iff U(position, k) < α_ik, so a
/// chain `i > j > k` stands with probability α_ij·α_jk, and drafters under one verifier are nested.
#[derive(Clone, Debug)]
pub struct Constant {
    rates: Box<[[f64; MAX_MODELS]; MAX_MODELS]>,
}

/// Every `(drafter, verifier)` of a pool, by index.
pub(crate) fn ordered_pairs(models: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..models).flat_map(move |i| (i + 1..models).map(move |k| (i, k)))
}

/// Rounding of products that users write to four places.
const SLACK: f64 = 1e-9;

impl Constant {
    pub(crate) fn new(matrix: &Matrix, names: &[&str]) -> Result<Self, AcceptanceError> {
        for (i, j) in ordered_pairs(names.len()) {
            for k in j + 1..names.len() {
                if let (Some(ij), Some(jk), Some(ik)) = (matrix[i][j], matrix[j][k], matrix[i][k])
                    && ij * jk > ik + SLACK
                {
                    let [first, second, third] = [i, j, k].map(|m| names[m].to_owned());
                    return Err(AcceptanceError::Product { first, second, third, ij, jk, ik });
                }
            }
        }
        Ok(Self { rates: Box::new(matrix.map(|row| row.map(|rate| rate.unwrap_or(0.0)))) })
    }

    #[inline]
    pub(crate) fn rate(&self, drafter: ModelId, verifier: ModelId) -> f64 {
        self.rates[drafter.index()][verifier.index()]
    }
}

impl Law for Constant {
    type Scene = ();

    #[inline]
    fn on_path(&self, _: &mut Walk<'_>, _: u32) {}

    #[inline]
    fn keeps(&self, (): (), walk: &Walk<'_>, position: u32, pair: Pair) -> bool {
        walk.coins.on_path(walk.sequence.request, position, pair.verifier.0)
            < self.rate(pair.drafter, pair.verifier)
    }

    #[inline]
    fn beyond(&self, _: &mut Walk<'_>, _: u32, _: ModelId, _: &mut OffPath<'_>) {}

    #[inline]
    fn leaving(&self, _: &Walk<'_>, _: Option<u32>, _: Pair, _: &mut OffPath<'_>) {}

    #[inline]
    fn keeps_off(&self, (): (), _: &Walk<'_>, pair: Pair, off: &mut OffPath<'_>) -> bool {
        off.uniform() < self.rate(pair.drafter, pair.verifier)
    }

    #[inline]
    fn similarity(&self, _: &mut Walk<'_>, _: u32, pair: Pair) -> f64 {
        self.rate(pair.drafter, pair.verifier)
    }

    #[inline]
    fn similarities(&self, _: Walk<'_>, _: u32, count: u32, drafter: ModelId, verifier: ModelId) -> f64 {
        self.rate(drafter, verifier) * f64::from(count)
    }

    #[inline]
    fn prefix(&self, walk: Walk<'_>, first: u32, count: u32, drafter: ModelId, target: ModelId) -> u32 {
        let (rate, request) = (self.rate(drafter, target), walk.sequence.request);
        let mut kept = 0;
        while kept < count && walk.coins.on_path(request, first + kept, target.0) < rate {
            kept += 1;
        }
        kept
    }
}
