//! A profile as `specrouter calibrate` writes it: what passes cost and who keeps whose token, with where it
//! was measured and how well it fits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use specrouter_routing::profile::ModelSpec;
use specrouter_routing::record::Decoding;
use specrouter_sim::acceptance::AcceptanceConfig;
use specrouter_sim::cost::Interference;

use super::costs::{self, Costs};
use super::raw::CostsRef;
use super::{Paths, ScenarioError};
use crate::catalog;
use crate::yaml::Document;

/// What was measured, and on what.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Where it comes from.
    pub measured: Measured,
    /// The models, cheapest first; `costs.linear` follows this order.
    pub pool: Vec<String>,
    /// Tokens of KV cache that each model had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_tokens: Option<u64>,
    /// What passes cost: the better of terms and table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub costs: Option<CostsRef>,
    /// What a pass takes longer where its model's weights are not at hand, by model.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub interference: BTreeMap<String, Interference>,
    /// Who keeps whose token, as a scenario writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acceptance: Option<AcceptanceConfig>,
    /// How well it fits.
    #[serde(default)]
    pub fit: FitErrors,
}

/// Where a profile comes from.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Version of the tool that fitted it.
    pub tool_version: String,
    /// What ran, or what was simulated; files of measurements name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// How tokens were chosen and verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoding: Option<Decoding>,
    /// The traces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traces: Vec<Source>,
    /// The file of step costs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The file of accepted lengths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounds: Option<String>,
    /// Passes behind the costs.
    pub passes: usize,
    /// Requests behind the acceptance.
    pub requests: usize,
}

/// A trace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its folder, as it was given.
    pub trace: String,
    /// The policy that ran.
    pub policy: String,
    /// The run's seed.
    pub seed: u64,
}

/// How well a profile fits.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct FitErrors {
    /// Relative errors of pass times that the fit had not seen, by model.
    pub costs: BTreeMap<String, CostErrors>,
    /// Largest change that made a class's matrix possible, by class.
    pub matrix_moved: BTreeMap<String, f64>,
}

/// Held-out errors of one model's pass times.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CostErrors {
    /// Passes behind it.
    pub passes: usize,
    /// Median of |predicted − observed| / observed by the terms.
    pub linear_median: f64,
    /// 95th percentile.
    pub linear_p95: f64,
    /// The same by the table, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table_median: Option<f64>,
    /// 95th percentile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table_p95: Option<f64>,
}

/// A profile, read.
pub(super) struct Read {
    profile: Profile,
    document: Document,
    folder: Option<PathBuf>,
}

impl Read {
    /// The profile in the document, if it is one; a file of costs alone has none of its fields.
    ///
    /// # Errors
    /// Unknown fields and numbers that are none, with their places.
    pub(super) fn of(document: &Document, folder: Option<&Path>) -> Result<Option<Self>, ScenarioError> {
        if !["measured", "pool", "costs", "interference", "acceptance", "fit"]
            .iter()
            .any(|field| document.has(field))
        {
            return Ok(None);
        }
        let (document, folder) = (document.clone(), folder.map(Path::to_owned));
        Ok(Some(Self { profile: document.read()?, document, folder }))
    }

    /// What `profile:` names, where that is a file that `calibrate` wrote.
    ///
    /// # Errors
    /// An unreadable file, or one that is no YAML; as [`Read::of`].
    pub(super) fn named(
        written: Option<&CostsRef>,
        document: &Document,
        paths: &Paths<'_>,
    ) -> Result<Option<Self>, ScenarioError> {
        let Some(CostsRef::Named(name)) =
            written.filter(|w| matches!(w, CostsRef::Named(n) if catalog::is_path(n)))
        else {
            return Ok(None);
        };
        let path = paths.resolve("profile", Path::new(name));
        let source = catalog::file("profile", &path).map_err(|e| document.error("profile", e))?;
        Self::of(&source.document()?, source.folder.as_deref())
    }

    /// Does it say what passes cost.
    pub(super) fn has_costs(&self) -> bool {
        self.profile.costs.is_some()
    }

    /// What passes of the scenario's `pool` cost.
    ///
    /// # Errors
    /// A profile without costs, or without those of a model.
    pub(super) fn costs(&self, pool: &[ModelSpec]) -> Result<Costs, ScenarioError> {
        let (document, profile) = (&self.document, &self.profile);
        let paths = Paths { document, folder: self.folder.as_deref() };
        let Some(costs) = &profile.costs else {
            let message = "costs is missing: there were not enough passes of every model; calibrate on more, or say `hardware`";
            return Err(document.error("", message).into());
        };
        let CostsRef::Linear { linear } = costs else {
            return costs::measured("costs", costs, pool, document, &paths);
        };
        if linear.len() != profile.pool.len() {
            let message = format!(
                "expected terms for each of the profile's {} models, in its order, got {}",
                profile.pool.len(),
                linear.len()
            );
            return Err(document.error("costs.linear", message).into());
        }
        let own = |model: &ModelSpec| {
            let place = profile.pool.iter().position(|name| *name == model.name);
            place.map(|place| linear[place]).ok_or_else(|| {
                let known = profile.pool.join(", ");
                document.error("pool", format_args!("{} was not measured; measured are {known}", model.name))
            })
        };
        let linear = pool.iter().map(own).collect::<Result<_, _>>()?;
        costs::measured("costs", &CostsRef::Linear { linear }, pool, document, &paths)
    }

    /// Who keeps whose token, for a scenario of these models and classes; `None` where the profile does not say.
    pub(super) fn acceptance(&self, pool: &[ModelSpec], classes: &[String]) -> Option<AcceptanceConfig> {
        let mut acceptance = self.profile.acceptance.clone()?;
        if let AcceptanceConfig::Heterogeneous(config) = &mut acceptance {
            let known = |name: &String| pool.iter().any(|model| model.name == *name);
            config.matrix.retain(|class, _| class == "all" || classes.contains(class));
            for pairs in config.matrix.values_mut() {
                pairs.retain(|drafter, _| known(drafter));
                pairs.values_mut().for_each(|row| row.retain(|verifier, _| known(verifier)));
                pairs.retain(|_, row| !row.is_empty());
            }
        }
        Some(acceptance)
    }

    /// What the models of `pool` cost each other; nothing of those that were not measured.
    pub(super) fn interference(&self, pool: &[ModelSpec]) -> Vec<Interference> {
        let of = |model: &ModelSpec| self.profile.interference.get(&model.name).copied().unwrap_or_default();
        pool.iter().map(of).collect()
    }

    /// Tokens of KV cache that each model had.
    pub(super) fn kv_tokens(&self) -> Option<u64> {
        self.profile.kv_tokens
    }

    /// An error about the profile's acceptance, with its place in the profile.
    pub(super) fn complaint(&self, error: impl std::fmt::Display) -> ScenarioError {
        self.document.complaint(error).into()
    }
}
