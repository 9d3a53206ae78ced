//! Drafting until the draft model is unsure of a token, as llama.cpp (`--draft-p-min`) and Hugging Face
//! (`assistant_confidence_threshold`) do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::books::Books;
use super::recipe::{Builder, PolicyEntry, PolicyError, Recipe};
use super::windows::Windows;
use crate::chain::StopRule;
use crate::ids::ModelId;
use crate::policy::{Ask, Needs, PassReport, Plan, Policy};
use crate::units::Probability;

/// Parameters of `confidence_stop`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfidenceStopConfig {
    /// The draft model.
    pub draft: String,
    /// Drafting stops after a token whose distribution had a top probability below this; 0 never stops.
    #[serde(default = "four_tenths")]
    pub threshold: Probability,
    /// Longest draft, in tokens; the scenario's `max_block` where that is less.
    #[serde(default = "sixteen")]
    pub max_window: u32,
    /// How the most that is drafted moves.
    #[serde(default)]
    pub schedule: Schedule,
    /// With the heuristic schedule: the window at a request's start, in tokens.
    #[serde(default = "five")]
    pub initial_window: u32,
}

/// How the window moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// It stays at `max_window`.
    #[default]
    Constant,
    /// Two tokens more after a draft that was kept whole, one less after any other; per request.
    Heuristic,
}

const fn four_tenths() -> Probability {
    Probability::constant(0.4)
}

const fn sixteen() -> u32 {
    16
}

const fn five() -> u32 {
    5
}

impl Recipe for ConfidenceStopConfig {
    const ENTRY: PolicyEntry = PolicyEntry {
        name: "confidence_stop",
        summary: "drafts until the draft model is unsure: the unsure token is kept, then drafting stops",
        source: "llama.cpp p_min; Hugging Face assisted generation, num_assistant_tokens_schedule",
        parameters: &[
            ("draft", "required", "the draft model"),
            ("threshold", "0.4", "top probability below which drafting stops; 0 never stops"),
            ("max_window", "16", "longest draft in tokens; max_block where that is less"),
            ("schedule", "constant", "constant, or heuristic: +2 after a draft kept whole, -1 otherwise"),
            ("initial_window", "5", "with heuristic: the window at a request's start"),
        ],
        example: r#"{"confidence_stop": {"draft": "small", "threshold": 0.4}}"#,
    };

    fn label(&self) -> String {
        let schedule = if self.schedule == Schedule::Heuristic { " heuristic" } else { "" };
        format!("{} p<{}{schedule}", self.draft, self.threshold.get())
    }

    fn build(&self, pool: &Builder<'_>) -> Result<Box<dyn Policy>, PolicyError> {
        let draft = pool.draft("draft", &self.draft)?;
        let longest = pool.at_least_one("max_window", self.max_window)?.min(pool.pool.max_block);
        let initial = pool.at_least_one("initial_window", self.initial_window)?.min(longest);
        let threshold = self.threshold.get() as f32;
        Ok(Box::new(ConfidenceStop {
            draft,
            target: pool.target(),
            windows: Windows::new(draft, pool.target(), longest),
            // No probability is below 0, and a plan without a rule is the cheaper one to run.
            stop: if threshold > 0.0 { StopRule::TopProbabilityBelow(threshold) } else { StopRule::Never },
            moves: self.schedule == Schedule::Heuristic,
            of: Books::new(initial),
        }))
    }
}

/// The lossless form of both rules: a token that was drawn is kept, and the *next* is not drawn (rule R3).
///
/// Both sources drop the unsure token where they can, which is lossless in greedy decoding only; dropping a
/// draft shorter than llama.cpp's `n_min` would not be lossless either, and "do not stop before `n_min`" is
/// no stop rule that a plan can state: there is no `n_min` here, and a draft has at least one token.
///
/// Hugging Face moves one window, for it serves one text at a time; here each request has its own, which
/// begins anew with it (its `heuristic_transient`).
struct ConfidenceStop {
    draft: ModelId,
    target: ModelId,
    windows: Windows,
    stop: StopRule,
    /// Is the schedule the heuristic one?
    moves: bool,
    /// The window of each request, if windows move.
    of: Books<u32>,
}

/// The window after a draft of `drafted` tokens of which `accepted` were kept.
fn moved(window: u32, drafted: u8, accepted: u8, longest: u32) -> u32 {
    // A draft that stopped early and was kept whole counts as a success, as at Hugging Face.
    if accepted >= drafted { (window + 2).min(longest) } else { window.saturating_sub(1).max(1) }
}

impl Policy for ConfidenceStop {
    fn name(&self) -> &str {
        "confidence_stop"
    }

    fn needs(&self) -> Needs {
        Needs { rows: self.moves, ..Needs::default() }
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        if !self.moves {
            plan.set_all(self.windows.plan(self.windows.longest()).stopping(self.stop));
            return;
        }
        for &slot in ask.starting {
            let window = self.of.get(slot, ask.request(slot).id());
            plan.push(self.windows.plan(window).stopping(self.stop));
        }
    }

    fn learn(&mut self, report: &PassReport<'_>) {
        if !self.moves {
            return;
        }
        let longest = self.windows.longest();
        for row in report.rows {
            if row.drafter == self.draft && row.verifier == self.target && row.drafted > 0 {
                let window = self.of.get_mut(row.slot, row.request);
                *window = moved(*window, row.drafted, row.accepted, longest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_more_after_a_whole_draft_and_one_less_otherwise() {
        let mut window = 5;
        let mut seen = Vec::new();
        for (drafted, accepted) in [(5, 5), (3, 3), (9, 8), (8, 0), (7, 7), (9, 9), (10, 10)] {
            window = moved(window, drafted, accepted, 10);
            seen.push(window);
        }
        assert_eq!(seen, [7, 9, 8, 7, 9, 10, 10]);
    }

    proptest! {
        #[test]
        fn windows_keep_to_their_bounds(drafts in prop::collection::vec((1u8..=32, 0u8..=32), 0..60), longest in 1u32..=32) {
            let mut window = 5.min(longest);
            for (drafted, accepted) in drafts {
                window = moved(window, drafted, accepted.min(drafted), longest);
                prop_assert!((1..=longest).contains(&window));
            }
        }
    }
}
