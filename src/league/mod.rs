//! The league: every policy over many regimes, pools and variants, tuned on some seeds and measured on others.
//!
//! A league file holds one scenario and what changes in it: by pool (models, hardware, acceptance) and by
//! regime (load, text, memory). Policies are tuned, and the static reference is chosen, on the tuning seeds
//! in the regimes as they are written; everything is measured on the report seeds, in the regimes and in
//! variants of them that tuning never saw.

mod cells;
mod measure;
mod only;
mod run;
mod size;
mod tuned;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::IgnoredAny;
use specrouter_routing::units::{Positive, Probability};

pub use cells::Cell;
use measure::{CLAIRVOYANT, HINDSIGHT};
pub use run::run;

use crate::catalog::{self, Source};
use crate::scenario::ScenarioError;
use crate::yaml::Document;

/// A league as it is written. Scenario parts are read with the cells, whole.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLeague {
    #[serde(default)]
    description: Option<String>,
    tuning: Seeds,
    report: Seeds,
    /// What all cells have in common; models by their roles.
    #[allow(dead_code, reason = "read as a part of the document")]
    scenario: IgnoredAny,
    pools: Vec<RawPool>,
    regimes: Vec<RawRegime>,
    variants: Vec<Variant>,
    policies: Vec<RawEntrant>,
}

/// Seeds, counted up.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seeds {
    /// The first.
    pub first: u64,
    /// How many.
    pub count: u32,
}

impl Seeds {
    /// Each of them, at most `most`.
    fn up_to(self, most: Option<u32>) -> Vec<u64> {
        let count = most.map_or(self.count, |most| self.count.min(most));
        (self.first..self.first + u64::from(count)).collect()
    }
}

/// Models on hardware.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPool {
    name: String,
    /// What stands for each role.
    models: BTreeMap<String, String>,
    #[allow(dead_code, reason = "read as a part of the document")]
    set: IgnoredAny,
}

/// A kind of traffic.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRegime {
    name: String,
    about: String,
    /// Arrivals as a share of what the target alone can serve.
    load: Positive,
    #[serde(default)]
    #[allow(dead_code, reason = "read as a part of the document")]
    set: Option<IgnoredAny>,
}

/// A regime shifted, so that nothing is measured only where it was tuned.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// Factor on the rate of arrivals.
    #[serde(default = "one")]
    pub rate: Positive,
    /// Factor on the first class's weight.
    #[serde(default = "one")]
    pub first_class: Positive,
    /// Factor on every acceptance, at most 1: scaled down together, models that were possible stay so.
    #[serde(default = "certain")]
    pub acceptance: Probability,
}

fn certain() -> Probability {
    Probability::new(1.0).expect("1 is a probability")
}

fn one() -> Positive {
    Positive::new(1.0).expect("1 is above 0")
}

/// A policy with the parameters that it may be tuned to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntrant {
    name: String,
    /// Policies as scenarios write them; the best over the tuning seeds of a pool is entered there.
    #[serde(default)]
    #[allow(dead_code, reason = "read as a part of the document")]
    tune: Vec<IgnoredAny>,
    /// Every static plan as well.
    #[serde(default)]
    statics: bool,
    /// Rank correlations of confidence signals at which it is shown besides the scenario's own.
    #[serde(default)]
    signals: Vec<Probability>,
}

/// A policy of the league.
#[derive(Clone, Debug)]
pub struct Entrant {
    /// Its name in the table.
    pub name: String,
    /// Its candidates, as indices into the arms of every cell.
    pub candidates: Vec<usize>,
    /// Signal correlations at which it is shown besides.
    pub signals: Vec<f64>,
}

/// A league as it is meant.
pub struct League {
    name: String,
    description: String,
    document: Document,
    folder: Option<PathBuf>,
    raw: RawLeague,
}

/// Is the document of `source` a league's?
pub fn is_league(source: &Source) -> bool {
    source.document().is_ok_and(|document| document.has("regimes"))
}

impl League {
    /// Reads a league file and applies the `--set`s.
    ///
    /// # Errors
    /// [`ScenarioError`], naming the place, what was expected and what came.
    pub fn read(name: &str, sets: &[String]) -> Result<Self, ScenarioError> {
        let source = catalog::scenario(name)?;
        let mut document = source.document()?;
        for set in sets {
            document.set(set)?;
        }
        let raw: RawLeague = document.read()?;
        for (place, empty) in [
            ("pools", raw.pools.is_empty()),
            ("regimes", raw.regimes.is_empty()),
            ("variants", raw.variants.is_empty()),
            ("policies", raw.policies.is_empty()),
            ("tuning.count", raw.tuning.count == 0),
            ("report.count", raw.report.count == 0),
        ] {
            if empty {
                return Err(document.error(place, "expected at least one, got none").into());
            }
        }
        let idle = |entrant: &RawEntrant| entrant.tune.is_empty() && !entrant.statics;
        if let Some(index) = raw.policies.iter().position(idle) {
            let place = format!("policies[{index}].tune");
            return Err(document.error(&place, "expected at least one policy, got none").into());
        }
        let lists = [
            ("pools", raw.pools.iter().map(|pool| &pool.name).collect::<Vec<_>>()),
            ("regimes", raw.regimes.iter().map(|regime| &regime.name).collect()),
            ("variants", raw.variants.iter().map(|variant| &variant.name).collect()),
            ("policies", raw.policies.iter().map(|entrant| &entrant.name).collect()),
        ];
        for (list, names) in lists {
            for (index, name) in names.iter().enumerate() {
                let place = format!("{list}[{index}].name");
                if names[..index].contains(name) || [HINDSIGHT, CLAIRVOYANT].contains(&name.as_str()) {
                    return Err(document.error(&place, format_args!("`{name}` is taken")).into());
                }
                if name.is_empty() || name.contains('/') {
                    let message = format_args!("expected a name without `/`, got `{name}`");
                    return Err(document.error(&place, message).into());
                }
            }
        }
        let description = raw.description.clone().unwrap_or_else(|| source.opening_comment());
        Ok(Self { name: name.to_owned(), description, document, folder: source.folder, raw })
    }

    /// Index of the variant that is the regime as written: the first.
    fn written(&self) -> usize {
        0
    }

    /// How many candidates are written in the file; arms of cells that come after them are static plans.
    fn written_arms(&self) -> usize {
        self.raw.policies.iter().map(|entrant| entrant.tune.len()).sum()
    }
}
