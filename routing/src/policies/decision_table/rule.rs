//! One rule: conditions as they are written, and as they are tested.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RuleConfig;
use crate::chain::ChainPlan;
use crate::ids::{ClassId, ModelId};
use crate::policies::recipe::{Builder, PolicyError};
use crate::policy::{Ask, RequestView};
use crate::units::Probability;

/// The conditions of a rule; those left out hold always.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WhenConfig {
    /// The sequence's class, by its name in the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Least number of sequences decoding, this one among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_at_least: Option<u32>,
    /// Most sequences decoding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_at_most: Option<u32>,
    /// Least number of the sequence's own tokens, prompt and output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_at_least: Option<u32>,
    /// Most of its own tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_at_most: Option<u32>,
    /// Least number of requests that wait for admission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_at_least: Option<u32>,
    /// Most requests that wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_at_most: Option<u32>,
    /// Least number of sequences whose prompt is running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefilling_at_least: Option<u32>,
    /// Most sequences whose prompt is running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefilling_at_most: Option<u32>,
    /// Least acceptance of the chain's lowest model by the one above it, as seen in the sequence's class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acceptance_at_least: Option<Probability>,
    /// Most acceptance of that pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acceptance_at_most: Option<Probability>,
}

/// Counts that rules bound: how they are written, and the least there can be.
pub(super) const COUNTS: [(&str, &str, u32); 4] = [
    ("batch_at_least", "batch_at_most", 1),
    ("context_at_least", "context_at_most", 1),
    ("queue_at_least", "queue_at_most", 0),
    ("prefilling_at_least", "prefilling_at_most", 0),
];
/// What an upper bound must be: where there is no lower one, and where there is.
const LEAST: [&str; 2] = ["at least 1: this sequence is counted", "its _at_least or more"];
const ACCEPTANCE: (&str, &str) = ("acceptance_at_least", "acceptance_at_most");

/// The counts of [`COUNTS`] for one sequence, now.
pub(super) fn counts(ask: &Ask<'_>, request: &RequestView<'_>) -> [f64; 4] {
    let context = u64::from(request.prompt_tokens()) + u64::from(request.emitted());
    [
        f64::from(ask.decoding.max(1)),
        context as f64,
        f64::from(ask.queued),
        f64::from(ask.running.saturating_sub(ask.decoding)),
    ]
}

impl WhenConfig {
    fn counts(&self) -> [(Option<u32>, Option<u32>); 4] {
        [
            (self.batch_at_least, self.batch_at_most),
            (self.context_at_least, self.context_at_most),
            (self.queue_at_least, self.queue_at_most),
            (self.prefilling_at_least, self.prefilling_at_most),
        ]
    }
}

impl fmt::Display for WhenConfig {
    /// As it is written: `{class: code, batch_at_most: 16}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self.class.iter().map(|class| format!("class: {class}")).collect();
        let mut put = |name: &str, value: Option<String>| {
            parts.extend(value.map(|value| format!("{name}: {value}")));
        };
        for ((least, most, _), (at_least, at_most)) in COUNTS.into_iter().zip(self.counts()) {
            put(least, at_least.map(|count| count.to_string()));
            put(most, at_most.map(|count| count.to_string()));
        }
        put(ACCEPTANCE.0, self.acceptance_at_least.map(|p| p.get().to_string()));
        put(ACCEPTANCE.1, self.acceptance_at_most.map(|p| p.get().to_string()));
        write!(f, "{{{}}}", parts.join(", "))
    }
}

/// A range, its ends included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bounds {
    pub least: f64,
    pub most: f64,
}

impl Bounds {
    /// Does the range, `slack` of its ends wider on either side, hold the value?
    fn hold(&self, value: f64, slack: f64) -> bool {
        self.least * (1.0 - slack) <= value && value <= self.most * (1.0 + slack)
    }
}

/// A rule as it is tested.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub class: Option<ClassId>,
    /// As [`COUNTS`].
    pub counts: [Bounds; 4],
    /// Of the pair at this index.
    pub acceptance: Option<(usize, Bounds)>,
    pub chain: ChainPlan,
}

impl Rule {
    /// The rule of `config`; a pair that its conditions ask about is added to `pairs` where it is new.
    ///
    /// # Errors
    /// [`PolicyError`]: a chain that is none, an unknown class, bounds that leave nothing between them,
    /// or acceptance where there is no drafter.
    pub fn new(
        config: &RuleConfig,
        pool: &Builder<'_>,
        pairs: &mut Vec<(ModelId, ModelId)>,
    ) -> Result<Self, PolicyError> {
        let chain = pool.chain("chain", &config.chain, "windows", &config.windows)?;
        let class = config.when.class.as_ref().map(|name| pool.class("class", name)).transpose();
        let inside = |e: PolicyError| e.within("when");
        let (class, counts) = (class.map_err(inside)?, counts_of(&config.when, pool).map_err(inside)?);
        let acceptance = acceptance_of(&config.when, &chain, pool).map_err(inside)?.map(|(pair, bounds)| {
            let index = pairs.iter().position(|&known| known == pair).unwrap_or(pairs.len());
            if index == pairs.len() {
                pairs.push(pair);
            }
            (index, bounds)
        });
        Ok(Self { class, counts, acceptance, chain })
    }

    /// Does a sequence meet every condition, bounds being `slack` of their values wider?
    pub fn fits(
        &self,
        class: ClassId,
        counts: &[f64; 4],
        slack: f64,
        acceptance: impl FnOnce(usize) -> f64,
    ) -> bool {
        self.class.is_none_or(|own| own == class)
            && self.counts.iter().zip(counts).all(|(bounds, &count)| bounds.hold(count, slack))
            && self.acceptance.is_none_or(|(pair, bounds)| bounds.hold(acceptance(pair), slack))
    }
}

/// The bounds of counts.
fn counts_of(when: &WhenConfig, pool: &Builder<'_>) -> Result<[Bounds; 4], PolicyError> {
    let mut counts = [Bounds { least: 0.0, most: f64::INFINITY }; 4];
    for (count, (name, (at_least, at_most))) in counts.iter_mut().zip(COUNTS.into_iter().zip(when.counts())) {
        let least = at_least.unwrap_or(0).max(name.2);
        if let Some(most) = at_most.filter(|&most| most < least) {
            return Err(pool.refuse(name.1, LEAST[usize::from(at_least == Some(least))], most));
        }
        *count = Bounds { least: f64::from(least), most: at_most.map_or(f64::INFINITY, f64::from) };
    }
    Ok(counts)
}

/// Bounds on the acceptance of a drafter under a verifier.
type OfPair = ((ModelId, ModelId), Bounds);

/// The pair of a rule, and the bounds of its acceptance, where it asks.
fn acceptance_of(
    when: &WhenConfig,
    chain: &ChainPlan,
    pool: &Builder<'_>,
) -> Result<Option<OfPair>, PolicyError> {
    let (least, most) = (when.acceptance_at_least, when.acceptance_at_most);
    let Some(either) = least.or(most) else { return Ok(None) };
    let &[drafter, verifier, ..] = chain.models() else {
        let name = if least.is_some() { ACCEPTANCE.0 } else { ACCEPTANCE.1 };
        return Err(pool.refuse(name, "left out of a rule whose chain has no drafter", either.get()));
    };
    let bounds =
        Bounds { least: least.map_or(0.0, Probability::get), most: most.map_or(1.0, Probability::get) };
    if bounds.most < bounds.least {
        return Err(pool.refuse(ACCEPTANCE.1, LEAST[1], bounds.most));
    }
    Ok(Some(((drafter, verifier), bounds)))
}
