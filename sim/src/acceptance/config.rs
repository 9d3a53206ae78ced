//! Acceptance as a scenario writes it, and what can be wrong with it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use specrouter_routing::units::{NonNegative, Positive, Probability};

/// `drafter -> verifier -> value`, by model name.
pub type Pairs<T> = BTreeMap<String, BTreeMap<String, T>>;

/// Where verdicts come from. Models and classes by name; every pair of the pool is given, drafter
/// first (a `head` needs only the pair with its own target).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum AcceptanceConfig {
    /// One probability per pair: independent coins, one per position and verifier.
    Constant(Pairs<Probability>),
    /// The conditional rate at each depth of the drafter's block, the last one repeated.
    PerPosition(Pairs<Vec<Probability>>),
    /// Requests, stretches of text and models that agree or do not, together.
    Heterogeneous(HeterogeneousConfig),
}

/// The set system: at each position all models agree with probability π, else a set of models
/// does. Marginals are the matrix, whatever the law of π.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeterogeneousConfig {
    /// Acceptance of each pair, by class; the key `all` stands for every class not named.
    pub matrix: BTreeMap<String, Pairs<Probability>>,
    /// Standard deviation across requests of a draft's mean acceptance by the target (averaged
    /// over the drafts): a Beta law of π.
    #[serde(default = "zero")]
    pub request_spread: NonNegative,
    /// Two regimes along the output.
    #[serde(default)]
    pub regime: Option<RegimeConfig>,
    /// By drafter: factors on the part of its acceptance that is not agreement of all, by depth in
    /// its block, the last one repeated. Above 1 for `head` and `ngram` only.
    #[serde(default)]
    pub depth: BTreeMap<String, Vec<NonNegative>>,
    /// Spearman correlation of the confidence signals with the acceptance behind them.
    #[serde(default = "half")]
    pub signal_correlation: Probability,
    /// Other text from some request on, under the same labels: what policies have learned is stale then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftConfig>,
}

/// A change of domain in mid-run.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DriftConfig {
    /// The first request of the new text, counted from 0 in the order of arrival.
    pub from_request: u64,
    /// Acceptance of each pair from then on, by class; the key `all` stands for every class not named.
    pub matrix: BTreeMap<String, Pairs<Probability>>,
}

/// A two-state Markov chain along the output, both states equally likely.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegimeConfig {
    /// Mean length of a run in tokens, at least 1.
    pub stay_tokens: Positive,
    /// π is this much above and below the request's own: its standard deviation. A request whose
    /// own π is nearer to 0 or 1 than this gets that distance, so its mean stays.
    pub spread: Probability,
}

fn zero() -> NonNegative {
    NonNegative::new(0.0).expect("0 is not negative")
}

fn half() -> Probability {
    Probability::new(0.5).expect("0.5 is a probability")
}

/// Why an acceptance source is none. The scenario's author is at fault.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AcceptanceError {
    /// A name that is no model of the pool.
    #[error("{place}: {name} is no model of the pool; the pool has {known}")]
    UnknownModel {
        /// Where it stands.
        place: String,
        /// The name.
        name: String,
        /// The pool.
        known: String,
    },
    /// A name that is no class of the workload.
    #[error("{place}: {name} is no request class; there are {known} (or `all`)")]
    UnknownClass {
        /// Where it stands.
        place: String,
        /// The name.
        name: String,
        /// The classes.
        known: String,
    },
    /// A class without a matrix.
    #[error("{place}: class {name} has no matrix, and there is no `all`; given are {given}")]
    MissingClass {
        /// Where it should stand.
        place: String,
        /// The class.
        name: String,
        /// What is given.
        given: String,
    },
    /// A pair that is not given.
    #[error("{place}: {drafter} under {verifier} is missing; given under {drafter} are {given}")]
    MissingPair {
        /// Where it should stand.
        place: String,
        /// The drafter.
        drafter: String,
        /// The verifier.
        verifier: String,
        /// What the drafter has.
        given: String,
    },
    /// A verifier that does not stand after its drafter.
    #[error(
        "{place}: {drafter} cannot draft for {verifier}: a drafter stands before its verifier in the pool, which is {known}"
    )]
    Order {
        /// Where it stands.
        place: String,
        /// The drafter.
        drafter: String,
        /// The verifier.
        verifier: String,
        /// The pool.
        known: String,
    },
    /// A draft head whose target is not in the pool.
    #[error(
        "acceptance: {head} is a draft head of {of}, which is no model of the pool; the pool has {known}"
    )]
    HeadWithoutTarget {
        /// The head.
        head: String,
        /// Its target.
        of: String,
        /// The pool.
        known: String,
    },
    /// An empty list of rates or factors.
    #[error("{place}: expected at least one number, got an empty list")]
    Empty {
        /// Where it stands.
        place: String,
    },
    /// Independent coins that cannot be.
    #[error(
        "acceptance.constant: with independent coins {first} under {third} is at least {first} under {second} times {second} under {third}, \
         {ij} x {jk} = {:.4}; got {ik}", ij * jk
    )]
    Product {
        /// The lowest model.
        first: String,
        /// The middle model.
        second: String,
        /// The highest model.
        third: String,
        /// First under second.
        ij: f64,
        /// Second under third.
        jk: f64,
        /// First under third.
        ik: f64,
    },
    /// Three acceptances that no three distributions have.
    #[error(
        "acceptance.heterogeneous.matrix.{class}: no distributions of {}, {} and {} have these acceptances: \
         {} rejects {} at {far:.4}, which may be at most {near:.4} + {rest:.4} by way of {}",
         models[0], models[1], models[2], models[1], models[0], models[2]
    )]
    Triangle {
        /// The class.
        class: String,
        /// Drafter, verifier, and the model between them that shows it.
        models: [String; 3],
        /// Rejection of the pair.
        far: f64,
        /// Rejection of the drafter and the third.
        near: f64,
        /// Rejection of the third and the verifier.
        rest: f64,
    },
    /// Every triple is possible, the whole is not.
    #[error(
        "acceptance.heterogeneous.matrix.{class}: no distributions of {models} have all these acceptances at once, though every three of them could"
    )]
    NoSetSystem {
        /// The class.
        class: String,
        /// The models.
        models: String,
    },
    /// More models than the set system is made for.
    #[error("acceptance.heterogeneous takes pools of at most {most} models, got {got}")]
    PoolTooLarge {
        /// The cap.
        most: usize,
        /// The pool.
        got: usize,
    },
    /// More spread than the matrix leaves room for.
    #[error(
        "acceptance.heterogeneous.request_spread must be at most {largest:.4} with the matrix of class {class}, got {asked}"
    )]
    Spread {
        /// The class.
        class: String,
        /// What was asked.
        asked: f64,
        /// What is possible.
        largest: f64,
    },
    /// A number that was measured and is none.
    #[error("acceptance.heterogeneous: {0}")]
    Number(specrouter_routing::units::OutOfRange),
    /// A regime shorter than a token.
    #[error("acceptance.heterogeneous.regime.stay_tokens must be at least 1, got {0}")]
    Stay(f64),
    /// A factor above 1 on a model that may stand in the middle of a chain.
    #[error(
        "acceptance.heterogeneous.depth.{model}: factors above 1 are for draft heads and n-grams, which only draft; got {factor}"
    )]
    Depth {
        /// The model.
        model: String,
        /// The factor.
        factor: f64,
    },
}
