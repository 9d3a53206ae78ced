//! One metric of two arms, on plain slices of values by replication.

use serde::Serialize;

use super::statistics::{
    Difference, Interval, RANK_SEEDS, bootstrap, mean, rank_has_room, signed_rank, spread,
};

/// How the replications of two arms belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairing {
    /// Each replication gave both the same requests: a difference each.
    Seeds,
    /// They met other requests, or other luck: Welch's t.
    Unpaired,
    /// One run each, of the same requests: blocks of them, longer than the longest busy period.
    Blocks,
}

/// One metric of one arm against another's.
#[derive(Clone, Debug, PartialEq)]
pub struct Contrast {
    /// How they belong together.
    pub pairing: Pairing,
    /// Replications of the arm and of what it is compared with; pairs and blocks count for both.
    pub replications: [usize; 2],
    /// `effect` and `interval` are relative changes (−0.2 is 20 % less), else plain differences.
    pub relative: bool,
    /// The arm against the other: of the means of logarithms, shown as a change.
    pub effect: f64,
    /// t interval of the effect; `None` with one replication.
    pub interval: Option<Interval>,
    /// Percentile bootstrap, for many pairs.
    pub bootstrap: Option<Interval>,
    /// Standard deviation of the difference that one replication gives, logarithmic where `relative`.
    pub spread: Option<f64>,
    t: Option<f64>,
    rank: Option<f64>,
}

impl Contrast {
    /// Pairs: value `i` of both slices comes from one replication. `None` of nothing.
    pub fn paired(arm: &[f64], base: &[f64]) -> Option<Self> {
        let pairs = || arm.iter().copied().zip(base.iter().copied()).filter(|(a, b)| (a - b).is_finite());
        let relative = pairs().all(|(a, b)| a > 0.0 && b > 0.0);
        let differences: Vec<f64> =
            pairs().map(|(a, b)| if relative { (a / b).ln() } else { a - b }).collect();
        let n = differences.len();
        let difference = Difference::of(&differences);
        let back = |i: Interval| shown(i, relative);
        Some(Self {
            pairing: Pairing::Seeds,
            replications: [n, n],
            relative,
            effect: change(mean(&differences)?, relative),
            interval: difference.map(|d| back(d.interval())),
            bootstrap: bootstrap(&differences).map(back),
            spread: spread(&differences),
            t: difference.and_then(|d| d.test()),
            rank: (n >= RANK_SEEDS).then(|| signed_rank(&differences)),
        })
    }

    /// Two samples that do not belong together. `None` when either is empty.
    pub fn unpaired(arm: &[f64], base: &[f64]) -> Option<Self> {
        let relative = arm.iter().chain(base).all(|v| *v > 0.0);
        let scale = |values: &[f64]| -> Vec<f64> {
            let finite = values.iter().filter(|v| v.is_finite());
            finite.map(|v| if relative { v.ln() } else { *v }).collect()
        };
        let (arm, base) = (scale(arm), scale(base));
        let difference = Difference::welch(&arm, &base);
        let both = spread(&arm).zip(spread(&base));
        Some(Self {
            pairing: Pairing::Unpaired,
            replications: [arm.len(), base.len()],
            relative,
            effect: change(mean(&arm)? - mean(&base)?, relative),
            interval: difference.map(|d| shown(d.interval(), relative)),
            bootstrap: None,
            spread: both.map(|(a, b)| a.hypot(b)),
            t: difference.and_then(|d| d.test()),
            rank: None,
        })
    }

    /// A log-ratio estimated over blocks, with the standard error that leaving one out each time gives.
    pub(super) fn blocks(difference: Difference, blocks: usize) -> Self {
        Self {
            pairing: Pairing::Blocks,
            replications: [blocks, blocks],
            relative: true,
            effect: change(difference.mean, true),
            interval: Some(shown(difference.interval(), true)),
            bootstrap: None,
            spread: Some(difference.error * (blocks as f64).sqrt()),
            t: difference.test(),
            rank: None,
        }
    }

    /// Has it replications enough for an interval.
    pub fn tested(&self) -> bool {
        self.interval.is_some()
    }

    /// The test's name and its two-sided p value, in a family of so many tests: the exact signed-rank
    /// test where it has room, else t. (That choice looks at counts and at no value.)
    pub fn test(&self, family: usize) -> Option<(&'static str, f64)> {
        match self.rank {
            Some(p) if rank_has_room(self.replications[0], family) => Some(("exact signed-rank", p)),
            _ => {
                let name = match self.pairing {
                    Pairing::Seeds => "t",
                    Pairing::Unpaired => "Welch t",
                    Pairing::Blocks => "t over blocks",
                };
                Some((name, self.t?))
            }
        }
    }
}

fn change(difference: f64, relative: bool) -> f64 {
    if relative { difference.exp_m1() } else { difference }
}

fn shown(interval: Interval, relative: bool) -> Interval {
    Interval { low: change(interval.low, relative), high: change(interval.high, relative) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pair_with_a_value_that_is_not_above_zero_is_compared_by_difference() {
        let c = Contrast::paired(&[0.0, 1.0, 3.0], &[0.0, 0.5, 1.0]).unwrap();
        assert!(!c.relative && (c.effect - 2.5 / 3.0).abs() < 1e-12);
        assert_eq!(Contrast::paired(&[], &[]), None);
        let one = Contrast::paired(&[2.0], &[1.0]).unwrap();
        assert_eq!((one.effect, one.interval, one.test(1)), (1.0, None, None));
    }

    #[test]
    fn a_family_too_large_for_ranks_is_tested_with_t() {
        let arm: Vec<f64> = (0..10).map(|i| 1.0 + 0.01 * f64::from(i)).collect();
        let c = Contrast::paired(&arm, &[0.5; 10]).unwrap();
        assert_eq!(c.test(25).unwrap(), ("exact signed-rank", 2.0 / 1024.0));
        let (name, p) = c.test(26).unwrap();
        assert!(name == "t" && p < 1e-9, "{name} {p}");
    }

    proptest! {
        #[test]
        fn turning_a_comparison_round_turns_its_effect(
            pairs in prop::collection::vec((1f64..2.0, 1f64..2.0), 3..14),
        ) {
            let (a, b): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            for (there, back) in [
                (Contrast::paired(&a, &b).unwrap(), Contrast::paired(&b, &a).unwrap()),
                (Contrast::unpaired(&a, &b).unwrap(), Contrast::unpaired(&b, &a).unwrap()),
            ] {
                prop_assert!(((1.0 + there.effect) * (1.0 + back.effect) - 1.0).abs() < 1e-9);
                let (i, j) = (there.interval.unwrap(), back.interval.unwrap());
                prop_assert!(((1.0 + i.low) * (1.0 + j.high) - 1.0).abs() < 1e-9);
                prop_assert!(i.low <= there.effect && there.effect <= i.high);
                prop_assert!((there.test(1).unwrap().1 - back.test(1).unwrap().1).abs() < 1e-9);
            }
        }

        #[test]
        fn the_unit_of_a_metric_changes_nothing(
            pairs in prop::collection::vec((0.1f64..9.0, 0.1f64..9.0), 2..14), scale in 0.001f64..1000.0,
        ) {
            let (a, b): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            let grown = |v: &[f64]| v.iter().map(|x| x * scale).collect::<Vec<_>>();
            let (plain, scaled) =
                (Contrast::paired(&a, &b).unwrap(), Contrast::paired(&grown(&a), &grown(&b)).unwrap());
            prop_assert!((plain.effect - scaled.effect).abs() < 1e-9 * (1.0 + plain.effect.abs()));
        }
    }
}
