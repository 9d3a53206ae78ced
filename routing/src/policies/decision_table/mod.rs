//! A policy as data: the first rule that fits a sequence decides its chain and windows. For people who
//! know what they want and do not write Rust.

mod reach;
mod rule;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::arms::ArmConfig;
use super::books::Books;
use super::recipe::{Builder, PolicyEntry, PolicyError, Recipe};
use crate::chain::ChainPlan;
use crate::estimate::Ema;
use crate::ids::{ClassId, ModelId};
use crate::policy::{Ask, Needs, PassReport, Plan, Policy, RowReport};
use crate::units::{Positive, Probability};

use rule::Rule;
pub use rule::WhenConfig;

/// Parameters of `decision_table`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecisionTableConfig {
    /// Rules in order; the first whose conditions a sequence meets at its round's start decides.
    pub rules: Vec<RuleConfig>,
    /// What is decided where no rule fits; the target alone by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otherwise: Option<ArmConfig>,
    /// What reports call this table; by default the number of its rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Acceptance believed of a pair in a class before much is seen: it weighs as much as 16 positions.
    #[serde(default = "seven_tenths")]
    pub initial_acceptance: Probability,
    /// Positions after which a verdict counts half in the estimate of acceptance.
    #[serde(default = "some")]
    pub half_life: Positive,
    /// Passes without a verdict on a pair in a class after which what was seen of it is forgotten, so that
    /// a rule that its acceptance had ruled out is tried again.
    #[serde(default = "thousand")]
    pub forget_passes: u32,
    /// The share by which the bounds of the rule that decided a sequence's last round are wider for it.
    #[serde(default = "nothing")]
    pub hysteresis: Probability,
}

/// One rule of a decision table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// What must hold; with no condition, every sequence fits.
    #[serde(default)]
    pub when: WhenConfig,
    /// Models of the chain, cheapest first, ending in the target.
    pub chain: Vec<String>,
    /// One window for each level above the lowest; none for the target alone.
    #[serde(default)]
    pub windows: Vec<u32>,
}

const fn seven_tenths() -> Probability {
    Probability::constant(0.7)
}

const fn some() -> Positive {
    Positive::constant(256.0)
}

const fn thousand() -> u32 {
    1000
}

const fn nothing() -> Probability {
    Probability::constant(0.0)
}

/// Most rules of a table: more would be a program.
const MOST_RULES: usize = 256;
/// Positions that the initial acceptance weighs as much as.
const PRIOR: f64 = 16.0;

impl Recipe for DecisionTableConfig {
    const ENTRY: PolicyEntry = PolicyEntry {
        name: "decision_table",
        summary: "a policy as data: the first rule that fits a sequence decides its chain and windows",
        source: "docs/write-a-policy.md",
        parameters: &[
            (
                "rules",
                "required",
                "rules {when, chain, windows}; when: class, and batch, context, queue, prefilling, acceptance, each with _at_least or _at_most",
            ),
            ("otherwise", "the target alone", "{chain, windows} where no rule fits"),
            ("name", "the number of rules", "what reports call the table"),
            ("initial_acceptance", "0.7", "acceptance of a rule's lowest pair believed before it is seen"),
            ("half_life", "256", "positions after which a verdict counts half"),
            ("forget_passes", "1000", "passes without a verdict after which a pair is as if never seen"),
            ("hysteresis", "0", "share by which bounds are wider for a sequence that its rule has already"),
        ],
        example: r#"{"decision_table": {"rules": [{"when": {"batch_at_most": 16, "acceptance_at_least": 0.5}, "chain": ["small", "medium", "large"], "windows": [2, 4]}, {"when": {"batch_at_most": 64, "context_at_most": 4000}, "chain": ["small", "large"], "windows": [2]}], "otherwise": {"chain": ["large"]}}}"#,
    };

    fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| match self.rules.len() {
            1 => "of 1 rule".to_owned(),
            rules => format!("of {rules} rules"),
        })
    }

    fn build(&self, pool: &Builder<'_>) -> Result<Box<dyn Policy>, PolicyError> {
        if self.rules.is_empty() || self.rules.len() > MOST_RULES {
            return Err(pool.refuse("rules", "1 to 256 rules", self.rules.len()));
        }
        let (mut rules, mut pairs) = (Vec::new(), Vec::new());
        for (index, rule) in self.rules.iter().enumerate() {
            rules.push(Rule::new(rule, pool, &mut pairs).map_err(|e| e.within(format!("rules[{index}]")))?);
        }
        if let Some(index) = reach::shadowed(&rules, pool.pool.classes.len(), pairs.len()) {
            let expected = "met by some sequence that no rule before it takes";
            let error = pool.refuse("when", expected, &self.rules[index].when);
            return Err(error.within(format!("rules[{index}]")));
        }
        let target = ChainPlan::target_only(pool.target());
        let otherwise = match &self.otherwise {
            None => target,
            Some(arm) if reach::complete(&rules, pool.pool.classes.len(), pairs.len()) => {
                let expected = "left out where the rules take every sequence";
                return Err(pool.refuse("otherwise", expected, arm.chain.join(">")));
            }
            Some(arm) => {
                pool.chain("chain", &arm.chain, "windows", &arm.windows).map_err(|e| e.within("otherwise"))?
            }
        };
        let beliefs = Beliefs::new(self, pairs, pool.pool.classes.len());
        let hysteresis = self.hysteresis.get();
        Ok(Box::new(DecisionTable { rules, otherwise, beliefs, hysteresis, last: Books::new(None) }))
    }
}

/// Rules over what is known when a round begins: counts of the replica, the sequence's own length and
/// class, and verdicts of rounds past. Nothing of the round that is planned (rule R3).
struct DecisionTable {
    rules: Vec<Rule>,
    otherwise: ChainPlan,
    beliefs: Beliefs,
    hysteresis: f64,
    /// Of each request: the rule that decided its last round.
    last: Books<Option<usize>>,
}

impl Policy for DecisionTable {
    fn name(&self) -> &str {
        DecisionTableConfig::ENTRY.name
    }

    fn needs(&self) -> Needs {
        // Which class a verdict was on, only rows say.
        Needs { rows: !self.beliefs.pairs.is_empty(), ..Needs::default() }
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        for &slot in ask.starting {
            let request = ask.request(slot);
            let counts = rule::counts(ask, &request);
            let last = self.last.get(slot, request.id());
            let fits = |&(index, rule): &(usize, &Rule)| {
                let slack = if last == Some(index) { self.hysteresis } else { 0.0 };
                rule.fits(request.class(), &counts, slack, |pair| {
                    self.beliefs.acceptance(request.class(), pair, ask.tick)
                })
            };
            let found = self.rules.iter().enumerate().find(fits).map(|(index, rule)| (index, rule.chain));
            plan.push(found.map_or(self.otherwise, |(_, chain)| chain));
            if self.hysteresis > 0.0 {
                *self.last.get_mut(slot, request.id()) = found.map(|(index, _)| index);
            }
        }
    }

    fn learn(&mut self, report: &PassReport<'_>) {
        for row in report.rows {
            self.beliefs.learn(row, report.tick);
        }
    }
}

/// Acceptance of the pairs that rules ask about, by class.
struct Beliefs {
    /// Drafter and verifier.
    pairs: Vec<(ModelId, ModelId)>,
    /// By class, then by pair.
    seen: Vec<Belief>,
    fresh: Belief,
    half_life: f64,
    forget: u64,
}

/// What is believed of one pair in one class.
#[derive(Clone, Copy)]
struct Belief {
    mean: Ema,
    /// The tick of the newest verdict.
    tick: u64,
}

impl Beliefs {
    fn new(config: &DecisionTableConfig, pairs: Vec<(ModelId, ModelId)>, classes: usize) -> Self {
        let half_life = config.half_life.get();
        let mut fresh = Belief { mean: Ema::EMPTY, tick: 0 };
        fresh.mean.add(config.initial_acceptance.get(), PRIOR, half_life);
        let (seen, forget) = (vec![fresh; classes * pairs.len()], u64::from(config.forget_passes));
        Self { pairs, seen, fresh, half_life, forget }
    }

    /// What is believed of a pair at `tick`: verdicts too old count for nothing.
    fn belief(&self, class: ClassId, pair: usize, tick: u64) -> Belief {
        let seen = self.seen.get(class.index() * self.pairs.len() + pair);
        let young = |belief: &&Belief| tick.saturating_sub(belief.tick) <= self.forget;
        seen.filter(young).copied().unwrap_or(self.fresh)
    }

    fn acceptance(&self, class: ClassId, pair: usize, tick: u64) -> f64 {
        self.belief(class, pair, tick).mean.get().unwrap_or(0.0)
    }

    /// Every position before the first rejection was kept; past it nothing was judged. A draft kept
    /// whole has no rejection, nor has one that ended with the output.
    fn learn(&mut self, row: &RowReport, tick: u64) {
        let Some(pair) = self.pairs.iter().position(|&pair| pair == (row.drafter, row.verifier)) else {
            return;
        };
        let ended = row.committed > 0 && row.committed == row.accepted;
        let rejected = row.accepted < row.drafted && !ended;
        let judged = f64::from(row.accepted) + f64::from(u8::from(rejected));
        if judged > 0.0 {
            let mut belief = self.belief(row.class, pair, tick);
            belief.mean.add(f64::from(row.accepted) / judged, judged, self.half_life);
            belief.tick = tick;
            if let Some(seen) = self.seen.get_mut(row.class.index() * self.pairs.len() + pair) {
                *seen = belief;
            }
        }
    }
}

#[cfg(test)]
mod tests;
