//! What is believed of acceptance: of a pair, of a pair in a class, of a request.
//!
//! A request is told from its class by one number, the ratio of its rejections to those its class lets expect: what
//! was learned of it under one drafter says something of the others. So a pair that is tried on a hard text is not
//! thought bad for it, nor one tried on an easy text good: what it rejects is set against what the better-known pairs
//! did there.

use super::requests::Requests;
use crate::chain::MAX_MODELS;
use crate::estimate::Ema;
use crate::ids::{ModelId, RequestId, Slot};
use crate::luck::Draws;
use crate::policy::RowReport;
use crate::policy::price::AlphaMatrix;

/// Positions after which half of what was seen of a class is forgotten.
const HALF_LIFE: f64 = 1024.0;
/// Positions' worth of trust in what is believed before anything was seen; a request says little of the pair.
const PRIOR: f64 = 24.0;
/// Positions' worth of trust in the pair against the class's own.
const CLASS: f64 = 96.0;
/// A pair is corrected for a request's difficulty by pairs whose class was seen this many times as much.
const BETTER_KNOWN: f64 = 2.0;
/// Change of an acceptance that makes decisions stale.
const NEWS: f64 = 0.01;
/// Standard deviation of one position's similarity about its pair's, requests and stretches included.
const POSITION: f64 = 2.0;
/// Standard deviation of how far a pair has moved since it was seen, at most, and the rounds after which it may have.
const DRIFT: f64 = 0.1;
const DRIFT_ROUNDS: f64 = 1024.0;
/// What a draw of a pair is at most.
const MOST: f64 = 0.98;

/// Similarity of one pair: an average that forgets.
#[derive(Clone, Copy)]
struct Seen {
    mean: Ema,
    /// Acceptance when decisions were last called stale for it.
    told: f64,
    /// Round of the newest news.
    round: u64,
}

const UNSEEN: Seen = Seen { mean: Ema::EMPTY, told: f64::NAN, round: 0 };

type Pairs = [[Seen; MAX_MODELS]; MAX_MODELS];

/// All of it.
pub(super) struct Beliefs {
    models: usize,
    initial: f64,
    all: Box<Pairs>,
    classes: Vec<Pairs>,
    requests: Requests,
    version: u64,
    draws: Draws,
}

impl Beliefs {
    pub fn new(models: usize, initial: f64, draws: Draws) -> Self {
        let all = Box::new([[UNSEEN; MAX_MODELS]; MAX_MODELS]);
        Self { models, initial, all, classes: Vec::new(), requests: Requests::default(), version: 0, draws }
    }

    /// Grows when some pair has moved enough to matter.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Learns from one verification in round `round`.
    pub fn learn(&mut self, row: &RowReport, round: u64) {
        if row.examined == 0 || row.drafter == row.verifier {
            return;
        }
        let (d, v, n) = (row.drafter.index(), row.verifier.index(), f64::from(row.examined));
        let mean = f64::from(row.similarity) / n;
        let class = row.class.index();
        if class >= self.classes.len() {
            self.classes.resize(class + 1, [[UNSEEN; MAX_MODELS]; MAX_MODELS]);
            self.version += 1;
        }
        let request = (row.slot, row.request);
        let weight = |d: usize, v: usize| self.classes[class][d][v].mean.weight();
        let enough = BETTER_KNOWN * weight(d, v);
        let difficulty =
            self.requests.difficulty(request, (d, v), self.models, |a, b| weight(a, b) >= enough);
        let usual = (1.0 - (1.0 - mean) / difficulty).clamp(0.0, 1.0);
        // A request is measured against what was believed before it spoke.
        let expected = 1.0 - self.believed(class, d, v);
        self.requests.learn(request, (d, v), n, (n * (1.0 - mean), n * expected));

        for seen in [&mut self.all[d][v], &mut self.classes[class][d][v]] {
            seen.mean.add(usual, n, HALF_LIFE);
            seen.round = round;
        }
        let now = self.believed(class, d, v);
        let told = &mut self.classes[class][d][v].told;
        if told.is_nan() || (now - *told).abs() > NEWS {
            *told = now;
            self.version += 1;
        }
    }

    /// The acceptance of every pair in a class.
    pub fn of_class(&self, class: usize) -> AlphaMatrix {
        self.matrix(|d, v| self.believed(class, d, v))
    }

    /// The acceptance of one pair in a class.
    pub fn class_pair(&self, class: usize, drafter: ModelId, verifier: ModelId) -> f64 {
        self.believed(class, drafter.index(), verifier.index())
    }

    /// A draw of every pair in a class from what is believed of it: the less was seen of a pair and the longer ago, the
    /// wider. Within the triangle for a pair never seen. Draws of a round are told apart by their number.
    pub fn drawn(&self, class: usize, round: u64, draw: u64) -> AlphaMatrix {
        self.matrix(|d, v| {
            let seen = &self.all[d][v];
            let age = (round - seen.round) as f64 / DRIFT_ROUNDS;
            let unsure = POSITION / libm::sqrt(seen.mean.weight() + PRIOR) + DRIFT * age.min(1.0);
            let which = draw * (MAX_MODELS * MAX_MODELS) as u64 + (d * MAX_MODELS + v) as u64;
            let normal = self.draws.normal(round, which);
            let (low, high) = if seen.mean.get().is_none() { self.bounds(d, v) } else { (0.0, 1.0) };
            (self.believed(class, d, v) + unsure * normal).clamp(low, high).min(MOST)
        })
    }

    /// Rounds since the pair was seen; `None` if it never was.
    pub fn age(&self, drafter: ModelId, verifier: ModelId, round: u64) -> Option<u64> {
        let seen = &self.all[drafter.index()][verifier.index()];
        seen.mean.get().map(|_| round - seen.round)
    }

    /// Rejections of a request over those of its class.
    pub fn ratio(&self, slot: Slot, request: RequestId) -> f64 {
        self.requests.ratio(slot, request)
    }

    fn matrix(&self, value: impl Fn(usize, usize) -> f64) -> AlphaMatrix {
        let mut out = AlphaMatrix::uniform(self.initial);
        for v in 1..self.models {
            for d in 0..v {
                out.set(ModelId(d as u8), ModelId(v as u8), value(d, v));
            }
        }
        out
    }

    /// The pair's average over all classes, drawn to the prior (within the triangle of the pairs seen) while little
    /// was seen.
    fn pair(&self, d: usize, v: usize) -> f64 {
        let (low, high) = self.bounds(d, v);
        let prior = self.initial.clamp(low, high);
        shrunk(&self.all[d][v].mean, PRIOR, prior)
    }

    fn believed(&self, class: usize, d: usize, v: usize) -> f64 {
        let pair = self.pair(d, v);
        self.classes.get(class).map_or(pair, |pairs| shrunk(&pairs[d][v].mean, CLASS, pair))
    }

    /// Total variation is a metric: |(1−s_ij) − (1−s_jk)| <= 1−s_ik <= (1−s_ij) + (1−s_jk) for every third model j.
    fn bounds(&self, d: usize, v: usize) -> (f64, f64) {
        let distance = |a: usize, b: usize| self.all[a.min(b)][a.max(b)].mean.get().map(|s| 1.0 - s);
        let thirds = (0..self.models).filter(|&j| j != d && j != v);
        thirds.fold((0.0, 1.0), |(low, high), j| match (distance(d, j), distance(j, v)) {
            (Some(a), Some(b)) => {
                let (low, high) = (f64::max(low, 1.0 - a - b), f64::min(high, 1.0 - (a - b).abs()));
                (low.min(high), high)
            }
            _ => (low, high),
        })
    }
}

/// A mean drawn to `prior` with `trust` positions' worth of weight.
fn shrunk(mean: &Ema, trust: f64, prior: f64) -> f64 {
    mean.get().map_or(prior, |value| (mean.weight() * value + trust * prior) / (mean.weight() + trust))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ClassId;
    use crate::luck::{Luck, Stream};

    fn beliefs(models: usize) -> Beliefs {
        Beliefs::new(models, 0.7, Luck::new(1).stream(Stream::Policy))
    }

    /// `n` rounds of 4 examined positions each.
    fn show(beliefs: &mut Beliefs, (d, v): (u8, u8), class: u16, request: u64, similarity: f32, n: u64) {
        for round in 0..n {
            let row = RowReport {
                slot: Slot(request as u32),
                request: RequestId(request),
                class: ClassId(class),
                drafter: ModelId(d),
                verifier: ModelId(v),
                drafted: 4,
                accepted: 2,
                examined: 4,
                similarity: 4.0 * similarity,
                committed: 3,
            };
            beliefs.learn(&row, round);
        }
    }

    #[test]
    fn a_class_never_seen_is_believed_like_all_and_one_seen_by_itself() {
        let mut b = beliefs(2);
        show(&mut b, (0, 1), 0, 1, 0.4, 2000);
        assert!((b.class_pair(0, ModelId(0), ModelId(1)) - 0.4).abs() < 0.02);
        assert!((b.class_pair(7, ModelId(0), ModelId(1)) - 0.4).abs() < 0.02, "all that is known");
        show(&mut b, (0, 1), 1, 2, 0.9, 2000);
        assert!((b.class_pair(1, ModelId(0), ModelId(1)) - 0.9).abs() < 0.03);
        assert!((b.class_pair(0, ModelId(0), ModelId(1)) - 0.4).abs() < 0.06, "a class keeps its own");
    }

    #[test]
    fn a_pair_never_seen_lies_within_the_triangle_of_those_seen() {
        let mut b = beliefs(3);
        show(&mut b, (0, 2), 0, 1, 0.55, 20_000);
        show(&mut b, (1, 2), 0, 2, 0.92, 20_000);
        let alpha = b.of_class(0).get(ModelId(0), ModelId(1));
        assert!((alpha - 0.63).abs() < 0.01, "at most 1 − (0.45 − 0.08): {alpha}");
        for round in 20_000..20_100 {
            let drawn = b.drawn(0, round, 0).get(ModelId(0), ModelId(1));
            assert!((0.46..=0.64).contains(&drawn), "{drawn}");
        }
    }

    #[test]
    fn what_a_request_rejects_beyond_its_class_is_its_own() {
        let mut b = beliefs(2);
        show(&mut b, (0, 1), 0, 1, 0.6, 4000);
        show(&mut b, (0, 1), 0, 2, 0.8, 12);
        let (usual, easy) = (b.ratio(Slot(1), RequestId(1)), b.ratio(Slot(2), RequestId(2)));
        assert!((usual - 1.0).abs() < 0.05 && easy < 0.75, "{usual} {easy}");
        assert_eq!(b.ratio(Slot(2), RequestId(3)), 1.0, "a slot's new request is a stranger");
    }

    #[test]
    fn a_pair_tried_on_a_hard_text_is_not_thought_bad_for_it() {
        let tried = |on: u64| {
            let mut b = beliefs(3);
            show(&mut b, (0, 2), 0, 1, 0.7, 2000);
            // Twice the rejections under the model that is known, then a trial of the other.
            show(&mut b, (0, 2), 0, 2, 0.4, 20);
            show(&mut b, (1, 2), 0, on, 0.7, 40);
            b.class_pair(0, ModelId(1), ModelId(2))
        };
        let (there, elsewhere) = (tried(2), tried(3));
        assert!((elsewhere - 0.7).abs() < 0.01, "by itself: {elsewhere}");
        assert!((0.8..0.86).contains(&there), "0.7 where others do half as well as usual: {there}");
    }

    #[test]
    fn a_pair_that_all_know_best_answers_for_itself() {
        let mut b = beliefs(3);
        show(&mut b, (0, 2), 0, 1, 0.7, 500);
        show(&mut b, (1, 2), 0, 2, 0.9, 20);
        show(&mut b, (0, 2), 0, 2, 0.3, 2000);
        let alpha = b.class_pair(0, ModelId(0), ModelId(2));
        assert!((alpha - 0.3).abs() < 0.02, "the text has changed: {alpha}");
    }

    #[test]
    fn draws_narrow_as_a_pair_is_seen_and_widen_as_it_is_not() {
        let mut b = beliefs(2);
        let spread = |b: &Beliefs, from: u64| {
            let draws: Vec<f64> =
                (from..from + 400).map(|r| b.drawn(0, r, 0).get(ModelId(0), ModelId(1))).collect();
            let mean = draws.iter().sum::<f64>() / 400.0;
            (draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 400.0).sqrt()
        };
        let before = spread(&b, 0);
        show(&mut b, (0, 1), 0, 1, 0.6, 1000);
        let (fresh, stale) = (spread(&b, 1000), spread(&b, 40_000));
        assert!(fresh < 0.6 * before && stale > 1.5 * fresh, "{before} {fresh} {stale}");
    }
}
