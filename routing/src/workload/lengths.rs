//! Laws of lengths, as quantile functions: one uniform number is one length.
//!
//! Drawing through the quantile function keeps the coupling that comparisons live on: the same
//! luck under a longer law is a longer request, never an unrelated one.

use super::config::{Lengths, MAX_LENGTH, WorkloadError, value, within};

/// A checked law of lengths in tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct LengthLaw {
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Constant(u32),
    Lognormal {
        mu: f64,
        sigma: f64,
        min: f64,
        max: f64,
    },
    /// `(probability, tokens)`, from probability 0 to 1.
    Quantiles(Vec<(f64, f64)>),
}

impl LengthLaw {
    /// Checks `lengths`, which stands at `field` below `workload`.
    ///
    /// # Errors
    /// [`WorkloadError`], naming the place below `field`.
    pub fn new(lengths: &Lengths, field: &str) -> Result<Self, WorkloadError> {
        let longest = f64::from(MAX_LENGTH);
        let kind = match lengths {
            Lengths::Constant(tokens) => {
                let ok = (1..=MAX_LENGTH).contains(tokens);
                within(&format!("{field}.constant"), *tokens, ok, format!("1 to {MAX_LENGTH} tokens"))?;
                Kind::Constant(*tokens)
            }
            Lengths::Lognormal(law) => {
                let field = format!("{field}.lognormal");
                let sigma = law.sigma.get();
                within(&format!("{field}.sigma"), sigma, sigma <= 10.0, "0 to 10")?;
                let (name, got, mu) = match (law.median, law.mean, law.mu) {
                    (Some(median), None, None) => ("median", median.get(), libm::log(median.get())),
                    (None, Some(mean), None) => {
                        ("mean", mean.get(), libm::log(mean.get()) - 0.5 * sigma * sigma)
                    }
                    (None, None, Some(mu)) => ("mu", mu, mu),
                    (None, None, None) => {
                        return Err(value(field, "one of median, mean and mu", "none of them"));
                    }
                    _ => return Err(value(field, "one of median, mean and mu", "more than one")),
                };
                // A median under one token would make most draws the floor of 1: something else was meant.
                let ok = mu > -1e-9 && mu <= libm::log(longest) + 1e-9;
                let range = format!("a law whose median is 1 to {MAX_LENGTH} tokens");
                within(&format!("{field}.{name}"), got, ok, range)?;
                let (min, max) = (law.min.unwrap_or(1), law.max.unwrap_or(MAX_LENGTH));
                let ok = (1..=MAX_LENGTH).contains(&min);
                within(&format!("{field}.min"), min, ok, format!("1 to {MAX_LENGTH} tokens"))?;
                let ok = (min..=MAX_LENGTH).contains(&max);
                within(&format!("{field}.max"), max, ok, format!("{min} (min) to {MAX_LENGTH} tokens"))?;
                Kind::Lognormal { mu, sigma, min: min.into(), max: max.into() }
            }
            Lengths::Quantiles(points) => {
                let field = format!("{field}.quantiles");
                let points: Vec<(f64, f64)> = points.iter().map(|(p, v)| (p.get(), v.get())).collect();
                let ends = (points.first().map(|p| p.0), points.last().map(|p| p.0));
                let shown = match ends {
                    (Some(from), Some(to)) => format!("{} from {from} to {to}", points.len()),
                    _ => "none".into(),
                };
                let ok = points.len() >= 2 && ends == (Some(0.0), Some(1.0));
                within(&field, shown, ok, "at least two points, from probability 0 to probability 1")?;
                for (index, pair) in points.windows(2).enumerate() {
                    let ok = pair[1].0 > pair[0].0 && pair[1].1 >= pair[0].1;
                    let expected =
                        format!("probabilities that rise and lengths that do not fall after {:?}", pair[0]);
                    within(&format!("{field}[{}]", index + 1), format!("{:?}", pair[1]), ok, expected)?;
                }
                for (index, (_, tokens)) in points.iter().enumerate() {
                    let ok = (1.0..=longest).contains(tokens);
                    within(&format!("{field}[{index}]"), *tokens, ok, format!("1 to {MAX_LENGTH} tokens"))?;
                }
                Kind::Quantiles(points)
            }
        };
        Ok(Self { kind })
    }

    /// The length at quantile `u` in `[0, 1)`, in whole tokens, at least 1.
    #[inline]
    pub fn at(&self, u: f64) -> u32 {
        match &self.kind {
            Kind::Constant(tokens) => *tokens,
            Kind::Lognormal { mu, sigma, min, max } => {
                // A sigma of 0 times the infinite quantile of u = 0 would be no number.
                let z = if u > 0.0 { normal_quantile(u) } else { -40.0 };
                round(libm::exp(mu + sigma * z).clamp(*min, *max))
            }
            Kind::Quantiles(points) => {
                let above = points.partition_point(|point| point.0 <= u).clamp(1, points.len() - 1);
                let ((p, a), (q, b)) = (points[above - 1], points[above]);
                round(a + (b - a) * ((u - p) / (q - p)))
            }
        }
    }

    /// Mean in tokens, for sizes and estimates (4,096 quantiles).
    pub fn mean(&self) -> f64 {
        let n = 4096;
        (0..n).map(|i| f64::from(self.at((f64::from(i) + 0.5) / f64::from(n)))).sum::<f64>() / f64::from(n)
    }
}

/// Nearest whole number of a value in `[1, MAX_LENGTH]`.
fn round(tokens: f64) -> u32 {
    (tokens + 0.5) as u32
}

/// The quantile function of the standard normal law, for `p` in `(0, 1)`; infinite at the ends.
///
/// Relative error about 1e-16.
///
/// Source: Wichura, algorithm AS 241 (PPND16), Applied Statistics 37 (3), 1988.
#[inline]
pub fn normal_quantile(p: f64) -> f64 {
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180625 - q * q;
        return q * ratio(r, &CENTRE);
    }
    let tail = if q < 0.0 { p } else { 1.0 - p };
    if tail <= 0.0 {
        return if q < 0.0 { f64::NEG_INFINITY } else { f64::INFINITY };
    }
    let r = libm::sqrt(-libm::log(tail));
    let z = if r <= 5.0 { ratio(r - 1.6, &MIDDLE) } else { ratio(r - 5.0, &TAIL) };
    if q < 0.0 { -z } else { z }
}

/// Numerator and denominator, highest power first.
type Rational = ([f64; 8], [f64; 8]);

#[inline]
fn ratio(r: f64, (above, below): &Rational) -> f64 {
    let horner = |c: &[f64; 8]| c.iter().fold(0.0, |sum, c| sum * r + c);
    horner(above) / horner(below)
}

const CENTRE: Rational = (
    [
        2.509_080_928_730_122_6e3,
        3.343_057_558_358_813e4,
        6.726_577_092_700_87e4,
        4.592_195_393_154_987e4,
        1.373_169_376_550_946e4,
        1.971_590_950_306_551_3e3,
        1.331_416_678_917_843_8e2,
        3.387_132_872_796_366_5,
    ],
    [
        5.226_495_278_852_854e3,
        2.872_908_573_572_194_3e4,
        3.930_789_580_009_271e4,
        2.121_379_430_158_659_7e4,
        5.394_196_021_424_751e3,
        6.871_870_074_920_579e2,
        4.231_333_070_160_091e1,
        1.0,
    ],
);
const MIDDLE: Rational = (
    [
        7.745_450_142_783_414e-4,
        2.272_384_498_926_918_4e-2,
        2.417_807_251_774_506e-1,
        1.270_458_252_452_368_4,
        3.647_848_324_763_204_5,
        5.769_497_221_460_691,
        4.630_337_846_156_546,
        1.423_437_110_749_683_5,
    ],
    [
        1.050_750_071_644_416_9e-9,
        5.475_938_084_995_345e-4,
        1.519_866_656_361_645_7e-2,
        1.481_039_764_274_800_8e-1,
        6.897_673_349_851e-1,
        1.676_384_830_183_803_8,
        2.053_191_626_637_759,
        1.0,
    ],
);
const TAIL: Rational = (
    [
        2.010_334_399_292_288_1e-7,
        2.711_555_568_743_487_6e-5,
        1.242_660_947_388_078_4e-3,
        2.653_218_952_657_612_4e-2,
        2.965_605_718_285_048_7e-1,
        1.784_826_539_917_291_3,
        5.463_784_911_164_114,
        6.657_904_643_501_103,
    ],
    [
        2.044_263_103_389_939_8e-15,
        1.421_511_758_316_446e-7,
        1.846_318_317_510_054_7e-5,
        7.868_691_311_456_133e-4,
        1.487_536_129_085_061_5e-2,
        1.369_298_809_227_358e-1,
        5.998_322_065_558_88e-1,
        1.0,
    ],
);

#[cfg(test)]
mod tests {
    use super::super::config::Lognormal;
    use super::*;
    use crate::units::{NonNegative, Positive, Probability};
    use proptest::prelude::*;

    fn lognormal(median: f64, sigma: f64, min: Option<u32>, max: Option<u32>) -> Lengths {
        let sigma = NonNegative::new(sigma).unwrap();
        let median = Some(Positive::new(median).unwrap());
        Lengths::Lognormal(Lognormal { median, mean: None, mu: None, sigma, min, max })
    }

    fn quantiles(points: &[(f64, f64)]) -> Lengths {
        let point = |&(p, v): &(f64, f64)| (Probability::new(p).unwrap(), NonNegative::new(v).unwrap());
        Lengths::Quantiles(points.iter().map(point).collect())
    }

    fn refused(lengths: &Lengths) -> String {
        LengthLaw::new(lengths, "prompt_tokens").unwrap_err().to_string()
    }

    proptest! {
        #[test]
        fn the_normal_quantile_inverts_the_normal_distribution(exponent in -300.0..-0.302f64) {
            let p = 10f64.powf(exponent);
            let back = 0.5 * libm::erfc(-normal_quantile(p) / std::f64::consts::SQRT_2);
            prop_assert!((back / p - 1.0).abs() < 1e-11, "{p}: {back}");
            // Symmetric where 1 − p still says p.
            if p > 1e-3 {
                prop_assert!((normal_quantile(1.0 - p) + normal_quantile(p)).abs() < 1e-11);
            }
        }

        #[test]
        fn more_luck_is_never_a_shorter_request(u in 0.0..1.0f64, v in 0.0..1.0f64) {
            let (u, v) = if u <= v { (u, v) } else { (v, u) };
            for law in [lognormal(400.0, 0.9, Some(3), Some(5000)), quantiles(&[(0.0, 3.0), (0.5, 200.0), (1.0, 900.0)])] {
                let law = LengthLaw::new(&law, "x").unwrap();
                prop_assert!(law.at(u) <= law.at(v));
            }
        }
    }

    #[test]
    fn a_lognormal_has_its_median_its_quantiles_and_its_bounds() {
        let law = LengthLaw::new(&lognormal(400.0, 0.9, Some(30), Some(4096)), "x").unwrap();
        assert_eq!(law.at(0.5), 400);
        assert_eq!(law.at(0.975), (400.0 * (0.9 * 1.959_964f64).exp()).round() as u32);
        assert_eq!((law.at(0.0), law.at(1.0 - 1e-16)), (30, 4096));
        assert_eq!(LengthLaw::new(&lognormal(7.0, 0.0, None, None), "x").unwrap().at(0.0), 7);
    }

    #[test]
    fn median_mean_and_mu_locate_the_same_law() {
        let sigma = NonNegative::new(0.9).unwrap();
        let law = |median, mean, mu| {
            let law = Lognormal { median, mean, mu, sigma, min: None, max: None };
            LengthLaw::new(&Lengths::Lognormal(law), "x").unwrap()
        };
        let positive = |v: f64| Some(Positive::new(v).unwrap());
        let by_mu = law(None, None, Some(6.5));
        let by_median = law(positive(6.5f64.exp()), None, None);
        let by_mean = law(None, positive((6.5f64 + 0.405).exp()), None);
        for i in 0..100 {
            let u = (f64::from(i) + 0.5) / 100.0;
            assert_eq!(by_mu.at(u), by_median.at(u));
            assert!(by_mu.at(u).abs_diff(by_mean.at(u)) <= 1);
        }
        assert!((by_mean.mean() / (6.5f64 + 0.405).exp() - 1.0).abs() < 2e-3, "{}", by_mean.mean());
    }

    #[test]
    fn quantiles_are_linear_between_their_points() {
        let law = LengthLaw::new(&quantiles(&[(0.0, 3.0), (0.5, 203.0), (1.0, 5203.0)]), "x").unwrap();
        let at = [0.0, 0.25, 0.5, 0.75, 0.999_999].map(|u| law.at(u));
        assert_eq!(at, [3, 103, 203, 2703, 5203]);
        assert!((law.mean() - 0.5 * (103.0 + 2703.0)).abs() < 0.5);
    }

    #[test]
    fn lengths_that_mean_something_else_are_refused() {
        insta::assert_snapshot!(refused(&Lengths::Constant(0)), @"workload.prompt_tokens.constant: expected 1 to 16777216 tokens, got 0");
        insta::assert_snapshot!(refused(&lognormal(0.4, 0.9, None, None)), @"workload.prompt_tokens.lognormal.median: expected a law whose median is 1 to 16777216 tokens, got 0.4");
        insta::assert_snapshot!(refused(&lognormal(40.0, 0.9, Some(90), Some(80))), @"workload.prompt_tokens.lognormal.max: expected 90 (min) to 16777216 tokens, got 80");
        insta::assert_snapshot!(refused(&lognormal(40.0, 99.0, None, None)), @"workload.prompt_tokens.lognormal.sigma: expected 0 to 10, got 99");
        insta::assert_snapshot!(refused(&quantiles(&[])), @"workload.prompt_tokens.quantiles: expected at least two points, from probability 0 to probability 1, got none");
        insta::assert_snapshot!(refused(&quantiles(&[(0.1, 3.0), (1.0, 5.0)])), @"workload.prompt_tokens.quantiles: expected at least two points, from probability 0 to probability 1, got 2 from 0.1 to 1");
        insta::assert_snapshot!(refused(&quantiles(&[(0.0, 3.0), (0.5, 2.0), (1.0, 5.0)])), @"workload.prompt_tokens.quantiles[1]: expected probabilities that rise and lengths that do not fall after (0.0, 3.0), got (0.5, 2.0)");
        insta::assert_snapshot!(refused(&quantiles(&[(0.0, 3.0), (0.5, 4.0), (0.5, 5.0), (1.0, 5.0)])), @"workload.prompt_tokens.quantiles[2]: expected probabilities that rise and lengths that do not fall after (0.5, 4.0), got (0.5, 5.0)");
        insta::assert_snapshot!(refused(&quantiles(&[(0.0, 0.0), (1.0, 5.0)])), @"workload.prompt_tokens.quantiles[0]: expected 1 to 16777216 tokens, got 0");
        let sigma = NonNegative::new(0.9).unwrap();
        let law = Lognormal { median: None, mean: None, mu: None, sigma, min: None, max: None };
        insta::assert_snapshot!(refused(&Lengths::Lognormal(law)), @"workload.prompt_tokens.lognormal: expected one of median, mean and mu, got none of them");
        insta::assert_snapshot!(refused(&Lengths::Lognormal(Lognormal { mu: Some(f64::NAN), ..law })), @"workload.prompt_tokens.lognormal.mu: expected a law whose median is 1 to 16777216 tokens, got NaN");
        let mean = Some(Positive::new(5.0).unwrap());
        insta::assert_snapshot!(refused(&Lengths::Lognormal(Lognormal { mean, mu: Some(1.0), ..law })), @"workload.prompt_tokens.lognormal: expected one of median, mean and mu, got more than one");
    }
}
