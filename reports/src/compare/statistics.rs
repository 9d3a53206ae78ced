//! Intervals, tests and corrections on plain slices: one value per replication.

use std::cmp::Ordering;

use serde::Serialize;
use specrouter_routing::luck::{Luck, Stream};
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// Replications from which the signed-rank test replaces the t test, where it has room
/// ([`rank_has_room`]).
pub const RANK_SEEDS: usize = 10;
/// Seeds from which a bootstrap interval is given.
pub const BOOTSTRAP_SEEDS: usize = 40;
/// Confidence of every interval.
pub const CONFIDENCE: f64 = 0.95;
/// A corrected p value below this is a difference.
pub const LEVEL: f64 = 1.0 - CONFIDENCE;
const BOOTSTRAP_DRAWS: u64 = 4000;

/// An interval of confidence [`CONFIDENCE`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// A difference with what Student's t needs of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// The difference.
    pub mean: f64,
    /// Its standard error.
    pub error: f64,
    /// Its degrees of freedom.
    pub freedom: f64,
}

impl Difference {
    /// The mean of values; `None` below 2.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len() as f64;
        let mean = mean(values).filter(|_| values.len() > 1)?;
        Some(Self { mean, error: spread(values)? / n.sqrt(), freedom: n - 1.0 })
    }

    /// Welch's: the mean of `a` less that of `b`, whose values do not belong together. `None` below 2
    /// values of each.
    ///
    /// Degrees of freedom after Satterthwaite. Where neither has spread, those of the larger sample.
    pub fn welch(a: &[f64], b: &[f64]) -> Option<Self> {
        let (va, vb) = (spread(a)?.powi(2) / a.len() as f64, spread(b)?.powi(2) / b.len() as f64);
        let (na, nb) = (a.len() as f64 - 1.0, b.len() as f64 - 1.0);
        let freedom =
            if va + vb > 0.0 { (va + vb).powi(2) / (va * va / na + vb * vb / nb) } else { na.max(nb) };
        Some(Self { mean: mean(a)? - mean(b)?, error: (va + vb).sqrt(), freedom })
    }

    /// Its t interval. Without spread a point.
    pub fn interval(&self) -> Interval {
        let quantile = || student(self.freedom).inverse_cdf(0.5 + CONFIDENCE / 2.0);
        let half = if self.error > 0.0 { quantile() * self.error } else { 0.0 };
        Interval { low: self.mean - half, high: self.mean + half }
    }

    /// Two-sided p value of "there is none". `None` where there is no spread but a difference:
    /// without spread there is no t.
    pub fn test(&self) -> Option<f64> {
        if self.error > 0.0 {
            Some((2.0 * student(self.freedom).sf((self.mean / self.error).abs())).min(1.0))
        } else {
            (self.mean == 0.0).then_some(1.0)
        }
    }
}

/// Arithmetic mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Standard deviation, n − 1 below; `None` below 2 values.
pub fn spread(values: &[f64]) -> Option<f64> {
    let mean = mean(values).filter(|_| values.len() > 1)?;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    Some((squares / (values.len() as f64 - 1.0)).sqrt())
}

pub(crate) fn student(freedom: f64) -> StudentsT {
    StudentsT::new(0.0, 1.0, freedom).expect("degrees of freedom are above 0")
}

/// 95 % t interval of the mean; `None` below 2 values. Equal values give a point.
pub fn t_interval(values: &[f64]) -> Option<Interval> {
    Some(Difference::of(values)?.interval())
}

/// Two-sided p value of "the mean is 0". `None` below 2 values, and where all values are equal but
/// not 0.
pub fn t_test(values: &[f64]) -> Option<f64> {
    Difference::of(values)?.test()
}

/// Twice the ranks of ascending `sizes` (integers, ties included: these share their mean rank).
fn doubled_ranks<T>(sorted: &[T], size: impl Fn(&T) -> f64) -> Vec<usize> {
    let mut ranks = Vec::with_capacity(sorted.len());
    for group in sorted.chunk_by(|a, b| size(a).total_cmp(&size(b)) == Ordering::Equal) {
        let first = ranks.len() + 1;
        ranks.extend(std::iter::repeat_n(2 * first + group.len() - 1, group.len()));
    }
    ranks
}

/// Exact two-sided p value of Wilcoxon's signed-rank test of symmetry about 0.
///
/// Zeros are dropped; ties share their mean rank, and the distribution is that of the ranks at
/// hand. 1 when nothing is left.
pub fn signed_rank(values: &[f64]) -> f64 {
    let mut sizes: Vec<(f64, bool)> =
        values.iter().filter(|&&v| v != 0.0).map(|v| (v.abs(), *v > 0.0)).collect();
    sizes.sort_by(|a, b| a.0.total_cmp(&b.0));
    let ranks = doubled_ranks(&sizes, |s| s.0);
    let total: usize = ranks.iter().sum();
    let positive: usize = ranks.iter().zip(&sizes).filter(|(_, s)| s.1).map(|(r, _)| r).sum();
    let mut chance = vec![0.0; total + 1];
    chance[0] = 1.0;
    let mut reach = 0;
    for &rank in &ranks {
        reach += rank;
        for sum in (0..=reach).rev() {
            let with = if sum >= rank { chance[sum - rank] } else { 0.0 };
            chance[sum] = 0.5 * (chance[sum] + with);
        }
    }
    let tail = positive.min(total - positive);
    (2.0 * chance[..=tail].iter().sum::<f64>()).min(1.0)
}

/// Can the exact signed-rank test of so many replications reject anything in a family of so many
/// tests? Its least p value is 2 of 2ⁿ sign patterns, and Holm's first step multiplies that by the
/// family: ten seeds never can in more than 25 tests.
pub fn rank_has_room(replications: usize, family: usize) -> bool {
    2.0 * 0.5f64.powi(i32::try_from(replications).unwrap_or(i32::MAX)) * family.max(1) as f64 <= LEVEL
}

/// Two-sided p value of Mann and Whitney's test, normal approximation with ties corrected; for the
/// large samples of requests that no verdict here rests on. 1 where all values are equal.
pub fn mann_whitney(a: &[f64], b: &[f64]) -> f64 {
    let mut all: Vec<(f64, bool)> =
        a.iter().map(|v| (*v, true)).chain(b.iter().map(|v| (*v, false))).collect();
    all.sort_by(|x, y| x.0.total_cmp(&y.0));
    let ranks = doubled_ranks(&all, |v| v.0);
    let (na, nb, n) = (a.len() as f64, b.len() as f64, all.len() as f64);
    let of_a: usize = ranks.iter().zip(&all).filter(|(_, v)| v.1).map(|(r, _)| r).sum();
    let ties: f64 = all
        .chunk_by(|x, y| x.0.total_cmp(&y.0) == Ordering::Equal)
        .map(|group| (group.len() as f64).powi(3) - group.len() as f64)
        .sum();
    let off = of_a as f64 / 2.0 - na * (n + 1.0) / 2.0;
    let variance = na * nb / 12.0 * (n + 1.0 - ties / (n * (n - 1.0)).max(1.0));
    if variance > 0.0 { 2.0 * Normal::standard().sf((off / variance.sqrt()).abs()) } else { 1.0 }
}

/// 95 % percentile bootstrap of the mean, drawn from keyed luck: the same values give the same
/// interval. `None` below [`BOOTSTRAP_SEEDS`] values, where its coverage falls short.
pub fn bootstrap(values: &[f64]) -> Option<Interval> {
    let n = values.len();
    if n < BOOTSTRAP_SEEDS {
        return None;
    }
    let draws = Luck::new(0).stream(Stream::Policy);
    let one = |draw: u64| {
        let pick = |i: usize| values[((draws.uniform(draw, i as u64) * n as f64) as usize).min(n - 1)];
        (0..n).map(pick).sum::<f64>() / n as f64
    };
    let mut means: Vec<f64> = (0..BOOTSTRAP_DRAWS).map(one).collect();
    means.sort_by(f64::total_cmp);
    let at = |q: f64| means[((means.len() - 1) as f64 * q).round() as usize];
    Some(Interval { low: at(0.5 - CONFIDENCE / 2.0), high: at(0.5 + CONFIDENCE / 2.0) })
}

/// Holm's step-down correction: the corrected p values, in the given order.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let (mut corrected, mut least) = (vec![0.0; p.len()], 0.0f64);
    for (rank, &index) in order.iter().enumerate() {
        least = least.max(p[index] * (p.len() - rank) as f64).min(1.0);
        corrected[index] = least;
    }
    corrected
}
