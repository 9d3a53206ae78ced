//! SGLang's adaptive draft length: a few tiers of windows, climbed by the mean accepted length alone.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::recipe::{Builder, PolicyEntry, PolicyError, Recipe};
use super::windows::Windows;
use crate::ids::ModelId;
use crate::policy::{Ask, PairReport, PassReport, Plan, Policy};
use crate::units::{NonNegative, Probability};

/// Parameters of `acceptance_tiers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptanceTiersConfig {
    /// The draft model.
    pub draft: String,
    /// Windows to choose among, in tokens, ascending; a run begins in the middle one.
    #[serde(default = "one_three_seven")]
    pub tiers: Vec<u32>,
    /// Weight of a new batch in the moving average of accepted tokens per draft.
    #[serde(default = "two_tenths")]
    pub weight: Probability,
    /// Verified batches before the first change of tier.
    #[serde(default = "ten")]
    pub warm_up: u32,
    /// Verified batches from one choice of tier to the next.
    #[serde(default = "five")]
    pub update_every: u32,
    /// Accepted tokens by which the average must lie below a boundary to step down; SGLang writes
    /// it as −0.25.
    #[serde(default = "quarter")]
    pub hysteresis_down: NonNegative,
    /// Accepted tokens by which the average must lie above a boundary to step up.
    #[serde(default = "nothing")]
    pub hysteresis_up: NonNegative,
}

fn one_three_seven() -> Vec<u32> {
    vec![1, 3, 7]
}

const fn two_tenths() -> Probability {
    Probability::constant(0.2)
}

const fn ten() -> u32 {
    10
}

const fn five() -> u32 {
    5
}

const fn quarter() -> NonNegative {
    NonNegative::constant(0.25)
}

const fn nothing() -> NonNegative {
    NonNegative::constant(0.0)
}

impl Recipe for AcceptanceTiersConfig {
    const ENTRY: PolicyEntry = PolicyEntry {
        name: "acceptance_tiers",
        summary: "a window from a few tiers by the mean accepted length, with hysteresis; it does not see load",
        source: "SGLang adaptive_speculative_decoding.md, adaptive_spec_params.py",
        parameters: &[
            ("draft", "required", "the draft model"),
            ("tiers", "[1, 3, 7]", "windows to choose among, ascending"),
            ("weight", "0.2", "weight of a new batch in the moving average of accepted tokens"),
            ("warm_up", "10", "verified batches before the first change"),
            ("update_every", "5", "verified batches between choices"),
            ("hysteresis_down", "0.25", "tokens below a boundary at which it steps down"),
            ("hysteresis_up", "0", "tokens above a boundary at which it steps up"),
        ],
        example: r#"{"acceptance_tiers": {"draft": "small", "tiers": [1, 3, 7]}}"#,
    };

    fn label(&self) -> String {
        let tiers = self.tiers.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        format!("{} ({tiers})", self.draft)
    }

    fn build(&self, pool: &Builder<'_>) -> Result<Box<dyn Policy>, PolicyError> {
        let draft = pool.draft("draft", &self.draft)?;
        let tiers =
            self.tiers.iter().map(|&tier| pool.window("tiers", tier)).collect::<Result<Vec<_>, _>>()?;
        if tiers.is_empty() || !tiers.is_sorted_by(|a, b| a < b) {
            return Err(pool.refuse("tiers", "ascending windows, at least one", format!("{tiers:?}")));
        }
        pool.at_least_one("update_every", self.update_every)?;
        let longest = tiers.last().copied().unwrap_or(1);
        Ok(Box::new(AcceptanceTiers {
            draft,
            target: pool.target(),
            windows: Windows::new(draft, pool.target(), longest),
            ladder: Ladder::new(self, tiers),
        }))
    }
}

/// The tier for the whole batch.
struct AcceptanceTiers {
    draft: ModelId,
    target: ModelId,
    windows: Windows,
    ladder: Ladder,
}

/// Tiers, and where on them the moving average stands.
///
/// The rule is that of SGLang's `AdaptiveStepSlot`, with one slot for all batch sizes and without tier 0,
/// which it has since come to have for large batches. Its target is `clamp(round(average) + 1)`: more
/// than a tier w once the average passes w − ½, and then the next tier is taken.
#[derive(Clone, Debug)]
struct Ladder {
    /// Ascending; at least one.
    tiers: Vec<u32>,
    /// The present tier.
    at: usize,
    /// Moving average of the batch's mean accepted tokens per draft. It begins where the first tier
    /// neither rises nor falls: one token short of its window.
    average: f64,
    /// Batches verified.
    batches: u64,
    weight: f64,
    warm_up: u64,
    update_every: u64,
    down: f64,
    up: f64,
}

impl Ladder {
    /// In the middle of `tiers`, which ascend.
    fn new(config: &AcceptanceTiersConfig, tiers: Vec<u32>) -> Self {
        let at = tiers.len() / 2;
        Self {
            average: f64::from(tiers[at]) - 1.0,
            tiers,
            at,
            batches: 0,
            weight: config.weight.get(),
            warm_up: u64::from(config.warm_up),
            update_every: u64::from(config.update_every),
            down: config.hysteresis_down.get(),
            up: config.hysteresis_up.get(),
        }
    }

    /// The present window.
    fn window(&self) -> u32 {
        self.tiers[self.at]
    }

    /// A batch was verified; its drafts had `accepted` tokens kept in the mean.
    fn learn(&mut self, accepted: f64) {
        self.average += self.weight * (accepted - self.average);
        self.batches += 1;
        if self.batches > self.warm_up && (self.batches - self.warm_up).is_multiple_of(self.update_every) {
            self.choose();
        }
    }

    /// Down as far as boundaries lie above the average, else up as far as they lie below it.
    fn choose(&mut self) {
        let before = self.at;
        let boundary = |tier: u32| f64::from(tier) - 0.5;
        while self.at > 0 && self.average <= boundary(self.tiers[self.at - 1]) - self.down {
            self.at -= 1;
        }
        if self.at < before {
            return;
        }
        while self.at + 1 < self.tiers.len() && self.average > boundary(self.tiers[self.at]) + self.up {
            self.at += 1;
        }
    }
}

impl Policy for AcceptanceTiers {
    fn name(&self) -> &str {
        "acceptance_tiers"
    }

    fn plan(&mut self, _: &Ask<'_>, plan: &mut Plan) {
        plan.set_all(self.windows.plan(self.ladder.window()));
    }

    fn learn(&mut self, report: &PassReport<'_>) {
        let judged = |pair: &&PairReport| {
            pair.drafter == self.draft && pair.verifier == self.target && pair.seen.verifications > 0
        };
        if let Some(pair) = report.pairs.iter().find(judged) {
            self.ladder.learn(pair.seen.accepted as f64 / pair.seen.verifications as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ladder(more: &str) -> Ladder {
        let config: AcceptanceTiersConfig =
            serde_json::from_str(&format!(r#"{{"draft": "a"{more}}}"#)).unwrap();
        Ladder::new(&config, config.tiers.clone())
    }

    #[test]
    fn nothing_changes_in_the_warm_up_and_then_every_five_batches() {
        let mut ladder = ladder("");
        assert_eq!((ladder.window(), ladder.average), (3, 2.0));
        let windows: Vec<u32> = (0..15)
            .map(|_| {
                ladder.learn(3.0);
                ladder.window()
            })
            .collect();
        assert_eq!(windows, [[3; 14].as_slice(), &[7]].concat());
        // 3 − 0.8^15.
        assert!((ladder.average - 2.964_815_627_911_168).abs() < 1e-12);
    }

    #[test]
    fn boundaries_are_half_a_token_below_a_tier_and_lower_on_the_way_down() {
        // Tier 1 or 3: 0.5 up, 0.25 down; tier 3 or 7: 2.5 up, 2.25 down.
        for (from, average, to) in [
            (0, 0.5, 1),
            (0, 0.51, 3),
            (1, 0.26, 3),
            (1, 0.25, 1),
            (1, 2.5, 3),
            (1, 2.51, 7),
            (2, 2.26, 7),
            (2, 2.25, 3),
            (2, 0.25, 1), // Two tiers at once.
            (0, 2.51, 7),
        ] {
            let mut ladder = Ladder { at: from, average, ..ladder("") };
            ladder.choose();
            assert_eq!(ladder.window(), to, "from tier {from} at {average}");
        }
    }

    proptest! { // Whatever comes, the tier is one of those given, and where nothing moves it stays.
        #[test]
        fn a_steady_average_settles(accepted in 0.0f64..7.0, start in 0usize..3) {
            let mut ladder = Ladder { at: start, ..ladder("") };
            (0..200).for_each(|_| ladder.learn(accepted));
            let settled = ladder.window();
            prop_assert!([1, 3, 7].contains(&settled));
            (0..50).for_each(|_| ladder.learn(accepted));
            prop_assert_eq!(ladder.window(), settled);
        }
    }
}
