//! What of a draft is likely to survive, sequence by sequence, from what earlier drafts came to.

use crate::ids::{ClassId, ModelId, RequestId, Slot};
use crate::policy::PassReport;
use crate::units::{Positive, Probability};

/// Acceptance of one draft model under the target, by request: the request's own verdicts, drawn
/// to its class's while it has few, and these to the pair's, and these to a first belief.
///
/// Verdicts fade with rounds, also with those that drafted nothing: what is not seen any more is
/// believed a little less each round, so a draft that was given up is tried again in time. Nothing
/// here has seen the draft whose length it decides (rule R3).
pub(super) struct Histories {
    draft: ModelId,
    target: ModelId,
    initial: f64,
    /// Positions' worth of trust in the larger group.
    prior: f64,
    /// What is left of a verdict a round later.
    keep: f64,
    pair: Verdicts,
    classes: Vec<Verdicts>,
    books: Vec<(RequestId, Verdicts)>,
}

/// Verdicts, faded; a full acceptance says "at least", so it is no rejection and that is all
/// (algorithms.md, 2.6).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Verdicts {
    accepted: f64,
    judged: f64,
}

impl Verdicts {
    fn add(&mut self, accepted: f64, rejections: f64) {
        self.accepted += accepted;
        self.judged += accepted + rejections;
    }

    fn fade(&mut self, keep: f64) {
        self.accepted *= keep;
        self.judged *= keep;
    }

    /// The mean of a Beta distribution worth `prior` positions around `base`, after these.
    fn from(self, base: f64, prior: f64) -> f64 {
        (self.accepted + prior * base) / (self.judged + prior)
    }
}

impl Histories {
    /// Nothing seen yet of `draft` under `target`. `half_life` is in rounds: a request's own count
    /// for its own verdicts, rounds of the batch for its class's and the pair's.
    pub fn new(
        draft: ModelId,
        target: ModelId,
        initial: Probability,
        prior: Positive,
        half_life: Positive,
    ) -> Self {
        Self {
            draft,
            target,
            initial: initial.get(),
            prior: prior.get(),
            keep: libm::exp2(-1.0 / half_life.get()),
            pair: Verdicts::default(),
            classes: Vec::new(),
            books: Vec::new(),
        }
    }

    /// The acceptance believed of a request of a class at a slot.
    pub fn acceptance(&self, slot: Slot, request: RequestId, class: ClassId) -> f64 {
        let own = self.books.get(slot.index()).filter(|book| book.0 == request);
        let pair = self.pair.from(self.initial, self.prior);
        let class = self.classes.get(class.index()).map_or(pair, |class| class.from(pair, self.prior));
        own.map_or(class, |own| own.1.from(class, self.prior))
    }

    /// Learns from a pass, whose rows are asked for by [`Needs::rows`](crate::policy::Needs::rows).
    pub fn learn(&mut self, report: &PassReport<'_>) {
        if report.model != self.target || report.rounds == 0 {
            return;
        }
        self.pair.fade(self.keep);
        self.classes.iter_mut().for_each(|class| class.fade(self.keep));
        for row in report.rows.iter().filter(|row| row.verifier == self.target) {
            let (slot, class) = (row.slot.index(), row.class.index());
            if slot >= self.books.len() {
                self.books.resize(slot + 1, Default::default());
            }
            let book = &mut self.books[slot];
            if book.0 != row.request {
                *book = (row.request, Verdicts::default());
            }
            book.1.fade(self.keep);
            if row.drafter != self.draft || row.drafted == 0 {
                continue;
            }
            // A draft cut by the end of the output was not rejected: no correction came.
            let rejected = row.accepted < row.drafted && row.committed > row.accepted;
            let (accepted, rejections) = (f64::from(row.accepted), f64::from(u8::from(rejected)));
            book.1.add(accepted, rejections);
            self.pair.add(accepted, rejections);
            if class >= self.classes.len() {
                self.classes.resize(class + 1, Verdicts::default());
            }
            self.classes[class].add(accepted, rejections);
        }
    }
}

/// First belief, and defaults of the parameters that policies build histories from.
pub(super) const fn seven_tenths() -> Probability {
    Probability::constant(0.7)
}

pub(super) const fn sixty_four() -> Positive {
    Positive::constant(64.0)
}

pub(super) const fn thirty_two() -> Positive {
    Positive::constant(32.0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::policy::RowReport;
    use crate::profile::PassShape;
    use crate::units::{Span, Time};

    pub fn row(slot: u32, class: u16, drafted: u8, accepted: u8) -> RowReport {
        RowReport {
            slot: Slot(slot),
            request: RequestId(100 + u64::from(slot)),
            class: ClassId(class),
            drafter: ModelId(if drafted > 0 { 0 } else { 2 }),
            verifier: ModelId(2),
            drafted,
            accepted,
            examined: drafted,
            similarity: 0.0,
            committed: accepted + 1,
        }
    }

    /// A pass of the target, model 2, with these rows.
    pub fn report(rows: &[RowReport]) -> PassReport<'_> {
        PassReport {
            now: Time::ZERO,
            tick: 0,
            model: ModelId(2),
            shape: PassShape::default(),
            duration: Span::ZERO,
            committed: rows.iter().map(|row| u32::from(row.committed)).sum(),
            rounds: rows.len() as u32,
            pairs: &[],
            rows,
        }
    }

    fn histories(prior: f64, half_life: f64) -> Histories {
        let positive = |value| Positive::new(value).unwrap();
        Histories::new(ModelId(0), ModelId(2), seven_tenths(), positive(prior), positive(half_life))
    }

    fn of(histories: &Histories, slot: u32, class: u16) -> f64 {
        histories.acceptance(Slot(slot), RequestId(100 + u64::from(slot)), ClassId(class))
    }

    #[test]
    fn a_request_is_its_own_and_a_stranger_its_class_and_a_strange_class_the_pair() {
        let mut histories = histories(2.0, 1e9);
        assert!((of(&histories, 9, 7) - 0.7).abs() < 1e-12, "nothing seen");
        // Two requests of class 0 keep all of 4, one of class 1 none.
        histories.learn(&report(&[row(0, 0, 4, 4), row(1, 0, 4, 4), row(2, 1, 4, 0)]));
        let pair = (8.0 + 2.0 * 0.7) / (9.0 + 2.0);
        let (one, other) = ((8.0 + 2.0 * pair) / (8.0 + 2.0), (2.0 * pair) / (1.0 + 2.0));
        let expected = [
            (9, 7, pair),
            (9, 0, one),
            (9, 1, other),
            (0, 0, (4.0 + 2.0 * one) / (4.0 + 2.0)),
            (2, 1, (2.0 * other) / (1.0 + 2.0)),
        ];
        for (slot, class, alpha) in expected {
            let got = of(&histories, slot, class);
            assert!((got - alpha).abs() < 1e-9, "slot {slot}, class {class}: {got}, expected {alpha}");
        }
        let reused = histories.acceptance(Slot(0), RequestId(5), ClassId(0));
        assert!((reused - one).abs() < 1e-9, "a slot's next request starts anew");
    }

    #[test]
    fn the_end_of_an_output_is_no_rejection() {
        let (mut cut, mut kept) = (histories(2.0, 1e9), histories(2.0, 1e9));
        cut.learn(&report(&[RowReport { committed: 2, ..row(0, 0, 4, 2) }]));
        kept.learn(&report(&[row(0, 0, 2, 2)]));
        assert!((of(&cut, 0, 0) - of(&kept, 0, 0)).abs() < 1e-12);
    }

    #[test]
    fn what_is_not_drafted_any_more_is_forgotten() {
        let mut histories = histories(16.0, 8.0);
        (0..50).for_each(|_| histories.learn(&report(&[row(0, 0, 1, 0)])));
        let given_up = of(&histories, 0, 0);
        (0..200).for_each(|_| histories.learn(&report(&[row(0, 0, 0, 0)])));
        assert!(given_up < 0.2 && of(&histories, 0, 0) > 0.69, "{given_up}");
    }

    #[test]
    fn other_pairs_and_empty_reports_teach_nothing() {
        let mut histories = histories(2.0, 8.0);
        histories.learn(&report(&[]));
        let other = RowReport { drafter: ModelId(1), ..row(0, 0, 4, 0) };
        histories.learn(&report(&[other]));
        assert!((of(&histories, 0, 0) - 0.7).abs() < 1e-12);
    }
}
