//! A draft length that follows where drafts are stopped, and knows that a draft kept whole was not.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::books::Books;
use super::recipe::{Builder, PolicyEntry, PolicyError, Recipe};
use super::windows::Windows;
use crate::ids::ModelId;
use crate::policy::{Ask, Needs, PassReport, Plan, Policy};
use crate::units::{NonNegative, Probability};

/// Parameters of `censored_ema`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CensoredEmaConfig {
    /// The draft model.
    pub draft: String,
    /// Shortest draft, in tokens. At least 1: nothing is learned from no draft.
    #[serde(default = "one")]
    pub min_window: u32,
    /// Longest draft, in tokens; the scenario's `max_block` where that is less.
    #[serde(default = "sixteen")]
    pub max_window: u32,
    /// Tokens expected to be kept when a request begins.
    #[serde(default = "two")]
    pub initial: NonNegative,
    /// Weight of a draft that was stopped in the moving average.
    #[serde(default = "quarter")]
    pub weight: Probability,
    /// Tokens that a draft kept whole adds to the average: it says only that more might be kept.
    #[serde(default = "whole")]
    pub probe: NonNegative,
}

const fn one() -> u32 {
    1
}

const fn sixteen() -> u32 {
    16
}

const fn two() -> NonNegative {
    NonNegative::constant(2.0)
}

const fn quarter() -> Probability {
    Probability::constant(0.25)
}

const fn whole() -> NonNegative {
    NonNegative::constant(1.0)
}

impl Recipe for CensoredEmaConfig {
    const ENTRY: PolicyEntry = PolicyEntry {
        name: "censored_ema",
        summary: "per request: as many tokens as were kept lately, one more after a draft kept whole",
        source: "llama.cpp forks of LaurentZuijdwijk and Nathanw1014 (PR 8), --spec-draft-adaptive",
        parameters: &[
            ("draft", "required", "the draft model"),
            ("min_window", "1", "shortest draft in tokens"),
            ("max_window", "16", "longest draft in tokens; max_block where that is less"),
            ("initial", "2", "tokens expected to be kept at a request's start"),
            ("weight", "0.25", "weight of a stopped draft in the moving average"),
            ("probe", "1", "tokens that a draft kept whole adds"),
        ],
        example: r#"{"censored_ema": {"draft": "small"}}"#,
    };

    fn label(&self) -> String {
        self.draft.clone()
    }

    fn build(&self, pool: &Builder<'_>) -> Result<Box<dyn Policy>, PolicyError> {
        let draft = pool.draft("draft", &self.draft)?;
        let shortest = pool.window("min_window", self.min_window)?;
        let longest = self.max_window.min(pool.pool.max_block);
        if longest < shortest {
            return Err(pool.refuse("max_window", "min_window or more", self.max_window));
        }
        Ok(Box::new(CensoredEma {
            draft,
            target: pool.target(),
            windows: Windows::new(draft, pool.target(), longest),
            average: Average { shortest, longest, weight: self.weight.get(), probe: self.probe.get() },
            kept: Books::new(self.initial.get().min(f64::from(longest))),
        }))
    }
}

/// One average per request, since that is how the source serves its slots: a request that is easy to
/// draft does not pay for one that is not. A request's average begins and ends with it.
struct CensoredEma {
    draft: ModelId,
    target: ModelId,
    windows: Windows,
    average: Average,
    /// Of each request: tokens kept of a draft, as an average.
    kept: Books<f64>,
}

/// How an average moves.
#[derive(Clone, Copy, Debug)]
struct Average {
    shortest: u32,
    longest: u32,
    weight: f64,
    probe: f64,
}

impl Average {
    /// The window that an average asks for.
    fn window(&self, kept: f64) -> u32 {
        (libm::round(kept) as u32).clamp(self.shortest, self.longest)
    }

    /// The average after a draft of `drafted` tokens of which `accepted` were kept.
    ///
    /// It goes no higher than the longest window: past that nothing could be seen, and the way back
    /// would be as long.
    fn after(&self, kept: f64, drafted: u8, accepted: u8) -> f64 {
        if accepted >= drafted {
            return (kept + self.probe).min(f64::from(self.longest));
        }
        kept + self.weight * (f64::from(accepted) - kept)
    }
}

impl Policy for CensoredEma {
    fn name(&self) -> &str {
        "censored_ema"
    }

    fn needs(&self) -> Needs {
        Needs { rows: true, ..Needs::default() }
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        for &slot in ask.starting {
            let kept = self.kept.get(slot, ask.request(slot).id());
            plan.push(self.windows.plan(self.average.window(kept)));
        }
    }

    fn learn(&mut self, report: &PassReport<'_>) {
        for row in report.rows {
            if row.drafter == self.draft && row.verifier == self.target && row.drafted > 0 {
                let kept = self.kept.get_mut(row.slot, row.request);
                *kept = self.average.after(*kept, row.drafted, row.accepted);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AVERAGE: Average = Average { shortest: 1, longest: 16, weight: 0.25, probe: 1.0 };

    #[test]
    fn a_stopped_draft_is_averaged_and_a_whole_one_probes() {
        let mut kept = 2.0;
        let mut seen = Vec::new();
        for (drafted, accepted) in [(2, 2), (3, 3), (4, 1), (3, 0), (2, 2)] {
            assert_eq!(AVERAGE.window(kept), u32::from(drafted));
            kept = AVERAGE.after(kept, drafted, accepted);
            seen.push(kept);
        }
        assert_eq!(seen, [3.0, 4.0, 3.25, 2.4375, 3.4375]);
    }

    #[test]
    fn windows_keep_to_their_bounds_and_the_average_does_not_wind_up() {
        let mut kept = 2.0;
        for _ in 0..100 {
            kept = AVERAGE.after(kept, AVERAGE.window(kept) as u8, AVERAGE.window(kept) as u8);
        }
        assert_eq!((AVERAGE.window(kept), kept), (16, 16.0));
        for _ in 0..100 {
            kept = AVERAGE.after(kept, 16, 0);
        }
        assert_eq!(AVERAGE.window(kept), 1);
    }

    proptest! { // A draft that was stopped never lengthens the next; one kept whole never shortens it.
        #[test]
        fn evidence_moves_the_window_its_own_way(kept in 0.0f64..16.0, accepted in 0u8..16) {
            let window = AVERAGE.window(kept);
            let accepted = accepted.min(window as u8);
            let next = AVERAGE.window(AVERAGE.after(kept, window as u8, accepted));
            if u32::from(accepted) == window {
                prop_assert!(next >= window);
            } else {
                prop_assert!(next <= window);
            }
        }
    }
}
