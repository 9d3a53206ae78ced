//! What stands between a policy's parameters in a scenario and the policy.

use crate::chain::{ChainError, ChainPlan};
use crate::ids::{ClassId, ModelId};
use crate::luck::Draws;
use crate::policy::Policy;
use crate::policy::price::Candidates;

/// A policy's parameters: how the policy is listed, told from others of its name, and built.
pub(super) trait Recipe {
    /// Its page in `specrouter policies`; the name is the one that scenarios write.
    const ENTRY: PolicyEntry;

    /// What tells it from others of its name in reports: `llama-68m>llama-3.1-8b (4)`. Empty for nothing.
    fn label(&self) -> String {
        String::new()
    }

    /// The policy, for one replica.
    ///
    /// # Errors
    /// [`PolicyError`], naming the parameter.
    fn build(&self, pool: &Builder<'_>) -> Result<Box<dyn Policy>, PolicyError>;
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
    /// How a scenario writes it, over a pool of `small`, `medium` and `large`: JSON, which is YAML too.
    pub example: &'static str,
}

/// What a policy is built from: the pool's names, which model may stand below which, the names of the
/// workload's classes, the scenario's block limit, and luck of its own.
#[derive(Clone, Copy, Debug)]
pub struct PolicyPool<'a> {
    /// Names of the pool, cheapest first, target last.
    pub names: &'a [String],
    /// Which model may stand directly below which.
    pub candidates: Candidates,
    /// Names of the workload's classes, by [`ClassId`].
    pub classes: &'a [String],
    /// Most tokens the windows of a chain may add up to.
    pub max_block: u32,
    /// The policy's own luck, for those that explore by chance; another in each replica.
    pub draws: Draws,
}

/// A policy that cannot be built. The scenario is at fault.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PolicyError {
    /// A model that is not in the pool.
    #[error("policy {policy}: model {model} is not in the pool ({pool})")]
    Model {
        /// The policy.
        policy: &'static str,
        /// The parameter that names it.
        parameter: &'static str,
        /// What came.
        model: String,
        /// The pool.
        pool: String,
    },
    /// A class that the workload does not have.
    #[error("policy {policy}: class {class} is not in the workload ({classes})")]
    Class {
        /// The policy.
        policy: &'static str,
        /// The parameter that names it.
        parameter: &'static str,
        /// What came.
        class: String,
        /// The workload's.
        classes: String,
    },
    /// A chain that is none.
    #[error("policy {policy}: {source}")]
    Chain {
        /// The policy.
        policy: &'static str,
        /// The parameter that holds it.
        parameter: &'static str,
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
        /// The parameter that holds the chain.
        parameter: &'static str,
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
    /// Any of these in one item of a list.
    #[error("{source}")]
    Within {
        /// The item: `rules[2].when`.
        place: String,
        /// What is wrong, and with which of the item's fields.
        source: Box<Self>,
    },
}

impl PolicyError {
    /// The parameter at fault, as scenarios name it: `draft`, `rules[2].chain`.
    pub fn parameter(&self) -> String {
        match self {
            Self::Within { place, source } => format!("{place}.{}", source.parameter()),
            Self::Model { parameter, .. }
            | Self::Class { parameter, .. }
            | Self::Chain { parameter, .. }
            | Self::Stand { parameter, .. }
            | Self::Parameter { parameter, .. } => (*parameter).to_owned(),
        }
    }

    /// What is wrong, wherever it stands.
    pub fn fault(&self) -> &Self {
        if let Self::Within { source, .. } = self { source.fault() } else { self }
    }

    /// The same, said of a field of the item at `place`.
    pub(super) fn within(self, place: impl Into<String>) -> Self {
        Self::Within { place: place.into(), source: Box::new(self) }
    }
}

/// A pool as one policy's recipe sees it: errors name the policy.
pub(super) struct Builder<'a> {
    /// The pool.
    pub pool: &'a PolicyPool<'a>,
    /// The policy's name.
    pub policy: &'static str,
}

impl Builder<'_> {
    /// The pool's last model.
    pub fn target(&self) -> ModelId {
        ModelId((self.pool.names.len() - 1) as u8)
    }

    /// The model of a name.
    ///
    /// # Errors
    /// [`PolicyError::Model`] when the pool has none of that name.
    pub fn model(&self, parameter: &'static str, name: &str) -> Result<ModelId, PolicyError> {
        let found = self.pool.names.iter().position(|known| known == name);
        found.map(|index| ModelId(index as u8)).ok_or_else(|| PolicyError::Model {
            policy: self.policy,
            parameter,
            model: name.to_owned(),
            pool: self.pool.names.join(", "),
        })
    }

    /// The class of a name.
    ///
    /// # Errors
    /// [`PolicyError::Class`] when the workload has none of that name.
    pub fn class(&self, parameter: &'static str, name: &str) -> Result<ClassId, PolicyError> {
        let found = self.pool.classes.iter().position(|known| known == name);
        let id = found.and_then(|index| u16::try_from(index).ok());
        id.map(ClassId).ok_or_else(|| PolicyError::Class {
            policy: self.policy,
            parameter,
            class: name.to_owned(),
            classes: self.pool.classes.join(", "),
        })
    }

    /// The chain of `models` with `windows`, which must end in the target and fit the block limit.
    /// What is wrong with windows is said of the parameter `windows_of`.
    ///
    /// # Errors
    /// Any [`PolicyError`] but [`PolicyError::Parameter`].
    pub fn chain(
        &self,
        parameter: &'static str,
        models: &[String],
        windows_of: &'static str,
        windows: &[u32],
    ) -> Result<ChainPlan, PolicyError> {
        let policy = self.policy;
        let models = models.iter().map(|name| self.model(parameter, name)).collect::<Result<Vec<_>, _>>()?;
        let plan = ChainPlan::new(&models, windows)
            .and_then(|plan| plan.check(self.pool.names.len(), self.pool.max_block).map(|()| plan));
        let plan = plan.map_err(|source| {
            let of_windows = matches!(source, ChainError::Windows { .. } | ChainError::Window { .. });
            PolicyError::Chain { policy, parameter: if of_windows { windows_of } else { parameter }, source }
        })?;
        match plan.models().windows(2).find(|pair| !self.pool.candidates.may(pair[0], pair[1])) {
            None => Ok(plan),
            Some(pair) => Err(PolicyError::Stand {
                policy,
                parameter,
                drafter: self.pool.names[pair[0].index()].clone(),
                verifier: self.pool.names[pair[1].index()].clone(),
            }),
        }
    }

    /// The drafter named by `parameter`, which must be able to stand directly below the target.
    ///
    /// # Errors
    /// As [`chain`](Self::chain).
    pub fn draft(&self, parameter: &'static str, name: &str) -> Result<ModelId, PolicyError> {
        let chain = [name.to_owned(), self.pool.names[self.target().index()].clone()];
        Ok(self.chain(parameter, &chain, parameter, &[1])?.model(0))
    }

    /// A window's length, between 1 and the scenario's block limit.
    ///
    /// # Errors
    /// [`PolicyError::Parameter`].
    pub fn window(&self, parameter: &'static str, value: u32) -> Result<u32, PolicyError> {
        if (1..=self.pool.max_block).contains(&value) {
            return Ok(value);
        }
        Err(self.refuse(parameter, "between 1 and the scenario's max_block", value))
    }

    /// A count of at least 1.
    ///
    /// # Errors
    /// [`PolicyError::Parameter`].
    pub fn at_least_one(&self, parameter: &'static str, value: u32) -> Result<u32, PolicyError> {
        if value > 0 { Ok(value) } else { Err(self.refuse(parameter, "at least 1", value)) }
    }

    /// The error of a parameter out of its range.
    pub fn refuse(&self, parameter: &'static str, expected: &'static str, got: impl ToString) -> PolicyError {
        PolicyError::Parameter { policy: self.policy, parameter, expected, got: got.to_string() }
    }
}

/// `a>b (2,4)`: how reports write a chain of names and its windows.
pub(super) fn shown(chain: &[String], windows: &[u32]) -> String {
    let windows = windows.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    format!("{} ({windows})", chain.join(">"))
}
