//! What is known of a drafter directly below the target: tokens per window, for windows of any length.

use crate::chain::MAX_BLOCK;
use crate::estimate::Ema;
use crate::policy::maths::expected_tokens;

const LENGTHS: usize = MAX_BLOCK as usize + 1;
/// Half-life, in positions, of the similarity that goes on where a verdict ends.
const POSITIONS: f64 = 512.0;

/// Tokens that a verification of 0, 1, … drafted tokens commits, summed over windows of text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows {
    weight: f64,
    tokens: [f64; LENGTHS],
}

impl Windows {
    const NONE: Self = Self { weight: 0.0, tokens: [0.0; LENGTHS] };

    /// Mean tokens of a block of `n`; `None` where no window was seen.
    fn mean(&self, n: u32) -> Option<f64> {
        let index = (n as usize).min(LENGTHS - 1);
        (self.weight > 0.0).then(|| self.tokens[index] / self.weight)
    }
}

/// A drafter under the target, as seen in windows of committed text.
///
/// The estimate is the mean of what each window gave, not what a mean acceptance would give: where
/// acceptance varies along the text, easy stretches emit more than hard ones lose.
///
/// - **A verified block** of `drafted` tokens of which `accepted` were kept: a block of n would have
///   committed min(accepted, n) + 1. Exact for every n up to the block, and beyond it if a token was
///   rejected. Of a block that was kept whole, what lies beyond goes on with the pair's similarity.
/// - **A probe** of 32 positions gives their mean similarity s, and `E(s, n)` tokens. That takes
///   acceptance to be alike within these positions; it averages over probes as seen.
#[derive(Clone, Debug)]
pub(super) struct Drafter {
    /// Since the last step.
    fresh: Windows,
    /// Before that, fading.
    known: Windows,
    similarity: Ema,
    initial: f64,
}

impl Drafter {
    /// Nothing seen; `initial` is the acceptance believed meanwhile.
    pub const fn new(initial: f64) -> Self {
        Self { fresh: Windows::NONE, known: Windows::NONE, similarity: Ema::EMPTY, initial }
    }

    /// The verdict on a block; `open` if it was kept whole or its text ended.
    pub fn verified(&mut self, accepted: u32, open: bool) {
        let accepted = (accepted as usize).min(LENGTHS - 1);
        let similarity = self.similarity();
        let (mut tokens, mut survives) = (1.0, 1.0);
        self.fresh.weight += 1.0;
        for (n, sum) in self.fresh.tokens.iter_mut().enumerate() {
            if n > accepted {
                survives *= if open { similarity } else { 0.0 };
            }
            tokens += if n > 0 { survives } else { 0.0 };
            *sum += tokens;
        }
    }

    /// A look at committed text with mean similarity `mean`.
    pub fn probed(&mut self, mean: f64) {
        self.fresh.weight += 1.0;
        for (n, sum) in self.fresh.tokens.iter_mut().enumerate() {
            *sum += expected_tokens(mean, n as u32);
        }
    }

    /// `positions` examined positions of mean similarity `mean`.
    pub fn examined(&mut self, mean: f64, positions: f64) {
        if mean.is_finite() && positions > 0.0 {
            self.similarity.add(mean, positions, POSITIONS);
        }
    }

    /// Mean similarity to the target.
    pub fn similarity(&self) -> f64 {
        self.similarity.get().unwrap_or(self.initial)
    }

    /// True once anything was seen.
    pub fn seen(&self) -> bool {
        self.fresh.weight + self.known.weight > 0.0
    }

    /// Tokens of a block of `n` in the windows since the last step; without any, as
    /// [`known`](Self::known).
    pub fn fresh(&self, n: u32) -> f64 {
        self.fresh.mean(n).unwrap_or_else(|| self.known(n))
    }

    /// Tokens of a block of `n`, as known from before.
    pub fn known(&self, n: u32) -> f64 {
        self.known.mean(n).unwrap_or_else(|| expected_tokens(self.similarity(), n))
    }

    /// Ends a step: what was fresh is known, and what was known fades by `keep` where it was renewed.
    pub fn settle(&mut self, keep: f64) {
        if self.fresh.weight > 0.0 {
            self.known.weight = self.known.weight * keep + self.fresh.weight;
            for (known, fresh) in self.known.tokens.iter_mut().zip(&self.fresh.tokens) {
                *known = *known * keep + fresh;
            }
            self.fresh = Windows::NONE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::luck::{Luck, Stream};

    #[track_caller]
    fn close(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-9, "got {got}, expected {expected}");
    }

    #[test]
    fn a_rejection_is_exact_at_every_length_and_a_full_block_goes_on_with_the_similarity() {
        let mut drafter = Drafter::new(0.5);
        drafter.verified(2, false);
        for (n, tokens) in [(0, 1.0), (1, 2.0), (2, 3.0), (3, 3.0), (32, 3.0)] {
            close(drafter.fresh(n), tokens);
        }
        let mut drafter = Drafter::new(0.5);
        drafter.verified(2, true);
        for (n, tokens) in [(0, 1.0), (2, 3.0), (3, 3.5), (4, 3.75)] {
            close(drafter.fresh(n), tokens);
        }
        drafter.settle(0.5);
        close(drafter.known(3), 3.5);
        drafter.verified(0, false);
        close(drafter.fresh(3), 1.0);
        drafter.settle(0.5);
        close(drafter.known(3), (0.5 * 3.5 + 1.0) / 1.5);
    }

    /// Half of the windows at .9, half at .1: means of products, not the product of means.
    #[test]
    fn windows_that_differ_are_averaged_as_they_were() {
        let exact = |n| (expected_tokens(0.9, n) + expected_tokens(0.1, n)) / 2.0;
        let draws = Luck::new(1).stream(Stream::Test);
        let (mut verified, mut probed) = (Drafter::new(0.5), Drafter::new(0.5));
        for round in 0..40_000u64 {
            let alpha = if round % 2 == 0 { 0.9 } else { 0.1 };
            let accepted = (0..8).take_while(|&j| draws.uniform(round, j) < alpha).count() as u32;
            verified.verified(accepted, accepted == 8);
            if round < 2 {
                probed.probed(alpha);
            }
        }
        for n in [1, 3, 5, 8] {
            close(probed.fresh(n), exact(n));
            assert!((verified.fresh(n) - exact(n)).abs() < 0.03, "{n}: {} {}", verified.fresh(n), exact(n));
        }
        assert!(exact(8) > expected_tokens(0.5, 8) + 1.5, "{}", exact(8));
    }
}
