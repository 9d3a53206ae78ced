//! What a number of replications can tell, asked before they are run: power of the t test.
//!
//! A pilot's spread goes in. Where arms are not paired, the spread is that of a difference of one
//! replication of each, and freedom is counted as if they were: a few seeds on the safe side.

use statrs::distribution::{ChiSquared, ContinuousCDF, Normal};
use statrs::function::gamma::ln_gamma;

use super::statistics::{LEVEL, student};

/// The chance of finding a difference that there is, at which studies are planned.
pub const POWER: f64 = 0.8;
/// No plan is made for more replications than this.
pub const MOST_SEEDS: u32 = 100_000;
/// How sure [`upper_spread`] is.
const SURE: f64 = 0.8;
/// Least and most steps of the integral.
const STEPS: (f64, f64) = (400.0, 100_000.0);

/// The level of one test of `family` at Holm's first step, where the plan must hold.
pub fn first_step(family: usize) -> f64 {
    LEVEL / family.max(1) as f64
}

/// Chance that a two-sided t test with `freedom` degrees rejects at `level` when the difference lies
/// `away` standard errors from none.
///
/// P(|T| > c), T = (Z + away)/S, S² = χ²/freedom: the integral over S by Simpson's rule.
pub fn chance(away: f64, freedom: f64, level: f64) -> f64 {
    let critical = student(freedom).inverse_cdf(1.0 - level / 2.0);
    let normal = Normal::standard();
    let half = freedom / 2.0;
    let constant = 2f64.ln() + half * half.ln() - ln_gamma(half);
    let at = |s: f64| {
        if s <= 0.0 && freedom > 1.0 {
            return 0.0;
        }
        let power = if freedom > 1.0 { (freedom - 1.0) * s.ln() } else { 0.0 };
        let density = (constant + power - half * s * s).exp();
        density * (normal.sf(critical * s - away) + normal.cdf(-critical * s - away))
    };
    // The density is narrow around 1 where there are many degrees of freedom.
    let reach = 9.0 / (2.0 * freedom).sqrt();
    let (low, high) = ((1.0 - reach).max(0.0), 1.0 + reach);
    // The chance turns from 1 to 0 within a few 1/critical, which is long at one degree of freedom.
    let steps = 2 * ((high - low) * critical * 5.0).clamp(STEPS.0, STEPS.1) as usize;
    let step = (high - low) / steps as f64;
    let weight = |i: usize| match i {
        i if i == 0 || i == steps => 1.0,
        odd if odd % 2 == 1 => 4.0,
        _ => 2.0,
    };
    let sum: f64 = (0..=steps).map(|i| weight(i) * at(low + i as f64 * step)).sum();
    (sum * step / 3.0).clamp(0.0, 1.0)
}

/// The least difference that `seeds` replications of this spread find with chance [`POWER`], in the
/// spread's unit. `None` below 2 seeds.
pub fn detectable(spread: f64, seeds: usize, level: f64) -> Option<f64> {
    let freedom = seeds.checked_sub(1).filter(|&f| f > 0)? as f64;
    let (mut low, mut high) = (0.0, 1.0);
    while chance(high, freedom, level) < POWER {
        high *= 2.0;
    }
    for _ in 0..40 {
        let middle = 0.5 * (low + high);
        if chance(middle, freedom, level) < POWER { low = middle } else { high = middle }
    }
    Some(high * spread / (seeds as f64).sqrt())
}

/// The least number of replications that find a difference of `size` with chance [`POWER`];
/// `None` above [`MOST_SEEDS`].
pub fn seeds_for(size: f64, spread: f64, level: f64) -> Option<u32> {
    let enough = |seeds: u32| {
        let n = f64::from(seeds);
        spread <= 0.0 || chance(size.abs() / spread * n.sqrt(), n - 1.0, level) >= POWER
    };
    let mut high = 2;
    while !enough(high) {
        high = high.checked_mul(2).filter(|&h| h <= 2 * MOST_SEEDS)?;
    }
    let mut low = high / 2; // Not enough, or 1.
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if enough(middle) { high = middle } else { low = middle }
    }
    (high <= MOST_SEEDS).then_some(high)
}

/// What the true spread stays below with a chance of 80 %, by a pilot of `seeds` replications
/// (χ² of normal values): a plan on a short pilot's own spread is too small every other time.
pub fn upper_spread(spread: f64, seeds: usize) -> Option<f64> {
    let freedom = seeds.checked_sub(1).filter(|&f| f > 0)? as f64;
    let quantile = ChiSquared::new(freedom).ok()?.inverse_cdf(1.0 - SURE);
    Some(spread * (freedom / quantile).sqrt())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn power_is_that_of_the_noncentral_t() {
        // scipy: nct.sf(tc, df, nc) + nct.cdf(-tc, df, nc), nc = size/spread·√n; the first is R's
        // power.t.test(n = 10, delta = 1, sd = 1, type = "one.sample").
        for (n, size, spread, family, expected) in [
            (10u32, 1.0, 1.0, 1, 0.803_096_856_6),
            (10, 1.0, 1.0, 28, 0.223_785_208_0),
            (5, 2.0, 1.5, 1, 0.614_187_443_2),
            (5, 2.0, 1.5, 28, 0.061_461_540_6),
            (30, 0.4, 1.0, 1, 0.562_813_607_1),
            (30, 0.4, 1.0, 28, 0.132_990_496_7),
            (2, 5.0, 1.0, 1, 0.420_961_409_1),
            (2, 5.0, 1.0, 28, 0.015_824_422_5),
        ] {
            let n = f64::from(n);
            let power = chance(size / spread * n.sqrt(), n - 1.0, first_step(family));
            assert!((power - expected).abs() < 1e-7, "{n} {size} {family}: {power} is not {expected}");
        }
    }

    #[test]
    fn ten_seeds_tell_a_spread_and_a_spread_takes_ten_seeds() {
        // R: power.t.test(n = 10, power = 0.8, sd = 1, type = "one.sample")$delta is 0.9960.
        let least = detectable(1.0, 10, 0.05).unwrap();
        assert!((least - 0.996).abs() < 1e-3, "{least}");
        assert_eq!(seeds_for(1.0, 1.0, 0.05), Some(10));
        assert_eq!((seeds_for(1.0, 0.0, 0.05), seeds_for(1e-9, 1.0, 0.05)), (Some(2), None));
        assert_eq!(detectable(1.0, 1, 0.05), None);
        // scipy: sqrt(4 / chi2.ppf(0.2, 4))
        assert!((upper_spread(1.0, 5).unwrap() - 1.557_575_4).abs() < 1e-6);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn what_seeds_can_tell_and_the_seeds_it_takes_agree(seeds in 2usize..60, spread in 0.001f64..10.0) {
            let least = detectable(spread, seeds, 0.01).unwrap();
            let needed = seeds_for(least * 1.0001, spread, 0.01).unwrap() as usize;
            prop_assert!(needed <= seeds && needed + 1 >= seeds, "{} for {}", needed, seeds);
        }

        #[test]
        fn power_rises_with_the_difference_and_begins_at_the_level(freedom in 1u32..200, away in 0.0f64..6.0) {
            let freedom = f64::from(freedom);
            prop_assert!((chance(0.0, freedom, 0.05) - 0.05).abs() < 1e-6);
            prop_assert!(chance(away + 0.1, freedom, 0.05) > chance(away, freedom, 0.05) - 1e-12);
        }
    }
}
