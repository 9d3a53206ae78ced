//! What is believed of acceptance: of a pair, of a pair in a class, of a request.
//!
//! A request is told from its class by one number, the ratio of its rejections to those its class lets expect: what
//! was learned of it under one drafter says something of the others.

use crate::chain::MAX_MODELS;
use crate::estimate::Ema;
use crate::ids::{ClassId, ModelId, RequestId, Slot};
use crate::policy::RowReport;
use crate::policy::price::AlphaMatrix;

/// Positions after which half of what was seen of a class is forgotten.
const HALF_LIFE: f64 = 1024.0;
/// Positions' worth of trust in what is believed before anything was seen; a request says little of the pair.
const PRIOR: f64 = 48.0;
/// Positions' worth of trust in the pair against the class's own.
const CLASS: f64 = 96.0;
/// Positions' worth of trust in the class against the request's own.
const REQUEST: f64 = 16.0;
/// Positions after which half of what was seen of a request is forgotten: text has its stretches.
const STRETCH: f64 = 64.0;
/// Change of an acceptance that makes decisions stale.
const NEWS: f64 = 0.01;
/// What a pair never seen may turn out to be at best.
const BEST_UNSEEN: f64 = 0.95;
/// How far a pair may have risen since it was seen, at most, and the rounds after which it may have.
const DRIFT: f64 = 0.1;
const DRIFT_ROUNDS: f64 = 1024.0;
/// Rejections of a request over its class's, at least and at most.
const RATIO: (f64, f64) = (0.3, 2.0);

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

/// What one request has shown, in rejections: seen, and expected of its class.
#[derive(Clone, Copy, Default)]
struct Own {
    request: RequestId,
    seen: f64,
    expected: f64,
}

/// All of it.
pub(super) struct Beliefs {
    models: usize,
    initial: f64,
    all: Box<Pairs>,
    classes: Vec<Box<Pairs>>,
    requests: Vec<Own>,
    version: u64,
}

impl Beliefs {
    pub fn new(models: usize, initial: f64) -> Self {
        let all = Box::new([[UNSEEN; MAX_MODELS]; MAX_MODELS]);
        Self { models, initial, all, classes: Vec::new(), requests: Vec::new(), version: 0 }
    }

    /// Grows when some pair has moved enough to matter.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Classes that have been seen.
    pub fn classes(&self) -> usize {
        self.classes.len()
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
            self.classes.resize_with(class + 1, || Box::new([[UNSEEN; MAX_MODELS]; MAX_MODELS]));
            self.version += 1;
        }
        // A request is measured against what was believed before it spoke.
        let expected = 1.0 - self.class_pair(class, d, v);
        if row.slot.index() >= self.requests.len() {
            self.requests.resize(row.slot.index() + 1, Own::default());
        }
        let own = &mut self.requests[row.slot.index()];
        if own.request != row.request {
            *own = Own { request: row.request, ..Own::default() };
        }
        let keep = libm::exp2(-n / STRETCH);
        own.seen = own.seen * keep + n - f64::from(row.similarity);
        own.expected = own.expected * keep + n * expected;

        for seen in [&mut self.all[d][v], &mut self.classes[class][d][v]] {
            seen.mean.add(mean, n, HALF_LIFE);
            seen.round = round;
        }
        let now = self.class_pair(class, d, v);
        let told = &mut self.classes[class][d][v].told;
        if !((now - *told).abs() <= NEWS) {
            *told = now;
            self.version += 1;
        }
    }

    /// The acceptance of every pair in a class.
    pub fn of_class(&self, class: usize) -> AlphaMatrix {
        self.matrix(|d, v| self.class_pair(class, d, v))
    }

    /// The acceptance of every pair in a class at its best: what a look might find.
    pub fn hoped(&self, class: usize, round: u64) -> AlphaMatrix {
        self.matrix(|d, v| match self.all[d][v].mean.get() {
            Some(_) => {
                let seen = &self.all[d][v];
                let unsure = 1.0 / libm::sqrt(seen.mean.weight() + PRIOR);
                let stale = ((round - seen.round) as f64 / DRIFT_ROUNDS).min(1.0);
                self.class_pair(class, d, v) + unsure + DRIFT * stale
            }
            None => self.bounds(d, v).1.min(BEST_UNSEEN),
        })
    }

    /// Rounds since the pair was seen; `None` if it never was.
    pub fn age(&self, drafter: ModelId, verifier: ModelId, round: u64) -> Option<u64> {
        let seen = &self.all[drafter.index()][verifier.index()];
        seen.mean.get().map(|_| round - seen.round)
    }

    /// Rejections of a request over those of its class.
    pub fn ratio(&self, slot: Slot, request: RequestId, class: ClassId) -> f64 {
        let Some(own) = self.requests.get(slot.index()).filter(|own| own.request == request) else {
            return 1.0;
        };
        // Trust in rejections: positions times what one position is expected to reject.
        let usual = if class.index() < self.classes.len() { 0.35 } else { 0.3 };
        let trust = REQUEST * usual;
        ((own.seen + trust) / (own.expected + trust)).clamp(RATIO.0, RATIO.1)
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

    fn class_pair(&self, class: usize, d: usize, v: usize) -> f64 {
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
