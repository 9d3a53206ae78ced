//! Comparisons over seeds.
//!
//! The unit of inference is a replication: one seed gives every policy the same arrivals, lengths
//! and luck, so it contributes one paired difference per metric. Requests of one run share a queue
//! and are no replications.
//!
//! - Effect: the mean over seeds of ln(policy / baseline), shown as a relative change; of the plain
//!   difference where a value is not above 0.
//! - Interval: 95 %, Student's t on those differences, from 2 seeds; a percentile bootstrap beside
//!   it from [`BOOTSTRAP_SEEDS`].
//! - Test: t below [`RANK_SEEDS`] seeds, from there the exact signed-rank test; Holm's correction
//!   over every comparison of the report.

use std::cmp::Ordering;

use serde::Serialize;
use specrouter_routing::luck::{Luck, Stream};
use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::numbers::change;
use crate::summary::{SeedSummary, Summary};
use crate::{ArmResult, Report};

/// Seeds from which the signed-rank test replaces the t test.
pub const RANK_SEEDS: usize = 10;
/// Seeds from which a bootstrap interval is given.
pub const BOOTSTRAP_SEEDS: usize = 40;
/// Confidence of every interval.
pub const CONFIDENCE: f64 = 0.95;
/// Relative differences within this count as none, if the whole interval lies inside.
pub const NEGLIGIBLE: f64 = 0.01;
const BOOTSTRAP_DRAWS: u64 = 4000;

/// A metric that reports show and compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Mean TTFT.
    TtftMean,
    /// 99th percentile of TTFT.
    TtftP99,
    /// Mean TPOT.
    TpotMean,
    /// 99th percentile of TPOT.
    TpotP99,
    /// Output tokens per second.
    OutputTokens,
    /// Requests per second that meet their SLO.
    Goodput,
    /// Tokens committed per round.
    AcceptedLength,
    /// Dollars per million output tokens.
    Dollars,
}

impl Metric {
    /// All, in the order of tables.
    pub const ALL: [Self; 8] = [
        Self::TtftMean,
        Self::TtftP99,
        Self::TpotMean,
        Self::TpotP99,
        Self::OutputTokens,
        Self::Goodput,
        Self::AcceptedLength,
        Self::Dollars,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TtftMean => "TTFT mean",
            Self::TtftP99 => "TTFT p99",
            Self::TpotMean => "TPOT mean",
            Self::TpotP99 => "TPOT p99",
            Self::OutputTokens => "throughput",
            Self::Goodput => "goodput",
            Self::AcceptedLength => "accepted",
            Self::Dollars => "cost",
        }
    }

    /// The unit of [`Metric::shown`].
    pub const fn unit(self) -> &'static str {
        match self {
            Self::TtftMean | Self::TtftP99 | Self::TpotMean | Self::TpotP99 => "ms",
            Self::OutputTokens => "tokens/s",
            Self::Goodput => "req/s",
            Self::AcceptedLength => "tokens/round",
            Self::Dollars => "$/M tokens",
        }
    }

    /// True when less is better.
    pub const fn less_is_better(self) -> bool {
        !matches!(self, Self::OutputTokens | Self::Goodput | Self::AcceptedLength)
    }

    /// Compared with the baseline. The accepted length is a cause, not a result, and price is
    /// throughput over again.
    pub const fn compared(self) -> bool {
        !matches!(self, Self::AcceptedLength | Self::Dollars)
    }

    /// Its value in a run, in [`Metric::unit`]; `None` where the run has none.
    pub fn shown(self, summary: &Summary) -> Option<f64> {
        match self {
            Self::TtftMean => summary.ttft_s.map(|s| s.mean * 1e3),
            Self::TtftP99 => summary.ttft_s.map(|s| s.p99 * 1e3),
            Self::TpotMean => summary.tpot_s.map(|s| s.mean * 1e3),
            Self::TpotP99 => summary.tpot_s.map(|s| s.p99 * 1e3),
            Self::OutputTokens => Some(summary.output_tokens_per_s),
            Self::Goodput => summary.goodput.map(|g| g.requests_per_s),
            Self::AcceptedLength => summary.accepted_length,
            Self::Dollars => summary.dollars_per_million,
        }
    }
}

/// An interval of confidence [`CONFIDENCE`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// A metric of one arm over its seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Across {
    /// Mean over seeds.
    pub mean: f64,
    /// t interval of the mean; `None` below 2 seeds.
    pub interval: Option<Interval>,
    /// Seeds that have a value.
    pub seeds: usize,
}

impl Across {
    /// `metric` over the seeds of an arm; `None` when no seed has a value.
    pub fn of(metric: Metric, arm: &ArmResult) -> Option<Self> {
        Self::over(arm.seeds.iter().filter_map(|s| metric.shown(&s.summary)))
    }

    /// Mean and interval of values; `None` of nothing.
    pub fn over(values: impl Iterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.filter(|v| v.is_finite()).collect();
        let mean = mean(&values)?;
        Some(Self { mean, interval: t_interval(&values), seeds: values.len() })
    }
}

/// One metric of one arm against the baseline at the same load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The policy.
    pub policy: String,
    /// What it is compared with.
    pub baseline: String,
    /// The load of both.
    pub load: Option<f64>,
    /// What is compared.
    pub metric: Metric,
    /// Seeds that both have.
    pub seeds: usize,
    /// `effect` and `interval` are relative changes (−0.2 is 20 % less), else differences in
    /// [`Metric::unit`].
    pub relative: bool,
    /// Policy against baseline.
    pub effect: f64,
    /// t interval; `None` below 2 seeds.
    pub interval: Option<Interval>,
    /// Percentile bootstrap; `None` below [`BOOTSTRAP_SEEDS`] seeds.
    pub bootstrap: Option<Interval>,
    /// Which test gave `p`.
    pub test: Option<&'static str>,
    /// Two-sided p value, uncorrected.
    pub p: Option<f64>,
    /// The same after Holm's correction over all comparisons of the report.
    pub p_holm: Option<f64>,
    /// All of that in words.
    pub verdict: String,
}

/// Arithmetic mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Mean, its standard error and degrees of freedom; `None` below 2 values.
pub(crate) fn error(values: &[f64]) -> Option<(f64, f64, f64)> {
    let n = values.len() as f64;
    let mean = mean(values).filter(|_| values.len() > 1)?;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    Some((mean, (variance / n).sqrt(), n - 1.0))
}

pub(crate) fn student(freedom: f64) -> StudentsT {
    StudentsT::new(0.0, 1.0, freedom).expect("at least one degree of freedom")
}

/// 95 % t interval of the mean; `None` below 2 values. Equal values give a point.
pub fn t_interval(values: &[f64]) -> Option<Interval> {
    let (mean, se, freedom) = error(values)?;
    let half = if se > 0.0 { student(freedom).inverse_cdf(0.5 + CONFIDENCE / 2.0) * se } else { 0.0 };
    Some(Interval { low: mean - half, high: mean + half })
}

/// Two-sided p value of "the mean is 0". `None` below 2 values, and where all values are equal but
/// not 0: without spread there is no t.
pub fn t_test(values: &[f64]) -> Option<f64> {
    let (mean, se, freedom) = error(values)?;
    if se > 0.0 {
        Some((2.0 * student(freedom).sf((mean / se).abs())).min(1.0))
    } else {
        (mean == 0.0).then_some(1.0)
    }
}

/// Exact two-sided p value of Wilcoxon's signed-rank test of symmetry about 0.
///
/// Zeros are dropped; ties share their mean rank, and the distribution is that of the ranks at
/// hand. 1 when nothing is left.
pub fn signed_rank(values: &[f64]) -> f64 {
    let mut sizes: Vec<(f64, bool)> =
        values.iter().filter(|&&v| v != 0.0).map(|v| (v.abs(), *v > 0.0)).collect();
    sizes.sort_by(|a, b| a.0.total_cmp(&b.0));
    // Doubled ranks are integers, ties included.
    let mut ranks = Vec::with_capacity(sizes.len());
    for group in sizes.chunk_by(|a, b| a.0.total_cmp(&b.0) == Ordering::Equal) {
        let first = ranks.len() + 1;
        ranks.extend(std::iter::repeat_n(2 * first + group.len() - 1, group.len()));
    }
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

/// Compares every arm with the baseline at its load.
pub(crate) fn against_baseline(report: &Report) -> Vec<Comparison> {
    let Some(baseline) = report.baseline_arm().map(|index| &report.arms[index]) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for arm in report.arms.iter().filter(|arm| arm.policy != baseline.policy && !arm.other_output) {
        let own = report.arms.iter().find(|other| other.policy == baseline.policy && other.load == arm.load);
        let pairs = own.map(|base| shared(arm, base)).unwrap_or_default();
        for metric in Metric::ALL.into_iter().filter(|m| m.compared()) {
            all.extend(compare(metric, arm, baseline, &pairs));
        }
    }
    let tested: Vec<usize> = (0..all.len()).filter(|&i| all[i].p.is_some()).collect();
    let p: Vec<f64> = tested.iter().filter_map(|&i| all[i].p).collect();
    for (&index, corrected) in tested.iter().zip(holm(&p)) {
        all[index].p_holm = Some(corrected);
    }
    for comparison in &mut all {
        comparison.verdict = verdict(comparison);
    }
    all
}

/// Seeds of both arms, paired by seed: an interrupted arm has fewer.
fn shared<'a>(arm: &'a ArmResult, base: &'a ArmResult) -> Vec<(&'a SeedSummary, &'a SeedSummary)> {
    let partner = |own: &SeedSummary| base.seeds.iter().find(|other| other.seed == own.seed);
    arm.seeds.iter().filter_map(|own| partner(own).map(|other| (own, other))).collect()
}

fn compare(
    metric: Metric,
    arm: &ArmResult,
    base: &ArmResult,
    pairs: &[(&SeedSummary, &SeedSummary)],
) -> Option<Comparison> {
    let value = |s: &SeedSummary| metric.shown(&s.summary);
    let values: Vec<(f64, f64)> = pairs.iter().filter_map(|(a, b)| value(a).zip(value(b))).collect();
    let relative = values.iter().all(|&(a, b)| a > 0.0 && b > 0.0);
    let differences: Vec<f64> =
        values.iter().map(|&(a, b)| if relative { (a / b).ln() } else { a - b }).collect();
    let back = |d: f64| if relative { d.exp_m1() } else { d };
    let both = |i: Interval| Interval { low: back(i.low), high: back(i.high) };
    let (test, p) = if differences.len() >= RANK_SEEDS {
        (Some("exact signed-rank"), Some(signed_rank(&differences)))
    } else {
        let p = t_test(&differences);
        (p.map(|_| "t"), p)
    };
    Some(Comparison {
        policy: arm.policy.clone(),
        baseline: base.policy.clone(),
        load: arm.load,
        metric,
        seeds: differences.len(),
        relative,
        effect: back(mean(&differences)?),
        interval: t_interval(&differences).map(both),
        bootstrap: bootstrap(&differences).map(both),
        test,
        p,
        p_holm: None,
        verdict: String::new(),
    })
}

fn verdict(c: &Comparison) -> String {
    let size = |x: f64| if c.relative { change(x) } else { format!("{x:+.3} {}", c.metric.unit()) };
    let Some(interval) = c.interval else {
        return format!("{}; one seed: no interval", size(c.effect));
    };
    if interval.low.total_cmp(&interval.high).is_eq() {
        let same = format!("{} in every seed", size(c.effect));
        return if c.effect == 0.0 { "exactly equal in every seed".into() } else { same };
    }
    let range =
        format!("{} (95 % interval {} to {})", size(c.effect), size(interval.low), size(interval.high));
    if c.relative && interval.low > -NEGLIGIBLE && interval.high < NEGLIGIBLE {
        return format!("no difference larger than {:.0} %: {range}", NEGLIGIBLE * 100.0);
    }
    match c.p_holm {
        Some(p) if p < 1.0 - CONFIDENCE => {
            let better = (c.effect < 0.0) == c.metric.less_is_better();
            format!("{}: {range}, p {}", if better { "better" } else { "worse" }, chance(p))
        }
        Some(p) => format!("no clear difference: {range}, p {}", chance(p)),
        None => range,
    }
}

fn chance(p: f64) -> String {
    if p < 0.001 { "< 0.001".into() } else { format!("{p:.3}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::table::tests::{arm, report};

    fn near(a: f64, b: f64, tolerance: f64) {
        assert!((a - b).abs() < tolerance, "{a} is not {b}");
    }

    #[test]
    fn the_t_interval_is_that_of_the_table() {
        // Mean 3, standard error sqrt(2.5 / 5), t(0.975, 4) = 2.7764451.
        let interval = t_interval(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        near(interval.high - 3.0, 2.776_445_1 * 0.5f64.sqrt(), 1e-6);
        near(3.0 - interval.low, 2.776_445_1 * 0.5f64.sqrt(), 1e-6);
        assert_eq!(t_interval(&[1.0]), None);
        // scipy.stats.ttest_1samp([1, 2, 3, 4, 5], 0).pvalue
        near(t_test(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap(), 0.013_235_6, 1e-6);
        assert_eq!((t_test(&[0.0, 0.0]), t_test(&[2.0, 2.0])), (Some(1.0), None));
    }

    #[test]
    fn signed_rank_p_values_are_exact() {
        // All ten positive: 2 of 2^10 sign patterns are as far out.
        let ten: Vec<f64> = (1..=10).map(f64::from).collect();
        near(signed_rank(&ten), 2.0 / 1024.0, 1e-15);
        // W = 1 of n = 5: {0, 1} from either side, 4 of 32.
        near(signed_rank(&[-1.0, 2.0, 3.0, 4.0, 5.0]), 4.0 / 32.0, 1e-15);
        // Ranks 1.5, 1.5, 3; the negative one is 1.5: sums at most 1.5 are {}, {a}, {b}: 6 of 8.
        near(signed_rank(&[1.0, -1.0, 2.0]), 6.0 / 8.0, 1e-15);
        near(signed_rank(&[0.0, 0.0, 1.0]), 1.0, 1e-15);
        near(signed_rank(&[]), 1.0, 1e-15);
    }

    #[test]
    fn holm_multiplies_by_what_is_left_and_never_falls() {
        let corrected = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (p, expected) in corrected.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            near(*p, expected, 1e-12);
        }
        assert_eq!(holm(&[0.6, 0.7]), vec![1.0, 1.0]);
    }

    #[test]
    fn a_bootstrap_needs_forty_seeds_and_is_the_same_every_time() {
        let values: Vec<f64> = (0..40).map(|i| f64::from(i % 7)).collect();
        assert_eq!(bootstrap(&values[..39]), None);
        let (a, b) = (bootstrap(&values).unwrap(), t_interval(&values).unwrap());
        assert_eq!(bootstrap(&values), Some(a));
        near(a.low, b.low, 0.15);
        near(a.high, b.high, 0.15);
    }

    #[test]
    fn invariant_9_a_against_a_is_exactly_zero() {
        let report = report(vec![arm("a", &[1.0, 1.3, 0.8]), arm("a again", &[1.0, 1.3, 0.8])]);
        let comparisons = report.comparisons();
        assert!(!comparisons.is_empty());
        for c in comparisons {
            assert_eq!((c.effect, c.interval), (0.0, Some(Interval { low: 0.0, high: 0.0 })));
            assert_eq!((c.p, c.verdict.as_str()), (Some(1.0), "exactly equal in every seed"));
        }
    }

    #[test]
    fn a_verdict_says_what_the_seeds_can_bear() {
        let verdict = |seeds: &[f64]| {
            let base: Vec<f64> = seeds.iter().map(|_| 1.0).collect();
            let report = report(vec![arm("base", &base), arm("other", seeds)]);
            let all = report.comparisons();
            all.into_iter().find(|c| c.metric == Metric::TpotMean).unwrap().verdict
        };
        insta::assert_snapshot!(verdict(&[0.8]), @"-20.0 %; one seed: no interval");
        insta::assert_snapshot!(verdict(&[0.8, 0.8]), @"-20.0 % in every seed");
        insta::assert_snapshot!(verdict(&[0.80, 0.81, 0.79, 0.80, 0.82]), @"better: -19.6 % (95 % interval -21.0 % to -18.2 %), p < 0.001");
        insta::assert_snapshot!(verdict(&[0.8, 1.3, 0.9, 1.1]), @"no clear difference: +0.7 % (95 % interval -28.4 % to +41.8 %), p 1.000");
        insta::assert_snapshot!(verdict(&[1.001, 0.999, 1.002]), @"no difference larger than 1 %: +0.1 % (95 % interval -0.3 % to +0.4 %)");
    }

    #[test]
    fn other_output_stands_outside_comparisons() {
        let other = ArmResult { other_output: true, ..arm("fixed", &[0.1, 0.2]) };
        let report =
            Report { baseline: 0, ..report(vec![other, arm("base", &[1.0, 1.1]), arm("x", &[0.9, 1.0])]) };
        assert_eq!(report.baseline_arm(), Some(1));
        assert!(report.comparisons().iter().all(|c| c.policy == "x" && c.baseline == "base"));
    }

    #[test]
    fn seeds_are_paired_by_seed_and_not_by_place() {
        let mut short = arm("x", &[1.0, 2.0, 3.0]);
        short.seeds.remove(0);
        let report = report(vec![arm("base", &[1.0, 2.0, 3.0]), short]);
        assert!(report.comparisons().iter().all(|c| c.seeds == 2 && c.effect == 0.0));
    }

    proptest! {
        #[test]
        fn signed_rank_does_not_care_which_side_is_called_positive(values in prop::collection::vec(-9i8..9, 0..14)) {
            let values: Vec<f64> = values.into_iter().map(f64::from).collect();
            let flipped: Vec<f64> = values.iter().map(|v| -v).collect();
            let p = signed_rank(&values);
            prop_assert!((p - signed_rank(&flipped)).abs() < 1e-12 && p > 0.0 && p <= 1.0);
        }

        #[test]
        fn a_corrected_p_is_never_smaller(p in prop::collection::vec(0.0f64..1.0, 0..20)) {
            prop_assert!(holm(&p).iter().zip(&p).all(|(corrected, raw)| corrected >= raw && *corrected <= 1.0));
        }
    }
}
