//! The draws of sampling and verification, keyed, so that none is ever made twice (rule R5).
//!
//! A coin's key is (request's seed, output position, model, purpose, times drawn before). The last
//! keeps a policy honest: after a rollback it may have seen what a dropped draw was, so the draw
//! must not come again. Coupled noise is keyed by position and token alone: there, coming again is
//! the point.

use specrouter_routing::chain::MAX_MODELS;
use specrouter_routing::ids::ModelId;
use specrouter_routing::luck::{Draws, Luck, Stream};

use crate::sampling::Distribution;

/// What a coin decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Purpose {
    /// A token from a model's own distribution: a draft, a bonus, plain decoding.
    Proposal,
    /// Whether a proposal is kept.
    Acceptance,
    /// The correction after a rejection.
    Residual,
}

/// Names one coin of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The request's seed.
    pub seed: u64,
    /// Output position, 0 the first token after the prompt.
    pub position: u32,
    /// Who draws.
    pub model: ModelId,
    /// What for.
    pub purpose: Purpose,
    /// How often the four above were drawn before.
    pub times: u16,
}

/// A source of coins: keyed luck, or a test that enumerates every outcome.
pub trait Coins {
    /// An index drawn with chance `weights[index] / total`; each weight is finite and 0 or above,
    /// at least one is above 0, and `total` is their sum up to rounding.
    fn categorical<W>(&mut self, key: Key, weights: W, total: f64) -> usize
    where
        W: Iterator<Item = f64> + Clone;

    /// True with chance `probability`, which is in `[0, 1]`.
    fn accept(&mut self, key: Key, probability: f64) -> bool;
}

/// Coins of a run's luck: a pure function of the key.
#[derive(Clone, Copy, Debug)]
pub struct Keyed {
    draws: Draws,
}

impl Keyed {
    /// The coins of the run with this luck.
    pub fn new(luck: Luck) -> Self {
        Self { draws: luck.stream(Stream::Engine) }
    }

    #[inline]
    fn uniform(&self, key: Key) -> f64 {
        let counter = u64::from(key.position) << 32
            | u64::from(key.times) << 16
            | u64::from(key.model.0) << 8
            | key.purpose as u64;
        self.draws.uniform(key.seed, counter)
    }
}

impl Coins for Keyed {
    fn categorical<W>(&mut self, key: Key, weights: W, total: f64) -> usize
    where
        W: Iterator<Item = f64> + Clone,
    {
        let mut left = self.uniform(key) * total;
        let mut last = 0;
        for (index, weight) in weights.enumerate() {
            if left < weight {
                return index;
            }
            left -= weight;
            if weight > 0.0 {
                last = index;
            }
        }
        last // Rounding left a crumb of the total over.
    }

    fn accept(&mut self, key: Key, probability: f64) -> bool {
        self.uniform(key) < probability
    }
}

/// The Gumbel noise of coupled decoding, keyed by (request's seed, output position, token id):
/// every level, in every round, batch and slot, meets the same.
///
/// Source: arXiv 2408.07978.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    draws: Draws,
}

impl Noise {
    /// The noise of the run with this luck.
    pub fn new(luck: Luck) -> Self {
        Self { draws: luck.stream(Stream::Gumbel) }
    }

    /// argmax of ln p + g over the support, the lowest id of several: a token distributed as `p`.
    ///
    /// With g = −ln(−ln u) that is argmin of −ln u / p, which takes one logarithm; and since
    /// −ln u >= 1 − u, most tokens are passed over without it.
    pub fn choose(&self, seed: u64, position: u32, p: &Distribution) -> u32 {
        let mut best = (f64::INFINITY, p.id(0));
        for (id, probability) in p.iter() {
            if probability <= 0.0 {
                continue;
            }
            let bits = self.draws.bits(seed, u64::from(position) << 32 | u64::from(id));
            let u = ((bits >> 11) as f64 + 0.5) * (1.0 / (1u64 << 53) as f64); // In (0, 1).
            if 1.0 - u < best.0 * probability {
                let time = -u.ln() / probability;
                if time < best.0 {
                    best = (time, id);
                }
            }
        }
        best.1
    }
}

/// Output positions that may be ahead of the committed text at once, and more: Σ windows + 1.
const AHEAD: usize = 64;

/// How often each coin of a sequence was drawn, for the positions that are not committed yet.
#[derive(Clone, Debug)]
pub struct Drawn {
    times: Vec<[[u16; 3]; MAX_MODELS]>,
}

impl Default for Drawn {
    fn default() -> Self {
        Self { times: vec![Default::default(); AHEAD] }
    }
}

impl Drawn {
    /// Counts a draw and answers how often it was made before.
    #[inline]
    pub fn count(&mut self, position: u32, model: ModelId, purpose: Purpose) -> u16 {
        let times = &mut self.times[position as usize % AHEAD][model.index() % MAX_MODELS][purpose as usize];
        *times = times.wrapping_add(1);
        times.wrapping_sub(1)
    }

    /// Output `position` is committed: nothing is drawn for it again.
    #[inline]
    pub fn settle(&mut self, position: u32) {
        self.times[position as usize % AHEAD] = Default::default();
    }
}

#[cfg(test)]
#[path = "coins_tests.rs"]
mod tests;
