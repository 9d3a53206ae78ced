//! Distributions of latencies: percentiles and curves of bounded size.

use serde::Serialize;
use specrouter_routing::tally::Tally;

/// Mean and percentiles of a latency, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Values behind it.
    pub count: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// `(threshold, cumulative share)` points of a distribution, ascending in both; at most
/// [`Cdf::MOST`] points.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cdf(pub Vec<(f64, f64)>);

impl Cdf {
    /// Most points of one distribution.
    pub const MOST: usize = 200;
}

/// Ascending, NaN (undefined) left out.
pub(crate) fn sorted(values: impl Iterator<Item = f32>) -> Vec<f32> {
    let mut values: Vec<f32> = values.filter(|v| !v.is_nan()).collect();
    values.sort_unstable_by(f32::total_cmp);
    values
}

/// The `q`-quantile of ascending values: linear interpolation at rank (n − 1)·q. `None` of nothing.
pub fn percentile(sorted: &[f32], q: f64) -> Option<f64> {
    let rank = sorted.len().checked_sub(1)? as f64 * q.clamp(0.0, 1.0);
    let low = rank.floor() as usize;
    let (a, b) = (f64::from(sorted[low]), f64::from(sorted[(low + 1).min(sorted.len() - 1)]));
    Some(a + (b - a) * (rank - low as f64))
}

pub(crate) fn stats(sorted: &[f32]) -> Option<Stats> {
    let q = |q| percentile(sorted, q);
    Some(Stats {
        count: sorted.len() as u64,
        mean: sorted.iter().map(|&v| f64::from(v)).sum::<f64>() / sorted.len().max(1) as f64,
        p50: q(0.5)?,
        p90: q(0.9)?,
        p95: q(0.95)?,
        p99: q(0.99)?,
    })
}

/// At most [`Cdf::MOST`] steps of the distribution, the first and the last value among them.
pub(crate) fn cdf(sorted: &[f32]) -> Cdf {
    let n = sorted.len();
    let points = n.min(Cdf::MOST);
    let rank = |k: usize| if points > 1 { k * (n - 1) / (points - 1) } else { 0 };
    Cdf((0..points).map(|k| (f64::from(sorted[rank(k)]), (rank(k) + 1) as f64 / n as f64)).collect())
}

pub(crate) fn gap_stats(tally: &Tally) -> Option<Stats> {
    let (mut below, mut sum) = (0, 0.0);
    for (upper, seen) in tally.gaps.cumulative() {
        // Buckets are 1/32 of a doubling wide: the middle lies half of that under the upper edge.
        let doubling = (upper * 1e9 - 0.5).max(1.0).log2().floor().max(5.0).exp2() * 1e-9;
        sum += (seen - below) as f64 * (upper - doubling / 64.0);
        below = seen;
    }
    let q = |q| tally.gaps.quantile(q);
    Some(Stats {
        count: tally.gaps.len(),
        mean: sum / tally.gaps.len().max(1) as f64,
        p50: q(0.5)?,
        p90: q(0.9)?,
        p95: q(0.95)?,
        p99: q(0.99)?,
    })
}

pub(crate) fn gap_cdf(tally: &Tally) -> Cdf {
    let steps = tally.gaps.cumulative();
    let (n, points) = (steps.len(), steps.len().min(Cdf::MOST));
    let index = |k: usize| if points > 1 { k * (n - 1) / (points - 1) } else { 0 };
    let all = tally.gaps.len().max(1) as f64;
    Cdf((0..points).map(|k| (steps[index(k)].0, steps[index(k)].1 as f64 / all)).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentiles_interpolate_between_order_statistics() {
        // numpy.percentile([1, 2, 3, 4], [50, 90, 95, 99])
        let values = [1.0, 2.0, 3.0, 4.0];
        for (q, expected) in [(0.5, 2.5), (0.9, 3.7), (0.95, 3.85), (0.99, 3.97), (0.0, 1.0), (1.0, 4.0)] {
            assert!((percentile(&values, q).unwrap() - expected).abs() < 1e-6, "{q}");
        }
        assert_eq!(percentile(&[7.0], 0.99), Some(7.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    proptest! {
        #[test]
        fn a_cdf_rises_to_one_and_stays_small(values in prop::collection::vec(0.0f32..1e3, 1..900)) {
            let sorted = sorted(values.iter().copied());
            let Cdf(points) = cdf(&sorted);
            prop_assert!(points.len() <= Cdf::MOST);
            prop_assert!(points.windows(2).all(|w| w[0].0 <= w[1].0 && w[0].1 <= w[1].1));
            prop_assert_eq!(points.last().copied(), Some((f64::from(*sorted.last().unwrap()), 1.0)));
            prop_assert!(points[0].0.total_cmp(&f64::from(sorted[0])).is_eq());
        }

        #[test]
        fn percentiles_are_ordered_and_inside(values in prop::collection::vec(0.0f32..1e3, 1..200)) {
            let sorted = sorted(values.iter().copied());
            let s = stats(&sorted).unwrap();
            let (low, high) = (f64::from(sorted[0]), f64::from(sorted[sorted.len() - 1]));
            prop_assert!(low <= s.p50 && s.p50 <= s.p90 && s.p90 <= s.p95 && s.p95 <= s.p99 && s.p99 <= high);
            prop_assert!(low - 1e-9 <= s.mean && s.mean <= high + 1e-9);
        }
    }
}
