//! What requests have shown of themselves: rejections, beside those that their class lets expect.
//!
//! Two uses. A request's ratio of the two tells it from its class, whichever drafter proposed. And what a hard text did
//! to a pair that is little known is not held against that pair: the better-known pairs say how hard the text is.

use crate::chain::MAX_MODELS;
use crate::ids::{RequestId, Slot};

/// Positions' worth of trust in the class against the request's own.
const REQUEST: f64 = 16.0;
/// Positions after which half of what was seen of a request is forgotten: text has its stretches.
const STRETCH: f64 = 64.0;
/// The same two where pairs are compared, over most of a request.
const OTHERS: f64 = 8.0;
const REACH: f64 = 256.0;
/// Rejections that one position is expected to have, where trust in positions is put in rejections.
const USUAL: f64 = 0.35;
/// Rejections of a request over its class's, at least and at most.
const RATIO: (f64, f64) = (0.3, 2.0);
/// What others say of a request's difficulty, at least and at most.
const DIFFICULTY: (f64, f64) = (0.5, 2.0);

/// Rejections: seen, and expected beforehand.
#[derive(Clone, Copy, Default)]
struct Shown {
    seen: f64,
    expected: f64,
}

impl Shown {
    fn forget(&mut self, keep: f64) {
        self.seen *= keep;
        self.expected *= keep;
    }

    fn add(&mut self, more: Self) {
        self.seen += more.seen;
        self.expected += more.expected;
    }

    /// Seen over expected, drawn to 1 by `trust` positions.
    fn ratio(self, trust: f64, (least, most): (f64, f64)) -> f64 {
        let trust = trust * USUAL;
        ((self.seen + trust) / (self.expected + trust)).clamp(least, most)
    }
}

#[derive(Clone, Copy, Default)]
struct Own {
    request: RequestId,
    all: Shown,
    /// By drafter and verifier.
    pairs: [[Shown; MAX_MODELS]; MAX_MODELS],
}

/// The requests that run, by slot.
#[derive(Default)]
pub(super) struct Requests {
    own: Vec<Own>,
}

impl Requests {
    /// How hard a request's text is by what pairs other than `pair` have shown, those for which `tells` holds: rejections
    /// over those expected.
    pub fn difficulty(
        &self,
        (slot, request): (Slot, RequestId),
        pair: (usize, usize),
        models: usize,
        tells: impl Fn(usize, usize) -> bool,
    ) -> f64 {
        let Some(own) = self.known(slot, request) else { return 1.0 };
        let mut others = Shown::default();
        for (d, v) in (1..models).flat_map(|v| (0..v).map(move |d| (d, v))) {
            if (d, v) != pair && tells(d, v) {
                others.add(own.pairs[d][v]);
            }
        }
        others.ratio(OTHERS, DIFFICULTY)
    }

    /// Learns that `pair` rejected `seen` of `positions` where `expected` were.
    pub fn learn(
        &mut self,
        (slot, request): (Slot, RequestId),
        (d, v): (usize, usize),
        positions: f64,
        (seen, expected): (f64, f64),
    ) {
        if slot.index() >= self.own.len() {
            self.own.resize(slot.index() + 1, Own::default());
        }
        let own = &mut self.own[slot.index()];
        if own.request != request {
            *own = Own { request, ..Own::default() };
        }
        let more = Shown { seen, expected };
        own.all.forget(libm::exp2(-positions / STRETCH));
        own.all.add(more);
        let keep = libm::exp2(-positions / REACH);
        own.pairs.iter_mut().flatten().for_each(|shown| shown.forget(keep));
        own.pairs[d][v].add(more);
    }

    /// Rejections of a request over those of its class.
    pub fn ratio(&self, slot: Slot, request: RequestId) -> f64 {
        self.known(slot, request).map_or(1.0, |own| own.all.ratio(REQUEST, RATIO))
    }

    fn known(&self, slot: Slot, request: RequestId) -> Option<&Own> {
        self.own.get(slot.index()).filter(|own| own.request == request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: (Slot, RequestId) = (Slot(0), RequestId(1));

    #[test]
    fn a_request_is_as_hard_as_the_other_pairs_found_it() {
        let mut requests = Requests::default();
        for _ in 0..100 {
            requests.learn(ONE, (0, 2), 4.0, (2.0, 1.0));
        }
        let hard = requests.difficulty(ONE, (1, 2), 3, |_, _| true);
        assert!((1.9..=2.0).contains(&hard), "twice the rejections: {hard}");
        assert_eq!(requests.difficulty(ONE, (0, 2), 3, |_, _| true), 1.0, "not by its own word");
        assert_eq!(requests.difficulty(ONE, (1, 2), 3, |_, _| false), 1.0, "nor by those that know less");
        assert_eq!(requests.difficulty((Slot(0), RequestId(2)), (1, 2), 3, |_, _| true), 1.0, "a stranger");
    }

    #[test]
    fn a_ratio_needs_evidence_and_follows_the_text() {
        let mut requests = Requests::default();
        requests.learn(ONE, (0, 1), 4.0, (0.0, 1.4));
        let early = requests.ratio(ONE.0, ONE.1);
        (0..50).for_each(|_| requests.learn(ONE, (0, 1), 4.0, (0.0, 1.4)));
        let late = requests.ratio(ONE.0, ONE.1);
        (0..50).for_each(|_| requests.learn(ONE, (0, 1), 4.0, (2.8, 1.4)));
        let turned = requests.ratio(ONE.0, ONE.1);
        assert!(early > 0.75 && late < 0.35 && turned > 1.5, "{early} {late} {turned}");
    }
}
