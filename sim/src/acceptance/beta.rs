//! The Beta law of π across requests, as equally likely atoms.

/// Atoms of a law with a spread.
const ATOMS: usize = 512;

/// Largest variance as a share of mean·(1 − mean): past it the law is two points in all but name.
pub(crate) const MOST_VARIANCE: f64 = 0.95;

/// Equally likely values in `[0, 1]`, ascending, with mean `mean` (exact to rounding) and the
/// quantiles of the Beta law with standard deviation `sd`; one value when `sd` is 0.
///
/// The variance is at most [`MOST_VARIANCE`]·mean·(1 − mean); the caller has checked that.
pub(crate) fn atoms(mean: f64, sd: f64) -> Vec<f64> {
    if sd <= 0.0 || mean <= 0.0 || mean >= 1.0 {
        return vec![mean];
    }
    let concentration = mean * (1.0 - mean) / (sd * sd) - 1.0;
    let (a, b) = (mean * concentration, (1.0 - mean) * concentration);
    // The distribution function on a grid that is dense at both ends, inverted between its points.
    const GRID: usize = 2048;
    let grid: Vec<(f64, f64)> = (0..=GRID)
        .map(|i| {
            let s = libm::sin(std::f64::consts::FRAC_PI_2 * i as f64 / GRID as f64);
            (s * s, distribution(a, b, s * s))
        })
        .collect();
    let mut at = 0;
    let mut values: Vec<f64> = (0..ATOMS)
        .map(|i| {
            let p = (i as f64 + 0.5) / ATOMS as f64;
            while at + 2 < grid.len() && grid[at + 1].1 < p {
                at += 1;
            }
            let ((x0, p0), (x1, p1)) = (grid[at], grid[at + 1]);
            if p1 > p0 { x0 + (x1 - x0) * ((p - p0) / (p1 - p0)).clamp(0.0, 1.0) } else { x1 }
        })
        .collect();
    // The mean carries the marginals, so it is made exact; scaling towards an end stays in [0, 1].
    let found = values.iter().sum::<f64>() / ATOMS as f64;
    for value in &mut values {
        *value = if found > mean {
            *value * mean / found
        } else {
            1.0 - (1.0 - *value) * (1.0 - mean) / (1.0 - found)
        };
    }
    values
}

/// The regularized incomplete beta function I_x(a, b), to 1e-10 (Lentz's continued fraction).
fn distribution(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let log =
        libm::lgamma(a + b) - libm::lgamma(a) - libm::lgamma(b) + a * libm::log(x) + b * libm::log(1.0 - x);
    let front = libm::exp(log);
    if x < (a + 1.0) / (a + b + 2.0) {
        front * fraction(a, b, x) / a
    } else {
        1.0 - front * fraction(b, a, 1.0 - x) / b
    }
}

fn fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let guard = |v: f64| if libm::fabs(v) < TINY { TINY } else { v };
    let (mut c, mut d) = (1.0, 1.0 / guard(1.0 - (a + b) * x / (a + 1.0)));
    let mut value = d;
    for m in 1..500 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        for term in [even, odd] {
            d = 1.0 / guard(1.0 + term * d);
            c = guard(1.0 + term / c);
            value *= d * c;
        }
        if libm::fabs(d * c - 1.0) < 1e-12 {
            break;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_incomplete_beta_function_has_its_known_values() {
        // I_x(a, 1) = x^a; I_x(2, 2) = 3x² − 2x³; I_½(a, a) = ½.
        for x in [0.05, 0.3, 0.9] {
            assert!((distribution(2.5, 1.0, x) - libm::pow(x, 2.5)).abs() < 1e-10);
            assert!((distribution(2.0, 2.0, x) - (3.0 * x * x - 2.0 * x * x * x)).abs() < 1e-10);
        }
        assert!((distribution(0.3, 0.3, 0.5) - 0.5).abs() < 1e-10);
        assert!((distribution(40.0, 60.0, 0.4) - 0.5).abs() < 0.02);
    }

    #[test]
    fn atoms_have_the_mean_and_the_spread_they_are_asked_for() {
        for (mean, sd) in [(0.5, 0.1), (0.6, 0.3), (0.14, 0.2), (0.95, 0.1), (0.9, 0.28), (0.3, 0.01)] {
            let values = atoms(mean, sd);
            let n = values.len() as f64;
            let found = values.iter().sum::<f64>() / n;
            let spread = (values.iter().map(|v| (v - found).powi(2)).sum::<f64>() / n).sqrt();
            assert!((found - mean).abs() < 1e-12, "{mean} {sd}: {found}");
            assert!((spread / sd - 1.0).abs() < 0.01, "{mean} {sd}: {spread}");
            assert!(values.is_sorted() && values[0] >= 0.0 && values[n as usize - 1] <= 1.0);
        }
        assert_eq!(atoms(0.4, 0.0), vec![0.4]);
    }
}
