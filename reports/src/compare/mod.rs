//! Comparisons over replications.
//!
//! The unit of inference is a replication: one seed gives every policy the same arrivals, lengths
//! and luck, so it contributes one paired difference per metric. Requests of one run share a queue
//! and are no replications.
//!
//! - Effect: the mean over seeds of ln(policy / baseline), shown as a relative change; of the plain
//!   difference where a value is not above 0. Arms that do not belong together: the difference of
//!   the means of logarithms.
//! - Interval: 95 %, Student's t on those differences (Welch's where unpaired), from 2 seeds; a
//!   percentile bootstrap beside it from [`BOOTSTRAP_SEEDS`]. Intervals are one at a time.
//! - Test: t below [`RANK_SEEDS`] seeds, from there the exact signed-rank test where it has room
//!   ([`rank_has_room`]); Holm's correction over every comparison of the report.
//! - No difference: the whole interval inside the margin. (Two one-sided tests at 2.5 % each.)
//!
//! [`Contrast`] works on plain slices, [`family`] corrects and words a list of them.

mod blocks;
mod contrast;
mod metric;
pub mod power;
mod statistics;
mod verdict;
mod width;

use serde::Serialize;

pub use blocks::{Blocks, LEAST as LEAST_BLOCKS};
pub use contrast::{Contrast, Pairing};
pub use metric::Metric;
pub(crate) use statistics::student;
pub use statistics::{
    BOOTSTRAP_SEEDS, CONFIDENCE, Difference, Interval, LEVEL, RANK_SEEDS, bootstrap, holm, mann_whitney,
    mean, rank_has_room, signed_rank, spread, t_interval, t_test,
};
pub(crate) use verdict::sentence;
pub use verdict::{Outcome, Terms};
pub use width::FixedWidth;

use crate::summary::SeedSummary;
use crate::{ArmResult, Report};

/// Relative differences within this count as none in a run's report, if the whole interval lies inside.
pub const NEGLIGIBLE: f64 = 0.01;

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

/// What is compared with what.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// The policy.
    pub policy: String,
    /// What it is compared with.
    pub baseline: String,
    /// The load of both.
    pub load: Option<f64>,
    /// The class whose requests are compared; `None` for all.
    pub class: Option<String>,
    /// What is compared.
    pub metric: Metric,
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
    /// The class whose requests are compared; `None` for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// What is compared.
    pub metric: Metric,
    /// How their replications belong together.
    pub pairing: Pairing,
    /// Seeds that both have; of arms that are not paired the policy's own; blocks.
    pub seeds: usize,
    /// Seeds of the baseline.
    pub baseline_seeds: usize,
    /// `effect` and `interval` are relative changes (−0.2 is 20 % less), else differences in
    /// [`Metric::unit`].
    pub relative: bool,
    /// Policy against baseline.
    pub effect: f64,
    /// t interval; `None` below 2 seeds.
    pub interval: Option<Interval>,
    /// Percentile bootstrap; `None` below [`BOOTSTRAP_SEEDS`] seeds.
    pub bootstrap: Option<Interval>,
    /// Standard deviation over seeds of the difference, logarithmic where `relative`.
    pub spread: Option<f64>,
    /// Which test gave `p`.
    pub test: Option<&'static str>,
    /// Two-sided p value, uncorrected.
    pub p: Option<f64>,
    /// The same after Holm's correction over all comparisons of the report.
    pub p_holm: Option<f64>,
    /// What that comes to.
    pub outcome: Outcome,
    /// All of that in words.
    pub verdict: String,
}

/// Tests, corrects and words a list of contrasts.
///
/// Every contrast with an interval is one test of the family, but for a price that only repeats the
/// throughput beside it (the same devices at the same price): one hypothesis is not counted twice, so
/// it has the throughput's p value.
pub fn family(contrasts: Vec<(Place, Contrast)>, terms: &Terms) -> Vec<Comparison> {
    let again: Vec<Option<usize>> = contrasts.iter().map(|own| repeated(own, &contrasts)).collect();
    let counted = |i: &usize| again[*i].is_none() && contrasts[*i].1.tested();
    let size = (0..contrasts.len()).filter(counted).count();
    let tests: Vec<_> = contrasts.iter().map(|(_, c)| c.test(size)).collect();
    let tested: Vec<usize> = (0..contrasts.len()).filter(|i| counted(i) && tests[*i].is_some()).collect();
    let p: Vec<f64> = tested.iter().filter_map(|&i| Some(tests[i]?.1)).collect();
    let mut corrected = vec![None; contrasts.len()];
    for (&index, p) in tested.iter().zip(holm(&p)) {
        corrected[index] = Some(p);
    }
    let of = |i: usize| again[i].unwrap_or(i);
    let mut all = Vec::with_capacity(contrasts.len());
    for (i, (place, contrast)) in contrasts.into_iter().enumerate() {
        let Place { policy, baseline, load, class, metric } = place;
        let Contrast { pairing, replications: [seeds, baseline_seeds], .. } = contrast;
        let Contrast { relative, effect, interval, bootstrap, spread, .. } = contrast;
        let test = tests[of(i)];
        let mut comparison = Comparison {
            policy,
            baseline,
            load,
            class,
            metric,
            pairing,
            seeds,
            baseline_seeds,
            relative,
            effect,
            interval,
            bootstrap,
            spread,
            test: test.map(|(name, _)| name),
            p: test.map(|(_, p)| p),
            p_holm: corrected[of(i)],
            outcome: Outcome::Single,
            verdict: String::new(),
        };
        comparison.outcome = Outcome::of(&comparison, terms.margin);
        comparison.verdict = verdict::told(&comparison, terms.margin);
        all.push(comparison);
    }
    all
}

/// Tests that a family of these contrasts comes to.
pub fn tests(contrasts: &[(Place, Contrast)]) -> usize {
    contrasts.iter().filter(|own| own.1.tested() && repeated(own, contrasts).is_none()).count()
}

/// The throughput that this price repeats.
fn repeated(own: &(Place, Contrast), all: &[(Place, Contrast)]) -> Option<usize> {
    let (place, price) = own;
    if place.metric != Metric::Dollars || !price.relative {
        return None;
    }
    let beside = Place { metric: Metric::OutputTokens, ..place.clone() };
    let inverse = |a: f64, b: f64| ((1.0 + a) * (1.0 + b) - 1.0).abs() < 1e-6;
    all.iter().position(|(other, c)| {
        *other == beside
            && c.relative
            && inverse(c.effect, price.effect)
            && match (c.interval, price.interval) {
                (Some(i), Some(j)) => inverse(i.low, j.high) && inverse(i.high, j.low),
                (i, j) => i.is_none() && j.is_none(),
            }
    })
}

/// Compares every arm of a run with the baseline at its load.
pub(crate) fn against_baseline(report: &Report) -> Vec<Comparison> {
    let Some(baseline) = report.baseline_arm().map(|index| &report.arms[index]) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for arm in report.arms.iter().filter(|arm| arm.policy != baseline.policy && !arm.other_output) {
        let own = report.arms.iter().find(|other| other.policy == baseline.policy && other.load == arm.load);
        let pairs = own.map(|base| shared(arm, base)).unwrap_or_default();
        for metric in Metric::ALL.into_iter().filter(|m| m.compared()) {
            let place = Place {
                policy: arm.policy.clone(),
                baseline: baseline.policy.clone(),
                load: arm.load,
                class: None,
                metric,
            };
            all.extend(by_seed(&pairs, |s| metric.shown(&s.summary)).map(|contrast| (place, contrast)));
        }
    }
    family(all, &Terms { margin: NEGLIGIBLE, ..Terms::default() })
}

/// Seeds of both arms, paired by seed: an interrupted arm has fewer.
pub(crate) fn shared<'a>(arm: &'a ArmResult, base: &'a ArmResult) -> Vec<(&'a SeedSummary, &'a SeedSummary)> {
    let partner = |own: &SeedSummary| base.seeds.iter().find(|other| other.seed == own.seed);
    arm.seeds.iter().filter_map(|own| partner(own).map(|other| (own, other))).collect()
}

/// One value of both arms from every seed that has it.
pub(crate) fn by_seed(
    pairs: &[(&SeedSummary, &SeedSummary)],
    value: impl Fn(&SeedSummary) -> Option<f64>,
) -> Option<Contrast> {
    let values = pairs.iter().filter_map(|(a, b)| value(a).zip(value(b)));
    let (arm, base): (Vec<f64>, Vec<f64>) = values.unzip();
    Contrast::paired(&arm, &base)
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

    #[test]
    fn samples_that_do_not_belong_together_are_welchs() {
        // scipy.stats.ttest_ind([1, 2, 3, 4, 5], [2, 2.5, 7, 9], equal_var=False)
        let d = Difference::welch(&[1.0, 2.0, 3.0, 4.0, 5.0], &[2.0, 2.5, 7.0, 9.0]).unwrap();
        near(d.freedom, 4.022_597_806, 1e-8);
        near(d.test().unwrap(), 0.314_988_803, 1e-8);
        near(d.interval().low, -7.257_389_699, 1e-6);
        near(d.interval().high, 3.007_389_699, 1e-6);
        assert_eq!(Difference::welch(&[1.0], &[1.0, 2.0]), None);
        // scipy.stats.mannwhitneyu(..., use_continuity=False, method='asymptotic')
        let p = mann_whitney(&[1.0, 2.0, 3.0, 4.0, 5.0, 5.0], &[2.0, 2.5, 7.0, 9.0, 5.0]);
        near(p, 0.309_740_272_6, 1e-8);
        near(mann_whitney(&[1.0, 1.0], &[1.0]), 1.0, 1e-12);
    }

    #[test]
    fn a_large_family_of_ten_seeds_can_still_reject() {
        // 2/1024 of the rank test, times 30, is above 0.05 whatever the data: t takes its place.
        let better: Vec<f64> = (0..10).map(|i| 0.8 + 0.001 * f64::from(i)).collect();
        let mut arms = vec![arm("base", &[1.0; 10])];
        arms.extend((0..6).map(|i| arm(&format!("arm {i}"), &better)));
        let all = report(arms).comparisons();
        let tpot: Vec<_> = all.iter().filter(|c| c.metric == Metric::TpotMean).collect();
        assert_eq!((all.len(), tpot.len()), (30, 6));
        assert!(tpot.iter().all(|c| c.test == Some("t") && c.outcome == Outcome::Better));
        assert!(rank_has_room(10, 25) && !rank_has_room(10, 26));
    }

    #[test]
    fn a_price_that_repeats_the_throughput_is_no_test_of_its_own() {
        let place =
            |metric| Place { policy: "b".into(), baseline: "a".into(), load: None, class: None, metric };
        let rate = Contrast::paired(&[2.0, 2.2, 2.1], &[1.0, 1.0, 1.0]).unwrap();
        let price = |v: [f64; 3]| Contrast::paired(&v, &[1.0, 1.0, 1.0]).unwrap();
        let same = price([1.0 / 2.0, 1.0 / 2.2, 1.0 / 2.1]);
        let both = |price| vec![(place(Metric::OutputTokens), rate.clone()), (place(Metric::Dollars), price)];
        assert_eq!(tests(&both(same.clone())), 1);
        let all = family(both(same), &Terms::default());
        assert!(all[0].p_holm == all[1].p_holm && all[0].p_holm == all[0].p);
        assert_eq!((all[0].outcome, all[1].outcome), (Outcome::Better, Outcome::Better));
        // Another device at another price is.
        assert_eq!(tests(&both(price([0.9, 0.8, 0.7]))), 2);
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
