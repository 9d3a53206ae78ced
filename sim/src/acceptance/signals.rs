//! Confidence signals of drafts: top probability and entropy, which follow the acceptance behind them
//! as well as real ones do and no better.
//!
//! A Gaussian copula: the acceptance's normal score, mixed with keyed noise so that the Spearman
//! correlation is the stated one, is mapped through monotone functions.

use super::law::{Coins, Pair, Walk};

/// What a drafter's distribution looked like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Signal {
    /// Probability of its most likely token.
    pub top_probability: f32,
    /// Its entropy in nats.
    pub entropy: f32,
}

/// Spread of the top probability on the logit scale: one normal score moves .65 to .89.
const SPREAD: f64 = 1.5;

impl Signal {
    /// The signal of a draft whose pair has the mean acceptance `mean`, `score` standard deviations
    /// above its middle. The distribution is taken as geometric over ranks: its entropy falls as its
    /// top probability rises.
    pub(crate) fn new(mean: f64, score: f64) -> Self {
        let mean = mean.clamp(0.02, 0.98);
        let logit = libm::log(mean / (1.0 - mean)) + SPREAD * score;
        let top = (1.0 / (1.0 + libm::exp(-logit))).clamp(1e-4, 1.0 - 1e-4);
        let rest = 1.0 - top;
        let entropy = -(top * libm::log(top) + rest * libm::log(rest)) / top;
        Self { top_probability: top as f32, entropy: entropy as f32 }
    }

    /// The noisy score at a position: `latent` scores follow the acceptance with correlation `follow`.
    pub(crate) fn score(
        coins: &Coins,
        walk: &Walk<'_>,
        position: u32,
        pair: Pair,
        (latent, follow): (f64, f64),
    ) -> f64 {
        let key = u64::from(position) << 8 | u64::from(pair.drafter.0);
        let noise = coins.signal.normal(walk.sequence.request.0, key);
        follow * latent + libm::sqrt(1.0 - follow * follow) * noise
    }
}

/// Standard normal scores of `values` by rank; equal values share the rank in their middle.
pub(crate) fn normal_scores(values: &[f64]) -> Vec<f64> {
    let ranks = ranks(values);
    ranks.iter().map(|rank| quantile((rank + 0.5) / values.len() as f64)).collect()
}

/// The copula's correlation at which signals have Spearman correlation `wanted` with latents of these
/// scores (1 where even that is too little, 0 where the latents are all alike).
pub(crate) fn copula(scores: &[f64], wanted: f64) -> f64 {
    let mut sorted = scores.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return 0.0 };
    if last - first <= 0.0 {
        return 0.0;
    }
    const POINTS: usize = 64;
    let middle = |i: usize| (i as f64 + 0.5) / POINTS as f64;
    let latents: Vec<f64> = (0..POINTS).map(|i| sorted[(middle(i) * sorted.len() as f64) as usize]).collect();
    let pairs: Vec<(f64, f64)> =
        latents.iter().flat_map(|&latent| (0..POINTS).map(move |j| (latent, quantile(middle(j))))).collect();
    let latent_ranks = ranks(&pairs.iter().map(|p| p.0).collect::<Vec<_>>());
    let reached = |follow: f64| {
        let rest = libm::sqrt(1.0 - follow * follow);
        let signals: Vec<f64> = pairs.iter().map(|(latent, noise)| follow * latent + rest * noise).collect();
        correlation(&latent_ranks, &ranks(&signals))
    };
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..14 {
        let follow = (low + high) / 2.0;
        if reached(follow) < wanted { low = follow } else { high = follow }
    }
    if wanted > 0.0 { high } else { 0.0 }
}

/// Ranks from 0; equal values share the middle of theirs.
pub(crate) fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for tied in order.chunk_by(|&a, &b| values[a].total_cmp(&values[b]).is_eq()) {
        tied.iter().for_each(|&i| ranks[i] = before as f64 + (tied.len() - 1) as f64 / 2.0);
        before += tied.len();
    }
    ranks
}

/// Pearson's correlation; 0 where either side does not vary.
pub(crate) fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len() as f64;
    let (mean_a, mean_b) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        ab += (x - mean_a) * (y - mean_b);
        aa += (x - mean_a) * (x - mean_a);
        bb += (y - mean_b) * (y - mean_b);
    }
    if aa > 0.0 && bb > 0.0 { ab / libm::sqrt(aa * bb) } else { 0.0 }
}

/// The standard normal quantile, to 2e-7 (bisection on the error function, at set-up only).
fn quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-8.0, 8.0);
    for _ in 0..27 {
        let x = (low + high) / 2.0;
        if 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2) < p { low = x } else { high = x }
    }
    (low + high) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_monotone_in_their_score() {
        let signals: Vec<Signal> = (-30..=30).map(|s| Signal::new(0.7, f64::from(s) / 10.0)).collect();
        assert!(signals.is_sorted_by(|a, b| a.top_probability < b.top_probability && a.entropy > b.entropy));
    }

    #[test]
    fn the_copula_gives_the_rank_correlation_that_is_asked_for() {
        let even: Vec<f64> = (0..1000).map(f64::from).collect();
        let scores = normal_scores(&even);
        for wanted in [0.2f64, 0.5, 0.8] {
            // Known: ρ = 2 sin(π ρ_s / 6).
            let known = 2.0 * libm::sin(std::f64::consts::PI * wanted / 6.0);
            assert!((copula(&scores, wanted) - known).abs() < 0.01, "{wanted}");
        }
        assert!(copula(&normal_scores(&[1.0, 1.0]), 0.5).abs() < 1e-12);
    }

    #[test]
    fn quantiles_of_the_normal_law_are_the_known_ones() {
        for (p, z) in [(0.5, 0.0), (0.975, 1.959_964), (0.001, -3.090_232)] {
            assert!((quantile(p) - z).abs() < 1e-6);
        }
        assert_eq!(ranks(&[3.0, 1.0, 3.0]), vec![1.5, 0.0, 1.5]);
    }
}
