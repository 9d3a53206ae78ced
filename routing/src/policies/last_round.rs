//! Longer drafts for requests whose last draft stayed whole, and none in a crowd.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::books::Books;
use super::recipe::{Builder, PolicyEntry, PolicyError, Recipe};
use crate::chain::ChainPlan;
use crate::policy::{Ask, Needs, PassReport, Plan, Policy};

/// Parameters of `last_round`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LastRoundConfig {
    /// The draft model.
    pub draft: String,
    /// Tokens drafted for a request whose last draft was stopped.
    #[serde(default = "two")]
    pub short: u32,
    /// Tokens drafted for a request whose last draft stayed whole.
    #[serde(default = "eight")]
    pub long: u32,
    /// Most sequences decoding at which anything is drafted.
    #[serde(default = "thirty_two")]
    pub crowd: u32,
}

const fn two() -> u32 {
    2
}

const fn eight() -> u32 {
    8
}

const fn thirty_two() -> u32 {
    32
}

impl Recipe for LastRoundConfig {
    const ENTRY: PolicyEntry = PolicyEntry {
        name: "last_round",
        summary: "longer drafts for requests whose last draft stayed whole, none in a crowd",
        source: "docs/write-a-policy.md",
        parameters: &[
            ("draft", "required", "the draft model"),
            ("short", "2", "tokens drafted after a draft that was stopped"),
            ("long", "8", "tokens drafted after one that stayed whole"),
            ("crowd", "32", "most sequences decoding at which anything is drafted"),
        ],
        example: r#"{"last_round": {"draft": "small"}}"#,
    };

    fn label(&self) -> String {
        format!("{} ({}, {})", self.draft, self.short, self.long)
    }

    fn build(&self, pool: &Builder<'_>) -> Result<Box<dyn Policy>, PolicyError> {
        let target = pool.pool.names.last().cloned().unwrap_or_default();
        let models = [self.draft.clone(), target];
        Ok(Box::new(LastRound {
            short: pool.chain("draft", &models, "short", &[self.short])?,
            long: pool.chain("draft", &models, "long", &[self.long])?,
            plain: ChainPlan::target_only(pool.target()),
            crowd: self.crowd,
            whole: Books::new(false),
        }))
    }
}

struct LastRound {
    long: ChainPlan,
    short: ChainPlan,
    plain: ChainPlan,
    crowd: u32,
    /// Of each running request: did its last draft stay whole?
    whole: Books<bool>,
}

impl Policy for LastRound {
    fn name(&self) -> &str {
        LastRoundConfig::ENTRY.name
    }

    fn needs(&self) -> Needs {
        Needs { rows: true, ..Needs::default() } // Verdicts sequence by sequence.
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        if ask.decoding > self.crowd {
            return plan.set_all(self.plain);
        }
        for &slot in ask.starting {
            let whole = self.whole.get(slot, ask.request(slot).id());
            plan.push(if whole { self.long } else { self.short });
        }
    }

    fn learn(&mut self, report: &PassReport<'_>) {
        for row in report.rows.iter().filter(|row| row.drafted > 0) {
            *self.whole.get_mut(row.slot, row.request) = row.accepted == row.drafted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::luck::{Luck, Stream};
    use crate::policies::PolicyPool;
    use crate::policy::price::Candidates;

    /// What building the policy of a line of JSON says.
    fn built(config: &str) -> Result<String, PolicyError> {
        let config: LastRoundConfig = serde_json::from_str(config).unwrap();
        let (names, classes) = (["small", "large"].map(String::from), ["all".to_owned()]);
        let (candidates, draws) = (Candidates::all(2), Luck::new(1).stream(Stream::Policy));
        let pool = PolicyPool { names: &names, candidates, classes: &classes, max_block: 32, draws };
        let policy = config.build(&Builder { pool: &pool, policy: LastRoundConfig::ENTRY.name })?;
        Ok(format!("{} {}", policy.name(), config.label()))
    }

    #[test]
    fn a_window_past_the_block_limit_is_refused_by_its_name() {
        assert_eq!(built(r#"{"draft": "small"}"#).unwrap(), "last_round small (2, 8)");
        assert_eq!(built(r#"{"draft": "small", "long": 40}"#).unwrap_err().parameter(), "long");
        assert_eq!(built(r#"{"draft": "tiny"}"#).unwrap_err().parameter(), "draft");
    }
}
