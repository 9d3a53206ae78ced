//! Acceptance by depth in the drafter's block: independent coins with their own rate at each depth.

use specrouter_routing::chain::MAX_MODELS;
use specrouter_routing::ids::ModelId;

use super::law::{Law, OffPath, Pair, Walk};

/// Conditional acceptance rates by depth, per pair. Luck is keyed as in the constant source.
#[derive(Clone, Debug)]
pub struct PerPosition {
    /// `[drafter · MAX_MODELS + verifier][depth]`; empty where the pool has no such pair.
    rates: Vec<Vec<f64>>,
}

impl PerPosition {
    /// No pair yet.
    pub(crate) fn new() -> Self {
        Self { rates: vec![Vec::new(); MAX_MODELS * MAX_MODELS] }
    }

    pub(crate) fn set(&mut self, drafter: usize, verifier: usize, rates: Vec<f64>) {
        self.rates[drafter * MAX_MODELS + verifier] = rates;
    }

    /// The rate of a pair at a depth; 0 for a pair the pool does not have.
    #[inline]
    fn rate(&self, pair: Pair) -> f64 {
        let rates = &self.rates[pair.drafter.index() * MAX_MODELS + pair.verifier.index()];
        let last = rates.len().saturating_sub(1);
        rates.get((pair.depth as usize).min(last)).copied().unwrap_or(0.0)
    }

    /// Σ accepted / (Σ accepted + Σ rejections) of blocks as long as the list.
    pub(crate) fn mean(&self, drafter: ModelId, verifier: ModelId) -> f64 {
        let rates = &self.rates[drafter.index() * MAX_MODELS + verifier.index()];
        let (mut reached, mut accepted) = (1.0, 0.0);
        for rate in rates {
            reached *= rate;
            accepted += reached;
        }
        if rates.is_empty() { 0.0 } else { accepted / (accepted + 1.0 - reached).max(f64::MIN_POSITIVE) }
    }
}

impl Law for PerPosition {
    type Scene = ();

    #[inline]
    fn on_path(&self, _: &mut Walk<'_>, _: u32) {}

    #[inline]
    fn keeps(&self, (): (), walk: &Walk<'_>, position: u32, pair: Pair) -> bool {
        walk.coins.on_path(walk.sequence.request, position, pair.verifier.0) < self.rate(pair)
    }

    #[inline]
    fn beyond(&self, _: &mut Walk<'_>, _: u32, _: ModelId, _: &mut OffPath<'_>) {}

    #[inline]
    fn leaving(&self, _: &Walk<'_>, _: Option<u32>, _: Pair, _: &mut OffPath<'_>) {}

    #[inline]
    fn keeps_off(&self, (): (), _: &Walk<'_>, pair: Pair, off: &mut OffPath<'_>) -> bool {
        off.uniform() < self.rate(pair)
    }

    #[inline]
    fn similarity(&self, _: &mut Walk<'_>, _: u32, pair: Pair) -> f64 {
        self.rate(pair)
    }

    /// A probe looks at committed text, which is no block: the mean rate stands for it.
    fn probe(
        &self,
        _: &super::law::Coins,
        _: &mut super::law::Sequence,
        committed: u32,
        window: u32,
        drafter: ModelId,
        target: ModelId,
    ) -> f64 {
        self.mean(drafter, target) * f64::from(window.min(committed))
    }
}
