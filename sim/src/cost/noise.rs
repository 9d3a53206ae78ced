//! Noise on pass times: the same luck for every policy.

use specrouter_routing::luck::{Draws, Luck, Stream};

/// Log-normal factors with mean 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noise {
    sigma: f64,
    draws: Draws,
}

impl Noise {
    /// `sigma`: standard deviation of the factor's logarithm. `None` when it is 0.
    pub(super) fn new(sigma: f64, luck: Luck) -> Option<Self> {
        (sigma > 0.0).then(|| Self { sigma, draws: luck.stream(Stream::Cost) })
    }

    /// The factor of the pass with this key.
    pub(super) fn factor(&self, key: (u64, u64)) -> f64 {
        // −σ²/2 keeps the mean at 1, so noise does not change what a pass costs on average.
        libm::exp(self.sigma * self.draws.normal(key.0, key.1) - 0.5 * self.sigma * self.sigma)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_average_to_one_and_spread_by_sigma() {
        let noise = Noise::new(0.2, Luck::new(7)).unwrap();
        let n = 20_000u64;
        let factors: Vec<f64> = (0..n).map(|i| noise.factor((3, i))).collect();
        let mean = factors.iter().sum::<f64>() / n as f64;
        let logs: Vec<f64> = factors.iter().map(|f| f.ln()).collect();
        let centre = logs.iter().sum::<f64>() / n as f64;
        let sd = (logs.iter().map(|l| (l - centre).powi(2)).sum::<f64>() / n as f64).sqrt();
        // Four standard errors of a log-normal's mean and of a normal's deviation.
        assert!((mean - 1.0).abs() < 4.0 * 0.202 / (n as f64).sqrt(), "{mean}");
        assert!((sd - 0.2).abs() < 4.0 * 0.2 / (2.0 * n as f64).sqrt(), "{sd}");
    }

    #[test]
    fn the_same_key_meets_the_same_factor_and_no_sigma_is_no_noise() {
        let noise = Noise::new(0.2, Luck::new(7)).unwrap();
        assert_eq!(noise.factor((1, 2)).to_bits(), noise.factor((1, 2)).to_bits());
        assert_ne!(noise.factor((1, 2)).to_bits(), noise.factor((2, 1)).to_bits());
        assert!(Noise::new(0.0, Luck::new(7)).is_none());
    }
}
