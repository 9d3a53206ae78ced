//! Policies by name, as scenarios write them, and what each is called, does and takes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Policy;
use super::batch_table::{BatchTable, Disable};
use super::goodput::{Goodput, GoodputParameters};
use super::price::Candidates;
use super::specrouter::{SpecRouter, SpecRouterParameters};
use super::static_chain::StaticChain;
use crate::chain::{ChainError, ChainPlan, StopRule};
use crate::ids::ModelId;
use crate::units::{NonNegative, Positive, Probability};

/// A policy and its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PolicyConfig {
    /// Plain decoding.
    TargetOnly,
    /// Another, smaller model answers instead of the target: other output.
    FixedModel(FixedModelConfig),
    /// One chain with fixed windows.
    Static(StaticConfig),
    /// Window by batch size.
    BatchTable(BatchTableConfig),
    /// TurboSpec.
    Goodput(GoodputConfig),
    /// The SpecRouter paper's scheduler.
    Specrouter(SpecRouterConfig),
}

/// Parameters of `fixed_model`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FixedModelConfig {
    /// The pool's model that answers.
    pub model: String,
}

/// Parameters of `static`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StaticConfig {
    /// Models of the chain, cheapest first, ending in the target.
    pub chain: Vec<String>,
    /// One window for each level above the lowest: how many tokens it asks of the one below.
    #[serde(default)]
    pub windows: Vec<u32>,
    /// When the lowest level stops before its window is full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<StopConfig>,
}

/// A draft stop rule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopConfig {
    /// Stop after a token whose draft distribution had a top probability below this.
    TopProbabilityBelow(Probability),
    /// Stop after a token whose draft distribution had an entropy, in nats, above this.
    EntropyAbove(NonNegative),
}

impl From<StopConfig> for StopRule {
    fn from(config: StopConfig) -> Self {
        match config {
            StopConfig::TopProbabilityBelow(p) => Self::TopProbabilityBelow(p.get() as f32),
            StopConfig::EntropyAbove(h) => Self::EntropyAbove(h.get() as f32),
        }
    }
}

/// Parameters of `batch_table`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchTableConfig {
    /// Models of the chain, cheapest first, ending in the target.
    pub chain: Vec<String>,
    /// Rows by ascending batch size; past the last, plain decoding.
    pub table: Vec<BatchRow>,
    /// Turns speculation off for good when acceptance is low.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable: Option<DisableConfig>,
}

/// One row of a batch table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchRow {
    /// Most sequences decoding at once for this row to hold.
    pub up_to: u32,
    /// The windows of the chain.
    pub windows: Vec<u32>,
}

/// Turns speculation off for good when acceptance is low.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DisableConfig {
    /// Off when the rolling mean of accepted / drafted falls below this.
    pub below: Probability,
    /// Verifications in the rolling mean.
    pub verifications: u32,
}

/// Parameters of `goodput`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GoodputConfig {
    /// The draft model.
    pub draft: String,
    /// Longest draft considered, in tokens.
    #[serde(default = "eight")]
    pub max_window: u32,
    /// Acceptance believed before the first verification.
    #[serde(default = "seven_tenths")]
    pub initial_acceptance: Probability,
    /// Weight of a new pass in the moving average of acceptance.
    #[serde(default = "fifteen_percent")]
    pub weight: Probability,
}

/// Who shares a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Every sequence of the batch runs the same chain and windows.
    #[default]
    PerBatch,
    /// Each sequence runs what suits its own acceptance, at the batch's prices.
    PerRequest,
}

/// Parameters of `specrouter`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpecRouterConfig {
    /// Who shares a plan.
    pub scope: Scope,
    /// Half-life of the moving average of similarity, in examined positions.
    pub half_life: Positive,
    /// Acceptance believed of a pair that has never been seen.
    pub initial_acceptance: Probability,
    /// Rounds between looks at pairs that have gone stale.
    pub probe_rounds: u32,
    /// Longest window of a level, in tokens.
    pub max_window: u32,
    /// A new plan must be better than the present one by this share.
    pub hysteresis: Probability,
    /// The mapping f from similarity to acceptance as points `[similarity, acceptance]`, linear
    /// between them; none is the identity, which is exact under sampling.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mapping: Vec<[Probability; 2]>,
}

impl Default for SpecRouterConfig {
    fn default() -> Self {
        Self {
            scope: Scope::PerBatch,
            half_life: Positive::new(64.0).expect("64 is above 0"),
            initial_acceptance: seven_tenths(),
            probe_rounds: 32,
            max_window: 8,
            hysteresis: Probability::new(0.005).expect("0.005 is a probability"),
            mapping: Vec::new(),
        }
    }
}

const fn eight() -> u32 {
    8
}

fn seven_tenths() -> Probability {
    Probability::new(0.7).expect("0.7 is a probability")
}

fn fifteen_percent() -> Probability {
    Probability::new(0.15).expect("0.15 is a probability")
}

/// A policy that cannot be built. The scenario is at fault.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PolicyError {
    /// A model that is not in the pool.
    #[error("policy {policy}: model {model} is not in the pool ({pool})")]
    Model {
        /// The policy.
        policy: &'static str,
        /// What came.
        model: String,
        /// The pool.
        pool: String,
    },
    /// A chain that is none.
    #[error("policy {policy}: {source}")]
    Chain {
        /// The policy.
        policy: &'static str,
        /// What is wrong with it.
        source: ChainError,
    },
    /// A model where it cannot stand: a head above another model than its own, or under a verifier that cannot verify.
    #[error(
        "policy {policy}: {drafter} cannot stand directly below {verifier}: a head drafts for its own target only, and heads and n-grams do not verify"
    )]
    Stand {
        /// The policy.
        policy: &'static str,
        /// The lower model.
        drafter: String,
        /// The upper model.
        verifier: String,
    },
    /// A parameter out of its range.
    #[error("policy {policy}: {parameter} must be {expected}, got {got}")]
    Parameter {
        /// The policy.
        policy: &'static str,
        /// The parameter.
        parameter: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What came.
        got: String,
    },
}

/// What a policy is built from: the pool's names, which model may stand below which, and the
/// scenario's block limit.
#[derive(Clone, Copy, Debug)]
pub struct PolicyPool<'a> {
    /// Names of the pool, cheapest first, target last.
    pub names: &'a [String],
    /// Which model may stand directly below which.
    pub candidates: Candidates,
    /// Most tokens the windows of a chain may add up to.
    pub max_block: u32,
}

impl PolicyPool<'_> {
    fn model(&self, policy: &'static str, name: &str) -> Result<ModelId, PolicyError> {
        let found = self.names.iter().position(|known| known == name);
        found.map(|index| ModelId(index as u8)).ok_or_else(|| PolicyError::Model {
            policy,
            model: name.to_owned(),
            pool: self.names.join(", "),
        })
    }

    fn chain(
        &self,
        policy: &'static str,
        chain: &[String],
        windows: &[u32],
    ) -> Result<ChainPlan, PolicyError> {
        let models = chain.iter().map(|name| self.model(policy, name)).collect::<Result<Vec<_>, _>>()?;
        let plan = ChainPlan::new(&models, windows)
            .and_then(|plan| plan.check(self.names.len(), self.max_block).map(|()| plan));
        let plan = plan.map_err(|source| PolicyError::Chain { policy, source })?;
        match plan.models().windows(2).find(|pair| !self.candidates.may(pair[0], pair[1])) {
            None => Ok(plan),
            Some(pair) => Err(PolicyError::Stand {
                policy,
                drafter: self.names[pair[0].index()].clone(),
                verifier: self.names[pair[1].index()].clone(),
            }),
        }
    }
}

impl PolicyConfig {
    /// The policy with every parameter at its default; `None` for an unknown name or a policy
    /// that needs a parameter.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "target_only" => Some(Self::TargetOnly),
            "specrouter" => Some(Self::Specrouter(SpecRouterConfig::default())),
            _ => None,
        }
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::TargetOnly => "target_only",
            Self::FixedModel(_) => "fixed_model",
            Self::Static(_) => "static",
            Self::BatchTable(_) => "batch_table",
            Self::Goodput(_) => "goodput",
            Self::Specrouter(_) => "specrouter",
        }
    }

    /// Its name with what tells it from others of the name: `static llama-68m>llama-3.1-8b (4)`.
    pub fn label(&self) -> String {
        let commas = |windows: &[u32]| windows.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        match self {
            Self::TargetOnly => self.name().to_owned(),
            Self::FixedModel(config) => format!("fixed_model {}", config.model),
            Self::Static(config) => {
                let stop = match config.stop {
                    None => String::new(),
                    Some(StopConfig::TopProbabilityBelow(p)) => format!(" stop p<{}", p.get()),
                    Some(StopConfig::EntropyAbove(h)) => format!(" stop H>{}", h.get()),
                };
                format!("static {} ({}){stop}", config.chain.join(">"), commas(&config.windows))
            }
            Self::BatchTable(config) => format!("batch_table {}", config.chain.join(">")),
            Self::Goodput(config) => format!("goodput {}", config.draft),
            Self::Specrouter(config) => match config.scope {
                Scope::PerBatch => "specrouter".to_owned(),
                Scope::PerRequest => "specrouter per_request".to_owned(),
            },
        }
    }

    /// Builds the policy for one replica. `fixed_model` is plain decoding over a pool of one,
    /// which its caller has seen to.
    ///
    /// # Errors
    /// [`PolicyError`], naming the parameter.
    pub fn build(&self, pool: &PolicyPool<'_>) -> Result<Box<dyn Policy>, PolicyError> {
        let policy = self.name();
        let target = ModelId((pool.names.len() - 1) as u8);
        let window = |parameter, value: u32| {
            if (1..=pool.max_block).contains(&value) {
                Ok(value)
            } else {
                let (expected, got) = ("between 1 and the scenario's max_block", value.to_string());
                Err(PolicyError::Parameter { policy, parameter, expected, got })
            }
        };
        Ok(match self {
            Self::TargetOnly => Box::new(StaticChain::target_only(ChainPlan::target_only(target))),
            Self::FixedModel(config) => {
                pool.model(policy, &config.model)?;
                Box::new(StaticChain::target_only(ChainPlan::target_only(target)))
            }
            Self::Static(config) => {
                let plan = pool.chain(policy, &config.chain, &config.windows)?;
                Box::new(StaticChain::new(plan.stopping(config.stop.map_or(StopRule::Never, Into::into))))
            }
            Self::BatchTable(config) => {
                let rows = config
                    .table
                    .iter()
                    .map(|row| Ok((row.up_to, pool.chain(policy, &config.chain, &row.windows)?)));
                let table = rows.collect::<Result<Vec<_>, PolicyError>>()?;
                if !table.is_sorted_by(|a, b| a.0 < b.0) || table.is_empty() {
                    let got = format!("{:?}", table.iter().map(|row| row.0).collect::<Vec<_>>());
                    let (parameter, expected) = ("table", "rows of ascending up_to, at least one");
                    return Err(PolicyError::Parameter { policy, parameter, expected, got });
                }
                let disable = config
                    .disable
                    .map(|d| Disable { below: d.below.get(), window: d.verifications as usize });
                if config.disable.is_some_and(|d| d.verifications == 0) {
                    let (parameter, expected) = ("disable.verifications", "at least 1");
                    return Err(PolicyError::Parameter { policy, parameter, expected, got: "0".to_owned() });
                }
                Box::new(BatchTable::new(table, target, disable))
            }
            Self::Goodput(config) => {
                pool.chain(policy, &[config.draft.clone(), pool.names[target.index()].clone()], &[1])?;
                let parameters = GoodputParameters {
                    max_window: window("max_window", config.max_window)?,
                    initial_acceptance: config.initial_acceptance.get(),
                    weight: config.weight.get(),
                };
                Box::new(Goodput::new(pool.model(policy, &config.draft)?, target, parameters))
            }
            Self::Specrouter(config) => {
                let mapping: Vec<(f64, f64)> =
                    config.mapping.iter().map(|[s, a]| (s.get(), a.get())).collect();
                if !mapping.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1) {
                    let (parameter, expected) = ("mapping", "points of rising similarity and acceptance");
                    return Err(PolicyError::Parameter {
                        policy,
                        parameter,
                        expected,
                        got: format!("{mapping:?}"),
                    });
                }
                if config.probe_rounds == 0 {
                    let (parameter, expected) = ("probe_rounds", "at least 1");
                    return Err(PolicyError::Parameter { policy, parameter, expected, got: "0".to_owned() });
                }
                let parameters = SpecRouterParameters {
                    per_request: config.scope == Scope::PerRequest,
                    half_life: config.half_life.get(),
                    initial_acceptance: config.initial_acceptance.get(),
                    probe_rounds: u64::from(config.probe_rounds),
                    max_window: window("max_window", config.max_window)?,
                    hysteresis: config.hysteresis.get(),
                    mapping,
                };
                Box::new(SpecRouter::new(pool.candidates, parameters))
            }
        })
    }
}

/// A policy as `specrouter policies` lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyEntry {
    /// Its name in scenarios.
    pub name: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// Whose idea it is.
    pub source: &'static str,
    /// `(name, default or "required", meaning)`.
    pub parameters: &'static [(&'static str, &'static str, &'static str)],
}

/// Every policy.
pub const fn catalog() -> &'static [PolicyEntry] {
    &[
        PolicyEntry {
            name: "target_only",
            summary: "plain decoding by the target",
            source: "baseline",
            parameters: &[],
        },
        PolicyEntry {
            name: "fixed_model",
            summary: "one smaller model of the pool answers instead of the target (other output)",
            source: "baseline",
            parameters: &[("model", "required", "the model that answers")],
        },
        PolicyEntry {
            name: "static",
            summary: "one chain with fixed windows; two levels are classic speculative decoding",
            source: "Leviathan et al., arXiv 2211.17192",
            parameters: &[
                ("chain", "required", "models, cheapest first, ending in the target"),
                ("windows", "required", "tokens each level asks of the one below; one fewer than the chain"),
                (
                    "stop",
                    "none",
                    "top_probability_below or entropy_above: keep the token, then stop drafting",
                ),
            ],
        },
        PolicyEntry {
            name: "batch_table",
            summary: "windows by batch size, plain decoding past the table",
            source: "vLLM num_speculative_tokens_per_batch_size, TensorRT-LLM draft_len_schedule",
            parameters: &[
                ("chain", "required", "models, cheapest first, ending in the target"),
                ("table", "required", "rows {up_to, windows} by ascending batch size"),
                (
                    "disable",
                    "none",
                    "{below, verifications}: off for good when accepted / drafted falls below",
                ),
            ],
        },
        PolicyEntry {
            name: "goodput",
            summary: "the draft length with the most tokens per second at the present batch (as published it does not explore: at length 0 it learns no more)",
            source: "TurboSpec / SmartSpec, arXiv 2406.14066",
            parameters: &[
                ("draft", "required", "the draft model"),
                ("max_window", "8", "longest draft in tokens"),
                ("initial_acceptance", "0.7", "acceptance believed before the first verification"),
                ("weight", "0.15", "weight of a new pass in the moving average"),
            ],
        },
        PolicyEntry {
            name: "specrouter",
            summary: "chain and windows with the least expected time per token, from pass times and similarities seen",
            source: "SpecRouter, arXiv 2505.07680",
            parameters: &[
                ("scope", "per_batch", "per_batch or per_request"),
                ("half_life", "64", "half-life of the similarity average, in examined positions"),
                ("initial_acceptance", "0.7", "acceptance believed of a pair never seen"),
                ("probe_rounds", "32", "rounds between looks at stale pairs"),
                ("max_window", "8", "longest window of a level in tokens"),
                ("hysteresis", "0.005", "share by which a new plan must be better"),
                ("mapping", "identity", "f: points [similarity, acceptance]"),
            ],
        },
    ]
}
