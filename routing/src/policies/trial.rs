//! Arms on trial: a plan runs for a stretch of rounds and is credited with what came of it. What
//! `ucb`, `exp3`, `thompson` and `hedge` share.
//!
//! - **A stretch** lasts until every sequence of the batch has ended `hold_rounds` rounds (as many
//!   rounds in all as that many times the batch): changing chains costs catch-up, and one round says
//!   little.
//! - **Its beginning is not counted.** Sequences adopt a plan at their own next round, so what ends
//!   after a change is the old plan's, and the first round of a chain pays the catch-up of models
//!   that did not run. Counting begins when as many rounds have ended as sequences were decoding at
//!   the change. A plan that is chosen again goes on being counted.
//! - **Time** is the time of passes, prompts' included, so that an idle server is no slow arm.
//! - **Load** decides which arm is best, so books are kept for each load: batches of 1, 2, 3–4, 5–8
//!   and so on. A batch that moves by two of these or more ends a stretch at once, uncredited.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::PassReport;
use crate::record::Prediction;

/// What a policy that tries arms wants much of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RewardConfig {
    /// Tokens per second of passes, relative to the best seen at the same load.
    #[default]
    TokensPerSecond,
    /// Tokens per round, the bonus included, as published: blind to what a round costs.
    Accepted,
}

impl RewardConfig {
    /// The mean reward of what was counted, in its own unit; 0 of nothing.
    pub(super) fn of(self, counted: &Counted) -> f64 {
        let per = match self {
            Self::TokensPerSecond => counted.seconds,
            Self::Accepted => counted.rounds,
        };
        if per > 0.0 { counted.tokens / per } else { 0.0 }
    }
}

/// What catalog entries say of parameters that arms on trial share.
pub(super) const HOLD_ROUNDS: (&str, &str, &str) =
    ("hold_rounds", "8", "rounds that each sequence runs a plan before the next choice");
pub(super) const REWARD: (&str, &str, &str) =
    ("reward", "tokens_per_second", "tokens_per_second, or accepted: tokens per round, as published");

/// Rounds that ended, the tokens they committed, the seconds of passes they took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counted {
    /// Rounds of single sequences.
    pub rounds: f64,
    /// Tokens committed.
    pub tokens: f64,
    /// Seconds of passes.
    pub seconds: f64,
}

impl Counted {
    pub fn add(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.tokens += other.tokens;
        self.seconds += other.seconds;
    }

    /// What the next round of a batch of `decoding` is like if it is as those counted; no time and no
    /// tokens where none was.
    pub fn prediction(&self, decoding: u32, propensity: f64) -> Prediction {
        let a_round = |sum: f64| if self.rounds > 0.0 { sum / self.rounds } else { 0.0 };
        Prediction {
            round_seconds: (a_round(self.seconds) * f64::from(decoding)) as f32,
            tokens: a_round(self.tokens) as f32,
            propensity: propensity as f32,
        }
    }
}

/// A stretch that has ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Stretch {
    /// Which arm ran.
    pub arm: usize,
    /// At which load.
    pub load: usize,
    /// What came of it; more than 0 rounds and seconds.
    pub counted: Counted,
}

/// Which arm runs, since when, and what has come of it.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    hold_rounds: f64,
    /// Sequences decoding when plans were last asked for.
    decoding: u32,
    present: Option<Present>,
}

#[derive(Clone, Debug)]
struct Present {
    arm: usize,
    load: usize,
    /// Rounds yet to end before the arm's own count.
    unsettled: f64,
    /// The stretch has ended; what is counted is for the next if the arm is chosen again.
    over: bool,
    counted: Counted,
}

impl Trial {
    pub fn new(hold_rounds: u32) -> Self {
        Self { hold_rounds: f64::from(hold_rounds), decoding: 1, present: None }
    }

    /// The load, when an arm is to be chosen now for a batch of `decoding`.
    pub fn due(&mut self, decoding: u32) -> Option<usize> {
        self.decoding = decoding.max(1);
        let load = load(decoding);
        let holds = |present: &Present| !present.over && present.load.abs_diff(load) < 2;
        (!self.present.as_ref().is_some_and(holds)).then_some(load)
    }

    /// The arm that was chosen.
    pub fn run(&mut self, arm: usize, load: usize) {
        match &mut self.present {
            Some(present) if present.arm == arm => {
                if present.load != load {
                    (present.load, present.counted) = (load, Counted::default());
                }
                present.over = false;
            }
            present => {
                let (unsettled, counted) = (f64::from(self.decoding), Counted::default());
                *present = Some(Present { arm, load, unsettled, over: false, counted });
            }
        }
    }

    /// Counts a pass; the stretch, if it ends with it.
    pub fn learn(&mut self, report: &PassReport<'_>) -> Option<Stretch> {
        let present = self.present.as_mut()?;
        let rounds = f64::from(report.rounds);
        if present.unsettled > 0.0 {
            present.unsettled -= rounds;
            return None;
        }
        let (tokens, seconds) = (f64::from(report.committed), report.duration.seconds());
        present.counted.add(&Counted { rounds, tokens, seconds });
        let counted = present.counted;
        let full = counted.rounds >= self.hold_rounds * f64::from(self.decoding) && counted.seconds > 0.0;
        if present.over || !full {
            return None;
        }
        (present.over, present.counted) = (true, Counted::default());
        Some(Stretch { arm: present.arm, load: present.load, counted })
    }
}

/// Loads told apart: batches of 1, 2, 3–4, 5–8 and so on.
fn load(decoding: u32) -> usize {
    (u32::BITS - decoding.max(1).saturating_sub(1).leading_zeros()) as usize
}

/// A book for every load that was met.
#[derive(Clone, Debug)]
pub(super) struct Books<T> {
    empty: T,
    of: Vec<T>,
}

impl<T: Clone> Books<T> {
    /// Books that begin as `empty`.
    pub const fn new(empty: T) -> Self {
        Self { empty, of: Vec::new() }
    }

    /// The book of a load.
    pub fn at(&mut self, load: usize) -> &mut T {
        if load >= self.of.len() {
            self.of.resize(load + 1, self.empty.clone());
        }
        &mut self.of[load]
    }
}

/// The index of the largest value, the first of equals; NaN never wins over a number.
pub(super) fn largest(values: impl Iterator<Item = f64>) -> usize {
    let mut best: Option<(usize, f64)> = None;
    for (index, value) in values.enumerate() {
        if best.is_none_or(|(_, most)| value > most || most.is_nan() && !value.is_nan()) {
            best = Some((index, value));
        }
    }
    best.map_or(0, |(index, _)| index)
}

/// The index that `uniform`, a number in [0, 1), draws from chances that add up to 1; `chances` is
/// not empty.
pub(super) fn drawn(chances: &[f64], uniform: f64) -> usize {
    let mut left = uniform;
    for (index, chance) in chances.iter().enumerate() {
        left -= chance;
        if left < 0.0 {
            return index;
        }
    }
    // Rounding may leave a crumb behind the last: the likeliest takes it.
    largest(chances.iter().copied())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ids::ModelId;
    use crate::profile::PassShape;
    use crate::units::{Span, Time};

    /// A pass of the target after which `rounds` rounds have ended.
    pub fn pass(rounds: u32, committed: u32, millis: u64) -> PassReport<'static> {
        PassReport {
            now: Time::ZERO,
            tick: 0,
            model: ModelId(2),
            shape: PassShape::uniform(1, 1, 0),
            duration: Span::from_nanos(millis * 1_000_000),
            committed,
            rounds,
            pairs: &[],
            rows: &[],
        }
    }

    #[test]
    fn the_round_of_a_change_counts_for_nobody() {
        let mut trial = Trial::new(2);
        let load = trial.due(4).unwrap();
        trial.run(7, load);
        assert_eq!(trial.due(4), None, "it holds");
        // Four were decoding: three rounds of the old plan, one of the new that paid for catch-up.
        assert_eq!(trial.learn(&pass(3, 30, 500)), None);
        assert_eq!(trial.learn(&pass(1, 10, 500)), None);
        for _ in 0..3 {
            assert_eq!(trial.learn(&pass(0, 0, 5)), None, "draft passes take their time");
            assert_eq!(trial.learn(&pass(2, 5, 10)), None);
        }
        assert_eq!((trial.learn(&pass(0, 0, 5)), trial.due(4)), (None, None));
        let stretch = trial.learn(&pass(2, 5, 10)).unwrap();
        assert_eq!((stretch.arm, stretch.load, stretch.counted.rounds), (7, 2, 8.0));
        assert!(
            (stretch.counted.seconds - 0.060).abs() < 1e-12 && (stretch.counted.tokens - 20.0).abs() < 1e-12
        );
        assert_eq!(trial.due(4), Some(2));
        trial.run(7, 2);
        let again = trial.learn(&pass(8, 20, 60)).unwrap();
        assert!((again.counted.seconds - 0.060).abs() < 1e-12, "chosen again, it is counted at once");
    }

    #[test]
    fn a_batch_that_doubles_twice_ends_a_stretch_uncredited() {
        let mut trial = Trial::new(8);
        let load = trial.due(4).unwrap();
        trial.run(0, load);
        trial.learn(&pass(4, 4, 10));
        trial.learn(&pass(4, 12, 10));
        assert_eq!(trial.due(8), None, "a little more is no other load");
        assert_eq!(trial.due(9), Some(4));
        trial.run(0, 4);
        let stretch = (0..100).find_map(|_| trial.learn(&pass(9, 9, 10))).unwrap();
        assert_eq!((stretch.load, stretch.counted.rounds), (4, 72.0));
        assert!((stretch.counted.tokens - 72.0).abs() < 1e-12, "what came before the change is left out");
    }

    #[test]
    fn loads_are_told_apart_by_doublings() {
        let loads = [0, 1, 2, 3, 4, 5, 8, 9, 16, u32::MAX].map(load);
        assert_eq!(loads, [0, 0, 1, 2, 2, 3, 3, 4, 4, 32]);
    }

    #[test]
    fn the_largest_is_the_first_of_equals_and_never_nan() {
        assert_eq!(largest([1.0, 3.0, 3.0, f64::NAN].into_iter()), 1);
        assert_eq!(largest([f64::NAN, 0.0].into_iter()), 1);
        assert_eq!(largest(std::iter::empty()), 0);
        assert_eq!(drawn(&[0.25, 0.0, 0.75], 0.2), 0);
        assert_eq!(drawn(&[0.25, 0.0, 0.75], 0.25), 2);
        assert_eq!(drawn(&[0.25, 0.5, 0.25 - 1e-12], 1.0 - 1e-16), 1);
    }
}
