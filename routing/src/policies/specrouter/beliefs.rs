//! What the scheduler believes of acceptance, pair by pair.

use crate::chain::MAX_MODELS;
use crate::estimate::Ema;
use crate::ids::ModelId;
use crate::policy::price::AlphaMatrix;

/// Change of an acceptance that makes decisions stale.
const NEWS: f64 = 0.01;
/// What an unseen pair may turn out to be at best.
const BEST_UNSEEN: f64 = 0.95;
/// How far a stale pair may have risen, at most, and the rounds after which it may have.
const DRIFT: f64 = 0.1;
const DRIFT_ROUNDS: f64 = 1024.0;
/// Positions' worth of trust in the prior: what one request says of a pair is not the pair.
const PRIOR: f64 = 32.0;

/// Moving averages of similarity, mapped to acceptance by f and bounded by the triangle.
pub(super) struct Beliefs {
    models: usize,
    half_life: f64,
    initial: f64,
    /// f as points (similarity, acceptance); empty is the identity.
    mapping: Vec<(f64, f64)>,
    similarity: [[Ema; MAX_MODELS]; MAX_MODELS],
    /// Positions ever seen of a pair.
    positions: [[f64; MAX_MODELS]; MAX_MODELS],
    told: [[f64; MAX_MODELS]; MAX_MODELS],
    /// Round of the newest news of a pair.
    seen_at: [[u64; MAX_MODELS]; MAX_MODELS],
    version: u64,
}

impl Beliefs {
    pub fn new(models: usize, half_life: f64, initial: f64, mapping: Vec<(f64, f64)>) -> Self {
        Self {
            models,
            half_life,
            initial,
            mapping,
            similarity: [[Ema::EMPTY; MAX_MODELS]; MAX_MODELS],
            positions: [[0.0; MAX_MODELS]; MAX_MODELS],
            told: [[initial; MAX_MODELS]; MAX_MODELS],
            seen_at: [[0; MAX_MODELS]; MAX_MODELS],
            version: 0,
        }
    }

    /// `positions` positions of mean similarity `mean`, seen in round `round`.
    pub fn learn(&mut self, drafter: ModelId, verifier: ModelId, mean: f64, positions: u64, round: u64) {
        let (d, v) = (drafter.index(), verifier.index());
        let first = self.similarity[d][v].get().is_none();
        self.similarity[d][v].add(mean, positions as f64, self.half_life);
        self.positions[d][v] += positions as f64;
        self.seen_at[d][v] = round;
        let now = self.seen(d, v).unwrap_or(self.initial);
        if first || (now - self.told[d][v]).abs() > NEWS {
            self.told[d][v] = now;
            self.version += 1;
        }
    }

    /// Grows when some pair has moved enough to matter.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Rounds since the pair was seen; `None` if it never was.
    pub fn age(&self, drafter: ModelId, verifier: ModelId, round: u64) -> Option<u64> {
        let (d, v) = (drafter.index(), verifier.index());
        self.similarity[d][v].get().map(|_| round - self.seen_at[d][v])
    }

    /// The acceptance of every pair as believed, all of them `shift` higher.
    pub fn expected(&self, shift: f64) -> AlphaMatrix {
        self.matrix(|_, seen, (low, high)| {
            (seen.unwrap_or_else(|| self.initial.clamp(low, high)) + shift).clamp(0.0, 1.0)
        })
    }

    /// The acceptance of every pair at its best: what a look might find. A pair may be two standard
    /// errors better than the few positions seen of it say, and may have risen since.
    pub fn optimistic(&self, round: u64) -> AlphaMatrix {
        self.matrix(|(d, v), seen, (_, high)| match seen {
            Some(value) => {
                let unsure = 1.0 / libm::sqrt(self.positions[d][v] + PRIOR);
                let stale = ((round - self.seen_at[d][v]) as f64 / DRIFT_ROUNDS).min(1.0);
                (value + unsure + DRIFT * stale).min(1.0)
            }
            None => high.min(BEST_UNSEEN),
        })
    }

    /// The believed acceptance of one pair.
    pub fn pair(&self, drafter: ModelId, verifier: ModelId) -> f64 {
        self.seen(drafter.index(), verifier.index()).unwrap_or(self.initial)
    }

    /// The mapped average of a pair that was seen, drawn to the prior while little was.
    fn seen(&self, drafter: usize, verifier: usize) -> Option<f64> {
        let (similarity, n) = (self.similarity[drafter][verifier].get()?, self.positions[drafter][verifier]);
        Some((n * self.map(similarity) + PRIOR * self.initial) / (n + PRIOR))
    }

    /// Every pair's value from its indices, what was seen of it, and the triangle's bounds.
    fn matrix(&self, value: impl Fn((usize, usize), Option<f64>, (f64, f64)) -> f64) -> AlphaMatrix {
        let mut out = AlphaMatrix::uniform(self.initial);
        for verifier in 1..self.models {
            for drafter in 0..verifier {
                let (low, high) = self.bounds(drafter, verifier);
                let bounds = (self.map(low), self.map(high));
                let alpha = value((drafter, verifier), self.seen(drafter, verifier), bounds);
                out.set(ModelId(drafter as u8), ModelId(verifier as u8), alpha);
            }
        }
        out
    }

    /// What the pairs seen say of one that was not: total variation is a metric, so
    /// |(1−s_ij) − (1−s_jk)| <= 1−s_ik <= (1−s_ij) + (1−s_jk) for every third model j.
    fn bounds(&self, drafter: usize, verifier: usize) -> (f64, f64) {
        let distance = |a: usize, b: usize| self.similarity[a.min(b)][a.max(b)].get().map(|s| 1.0 - s);
        let thirds = (0..self.models).filter(|&j| j != drafter && j != verifier);
        thirds.fold((0.0, 1.0), |(low, high), j| match (distance(drafter, j), distance(j, verifier)) {
            (Some(a), Some(b)) => {
                let (low, high) = (f64::max(low, 1.0 - a - b), f64::min(high, 1.0 - (a - b).abs()));
                (low.min(high), high)
            }
            _ => (low, high),
        })
    }

    /// f: similarity to acceptance.
    fn map(&self, similarity: f64) -> f64 {
        let Some(&(first, at_first)) = self.mapping.first() else { return similarity };
        if similarity <= first {
            return at_first;
        }
        for pair in self.mapping.windows(2) {
            let ((s0, a0), (s1, a1)) = (pair[0], pair[1]);
            if similarity <= s1 {
                return a0 + (a1 - a0) * (similarity - s0) / (s1 - s0);
            }
        }
        self.mapping.last().map_or(similarity, |&(_, last)| last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(m: u8) -> ModelId {
        ModelId(m)
    }

    #[test]
    fn a_pair_never_seen_lies_within_the_triangle_of_those_seen() {
        let mut beliefs = Beliefs::new(3, 64.0, 0.7, Vec::new());
        beliefs.learn(id(0), id(2), 0.55, 1_000_000, 1);
        beliefs.learn(id(1), id(2), 0.92, 1_000_000, 1);
        let alpha = beliefs.expected(0.0).get(id(0), id(1));
        assert!((alpha - 0.63).abs() < 1e-9, "at most 1 − (0.45 − 0.08): {alpha}");
        assert!((beliefs.optimistic(1).get(id(0), id(1)) - 0.63).abs() < 1e-9);
        assert_eq!((beliefs.age(id(0), id(1), 9), beliefs.age(id(0), id(2), 9)), (None, Some(8)));
    }

    #[test]
    fn a_pair_of_which_little_was_seen_may_be_better_than_it_looked() {
        let mut beliefs = Beliefs::new(2, 64.0, 0.7, Vec::new());
        beliefs.learn(id(0), id(1), 0.4, 12, 1);
        let (little, hope) = (beliefs.pair(id(0), id(1)), beliefs.optimistic(1).get(id(0), id(1)));
        assert!(little > 0.6 && hope > little + 0.1, "{little} {hope}");
        beliefs.learn(id(0), id(1), 0.4, 100_000, 2);
        let (much, hope) = (beliefs.pair(id(0), id(1)), beliefs.optimistic(2).get(id(0), id(1)));
        assert!((much - 0.4).abs() < 1e-3 && hope < much + 0.01, "{much} {hope}");
        let later = beliefs.optimistic(5000).get(id(0), id(1));
        assert!((later - much - DRIFT).abs() < 0.01, "it may have risen since: {later}");
    }

    #[test]
    fn a_mapping_bends_similarity_into_acceptance() {
        let mut beliefs = Beliefs::new(2, 64.0, 0.7, vec![(0.2, 0.1), (0.6, 0.5), (1.0, 1.0)]);
        beliefs.learn(id(0), id(1), 0.8, 32, 1);
        assert!(
            (beliefs.pair(id(0), id(1)) - (0.75 + 0.7) / 2.0).abs() < 1e-12,
            "half trust after 32 positions"
        );
        assert!((beliefs.map(0.0) - 0.1).abs() < 1e-12 && (beliefs.map(0.4) - 0.3).abs() < 1e-12);
    }
}
