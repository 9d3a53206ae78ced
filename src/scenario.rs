//! What a scenario means: every name looked up, every file read, every number checked, the memory sized.
//!
//! `raw.rs` is what was written; [`resolve`] makes it meant, and is all that `run --dry-run` does.

mod arms;
mod costs;
#[cfg(feature = "engine")]
pub mod executed;
mod folder;
mod pool;
pub mod profile;
mod raw;
#[cfg(feature = "engine")]
mod recording;
mod replayed;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use specrouter_routing::kv::{Kv, KvError};
use specrouter_routing::profile::ModelSpec;
use specrouter_routing::replica::{LimitError, Limits};
use specrouter_routing::slo::Slo;
use specrouter_routing::units::Positive;
use specrouter_routing::workload::{Arrivals, Surroundings, Workload, WorkloadConfig};
use specrouter_sim::acceptance::Source;
use specrouter_sim::cost::{CostError, Interference};

pub use arms::{Arm, Decides, build};
pub use costs::{Costs, read_table};
pub use raw::{Admission, CostsRef, RawScenario, Sampling, Tables, Verify};
#[cfg(feature = "engine")]
pub use recording::{Member, Part, Recording, resolve_part, resolve_recording, swept_arrivals};
pub use replayed::{Asked, Replayed, default_name, resolve_replay};

use crate::catalog::{self, CatalogError};
use crate::workload_file;
use crate::yaml::{self, Document, YamlError};

/// Most replicas of a run.
const MOST_REPLICAS: u32 = 65_536;
/// Most devices of one replica.
const MOST_DEVICES: u32 = 64;
/// Most seeds of a run.
const MOST_SEEDS: u32 = 10_000;
/// Most policies of a scenario.
const MOST_ARMS: usize = 256;
/// Most loads of a sweep.
const MOST_LOADS: usize = 100;

/// A scenario that cannot be run. The user's fault.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// A name or a file that leads nowhere.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A field that cannot be, with its place.
    #[error(transparent)]
    Yaml(#[from] YamlError),
    /// A workload file that cannot be read, with its place.
    #[error(transparent)]
    Workload(#[from] workload_file::FileError),
    /// Another file that the scenario names.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// A scenario as it is meant.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What the user called it.
    pub name: String,
    /// What it shows; may be empty.
    pub description: String,
    /// What was written, with every path leading on from the current folder.
    pub raw: RawScenario,
    /// The seeds, one replication each; at least one.
    pub seeds: Vec<u64>,
    /// The models, cheapest first, target last.
    pub pool: Vec<ModelSpec>,
    /// What passes cost.
    pub hardware: Costs,
    /// What models cost each other on it, in the pool's order; empty where nobody measured it.
    pub interference: Vec<Interference>,
    /// What policies know of costs beforehand.
    pub profile: Costs,
    /// What a replica allows.
    pub limits: Limits,
    /// Tokens of KV cache that each model of the pool has.
    pub kv_tokens: u64,
    /// The requests.
    pub workload: Workload,
    /// Who keeps whose token, for the whole pool.
    pub acceptance: Arc<Source>,
    /// The targets of requests whose class states none.
    pub slo: Slo,
    /// The policies, in the scenario's order; at least one.
    pub arms: Vec<Arm>,
    /// Loads as fractions of the rate that the target alone can serve, ascending; `None` runs the workload's own.
    pub loads: Option<Vec<f64>>,
}

/// How the paths inside a document lead on.
struct Paths<'a> {
    document: &'a Document,
    /// The document's folder; `None` where paths start from the current one.
    folder: Option<&'a Path>,
}

impl Paths<'_> {
    /// The path written at `place`: from the file's folder, or as given when a `--set` gave it.
    fn resolve(&self, place: &str, path: &Path) -> PathBuf {
        match self.folder {
            Some(folder) if !self.document.was_set(place) => folder.join(path),
            _ => path.to_owned(),
        }
    }

    /// Makes the paths in `raw`, the workload's aside, lead on from the current folder.
    fn lead_on(&self, raw: &mut RawScenario) {
        for (place, text) in raw.path_texts() {
            *text = self.resolve(&place, Path::new(&*text)).display().to_string();
        }
    }
}

/// Reads the scenario of that name or path, applies the `--set`s, and resolves it.
///
/// # Errors
/// [`ScenarioError`], naming the place, what was expected and what came.
pub fn resolve(name: &str, sets: &[String]) -> Result<Scenario, ScenarioError> {
    let source = catalog::scenario(name)?;
    let mut document = source.document()?;
    for set in sets {
        document.set(set)?;
    }
    let mut scenario = resolve_document(name, &document, source.folder.as_deref(), |_| ())?;
    if scenario.raw.description.is_none() {
        scenario.description = source.opening_comment();
    }
    Ok(scenario)
}

/// Resolves the scenario that `document` holds, once `adjust` has had its way with what was written; paths in it
/// start from `folder`.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_document(
    name: &str,
    document: &Document,
    folder: Option<&Path>,
    adjust: impl FnOnce(&mut RawScenario),
) -> Result<Scenario, ScenarioError> {
    let mut raw: RawScenario = document.read()?;
    adjust(&mut raw);
    let description = raw.description.clone().unwrap_or_default();
    let paths = Paths { document, folder };

    let seeds = seeds(&raw, document)?;
    within(document, "replicas", raw.replicas, 1, MOST_REPLICAS)?;
    within(document, "tensor_parallel", raw.tensor_parallel, 1, MOST_DEVICES)?;
    check_sampling(&raw, document)?;
    let pool = pool::resolve(&raw.pool, document, &paths)?;
    let calibrated = profile::Read::named(raw.profile.as_ref(), document, &paths)?;
    let hardware = match (&raw.hardware, &calibrated) {
        (Some(written), _) => costs::hardware(written, &pool, document, &paths)?,
        (None, Some(calibrated)) => calibrated.costs(&pool)?,
        (None, None) => return Err(document.error("", "hardware is missing: `run` simulates and must know what passes cost; a scenario with `engine` is for `specrouter record`").into()),
    };
    let interference = match (&raw.hardware, &calibrated) {
        (None, Some(calibrated)) => calibrated.interference(&pool),
        _ => Vec::new(),
    };
    // A profile of acceptance alone leaves what is known of costs as it is without one.
    let believed = raw.profile.as_ref().filter(|_| calibrated.as_ref().is_none_or(profile::Read::has_costs));
    let profile = costs::profile(believed, &hardware, &pool, document, &paths)?;
    let measured_kv = calibrated.as_ref().and_then(profile::Read::kv_tokens);
    let kv_tokens = kv_tokens(&raw, &pool, &hardware, measured_kv, document)?;
    let limits = limits(&raw, &pool, kv_tokens, document)?;
    let slo = raw.slo.unwrap_or_default().resolve(Slo::default()).map_err(|e| document.error("slo", e))?;
    let workload = workload(&mut raw, &limits, slo, document, &paths)?;
    let classes = workload.class_names();
    let acceptance = acceptance(&raw, calibrated.as_ref(), &pool, &classes, document)?;
    let arms = arms::resolve(&raw.policies, &pool, &classes, limits.max_block, document)?;
    let loads = loads(&raw, document)?;
    paths.lead_on(&mut raw);
    Ok(Scenario {
        name: name.to_owned(),
        description,
        raw,
        seeds,
        pool,
        hardware,
        interference,
        profile,
        limits,
        kv_tokens,
        workload,
        acceptance: Arc::new(acceptance),
        slo,
        arms,
        loads,
    })
}

impl Scenario {
    /// The workload at another rate of arrivals, in requests per second.
    ///
    /// # Errors
    /// A rate that is no rate, or arrivals without one (which [`resolve`] has ruled out in a sweep).
    pub fn at_rate(&self, rate_per_s: f64) -> anyhow::Result<Workload> {
        let rate = Positive::new(rate_per_s)?;
        let mut config = self.raw.workload.clone();
        if !config.arrivals.as_mut().is_some_and(|arrivals| arrivals.set_rate(rate)) {
            anyhow::bail!("workload.arrivals has no rate to set");
        }
        self.again(&config)
    }

    /// The workload's requests from `users` users who wait for their answers.
    ///
    /// # Errors
    /// None for a resolved scenario.
    pub fn in_closed_loop(&self, users: u32, requests: u32) -> anyhow::Result<Workload> {
        let mut config = self.raw.workload.clone();
        config.arrivals = Some(Arrivals::ClosedLoop { users });
        (config.requests, config.horizon_s) = (Some(u64::from(requests)), None);
        self.again(&config)
    }

    fn again(&self, config: &WorkloadConfig) -> anyhow::Result<Workload> {
        Ok(config.resolve(&Surroundings { context_tokens: self.limits.context, slo: self.slo }, None)?)
    }

    /// What policies know of costs, for people.
    pub fn profile_label(&self) -> String {
        match &self.profile {
            Costs::Device(spec) => format!("data sheet of {}", spec.name),
            other => other.label(),
        }
    }

    /// The scenario as YAML that runs from any folder: defaults written out, paths absolute.
    ///
    /// # Errors
    /// A path that cannot be made absolute (no current folder), or a value that YAML cannot hold.
    pub fn resolved_text(&self) -> anyhow::Result<String> {
        let mut raw = self.raw.clone();
        raw.description = Some(self.description.clone()).filter(|text| !text.is_empty());
        for file in [&mut raw.workload.file, &mut raw.workload.lengths_file].into_iter().flatten() {
            *file = std::path::absolute(&*file)?;
        }
        for (_, text) in raw.path_texts() {
            *text = std::path::absolute(&*text)?.display().to_string();
        }
        Ok(yaml::to_text(&raw)?)
    }
}

fn within(document: &Document, path: &str, value: u32, least: u32, most: u32) -> Result<(), ScenarioError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(document.error(path, format_args!("expected {least} to {most}, got {value}")).into())
}

fn seeds(raw: &RawScenario, document: &Document) -> Result<Vec<u64>, ScenarioError> {
    within(document, "seeds", raw.seeds, 1, MOST_SEEDS)?;
    let last = raw.seed.checked_add(u64::from(raw.seeds) - 1);
    let last = last.ok_or_else(|| {
        document
            .error("seed", format_args!("expected room for {} seeds above it, got {}", raw.seeds, raw.seed))
    })?;
    Ok((raw.seed..=last).collect())
}

fn check_sampling(raw: &RawScenario, document: &Document) -> Result<(), ScenarioError> {
    let Sampling { temperature, top_p, top_k } = raw.sampling;
    if top_p.is_some_and(|p| p.get() <= 0.0) {
        return Err(document.error("sampling.top_p", "expected a share above 0 and at most 1, got 0").into());
    }
    if top_k == Some(0) {
        return Err(document.error("sampling.top_k", "expected at least 1 token, got 0").into());
    }
    match temperature.map(specrouter_routing::units::NonNegative::get) {
        Some(t) if raw.verify == Verify::Greedy && t > 0.0 => Err(document
            .error("sampling.temperature", format_args!("`verify: greedy` samples at temperature 0, got {t}"))
            .into()),
        _ => Ok(()),
    }
}

/// What models cost each other, as the profile in the file `path` measured it.
///
/// # Errors
/// A file that is no profile.
fn measured_interference(path: &Path, pool: &[ModelSpec]) -> anyhow::Result<Vec<Interference>> {
    Ok(read_profile(path)?.interference(pool))
}

fn read_profile(path: &Path) -> anyhow::Result<profile::Read> {
    let source = catalog::file("profile", path)?;
    let read = profile::Read::of(&source.document()?, source.folder.as_deref())?;
    read.with_context(|| format!("{}: expected a profile of `specrouter calibrate`", path.display()))
}

/// The acceptance that the profile in the file `path` measured, for a pool and its classes.
///
/// # Errors
/// A file that is no profile, or one without acceptance.
#[cfg(feature = "engine")]
pub fn measured_acceptance(path: &Path, pool: &[ModelSpec], classes: &[String]) -> anyhow::Result<Source> {
    let read = read_profile(path)?;
    let measured = read.acceptance(pool, classes);
    let measured = measured.with_context(|| format!("{}: there is no acceptance in it", path.display()))?;
    Ok(Source::resolve(&measured, pool, classes).map_err(|e| read.complaint(e))?)
}

/// The scenario's own acceptance, or what its profile measured.
fn acceptance(
    raw: &RawScenario,
    calibrated: Option<&profile::Read>,
    pool: &[ModelSpec],
    classes: &[String],
    document: &Document,
) -> Result<Source, ScenarioError> {
    if let Some(written) = &raw.acceptance {
        return Source::resolve(written, pool, classes).map_err(|e| document.complaint(e).into());
    }
    if let Some(calibrated) = calibrated
        && let Some(measured) = calibrated.acceptance(pool, classes)
    {
        return Source::resolve(&measured, pool, classes).map_err(|e| calibrated.complaint(e));
    }
    let message = "acceptance is missing: say how often each model keeps what another proposed";
    Err(document.error("", message).into())
}

fn kv_tokens(
    raw: &RawScenario,
    pool: &[ModelSpec],
    hardware: &Costs,
    measured: Option<u64>,
    document: &Document,
) -> Result<u64, ScenarioError> {
    let fraction = raw.limits.memory_fraction;
    if fraction.get() <= 0.0 {
        return Err(document
            .error("limits.memory_fraction", "expected a share above 0 and at most 1, got 0")
            .into());
    }
    let sized = costs::kv_tokens(hardware, pool, raw.tensor_parallel, fraction).map_err(|e| match &e {
        CostError::TensorParallel { .. } => document.complaint(&e),
        _ => document.error("hardware", &e),
    })?;
    raw.limits.kv_tokens.or(sized).or(measured).ok_or_else(|| {
        let message = "hardware given as a table or linear terms has no memory to size: say how many tokens of KV cache each model has";
        document.error("limits.kv_tokens", message).into()
    })
}

fn limits(
    raw: &RawScenario,
    pool: &[ModelSpec],
    kv_tokens: u64,
    document: &Document,
) -> Result<Limits, ScenarioError> {
    let limits = Limits {
        max_running: raw.limits.max_running,
        token_budget: raw.limits.token_budget,
        max_block: raw.limits.max_block,
        hold_passes: raw.limits.hold_passes,
        context: pool.iter().map(|model| model.context).min().unwrap_or_default(),
        by_priority: raw.admission == Admission::Priority,
    };
    limits.check().map_err(|e| match &e {
        LimitError::Range { .. } => document.complaint(&e),
        LimitError::Kv(_) => document.error("limits", &e),
    })?;
    // The same check that a replica makes; where memory was sized, the memory is too small.
    Kv::new(&vec![kv_tokens; pool.len()], raw.limits.block_size).map_err(|e| {
        let place = match e {
            KvError::BlockSize(_) => "limits.block_size",
            KvError::Tokens { .. } if raw.limits.kv_tokens.is_some() => "limits.kv_tokens",
            KvError::Tokens { .. } => "hardware",
        };
        document.error(place, e)
    })?;
    Ok(limits)
}

fn workload(
    raw: &mut RawScenario,
    limits: &Limits,
    slo: Slo,
    document: &Document,
    paths: &Paths<'_>,
) -> Result<Workload, ScenarioError> {
    raw.workload.check().map_err(|e| document.complaint(e))?;
    let config = &mut raw.workload;
    for (place, file) in
        [("workload.file", &mut config.file), ("workload.lengths_file", &mut config.lengths_file)]
    {
        if let Some(path) = file {
            *path = paths.resolve(place, path);
        }
    }
    let file = workload_file::read(config)?;
    let around = Surroundings { context_tokens: limits.context, slo };
    config.resolve(&around, file.as_ref()).map_err(|e| document.complaint(e).into())
}

fn loads(raw: &RawScenario, document: &Document) -> Result<Option<Vec<f64>>, ScenarioError> {
    let Some(sweep) = &raw.sweep else { return Ok(None) };
    if !sweep.arrivals.is_empty() {
        let message = "expected no arrivals: they are for `specrouter validate`; `run` sweeps `load`";
        return Err(document.error("sweep.arrivals", message).into());
    }
    let loads: Vec<f64> = sweep.load.iter().copied().map(Positive::get).collect();
    let refuse = |message: String| Err(document.error("sweep.load", message).into());
    if loads.is_empty() || loads.len() > MOST_LOADS {
        return refuse(format!("expected 1 to {MOST_LOADS} loads, got {}", loads.len()));
    }
    if !loads.is_sorted_by(|a, b| a < b) || loads.last().is_some_and(|&most| most > 100.0) {
        return refuse(format!("expected rising loads, at most 100, got {loads:?}"));
    }
    let rated = matches!(
        raw.workload.arrivals,
        Some(Arrivals::Poisson { .. } | Arrivals::Gamma { .. } | Arrivals::Constant { .. })
    );
    if !rated || raw.workload.file.is_some() {
        return refuse(
            "a sweep sets the rate of poisson, gamma or constant arrivals, and the workload has none".into(),
        );
    }
    Ok(Some(loads))
}
