//! A scenario made of a trace: its requests, its texts and its pool, under any policy on any hardware.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use specrouter_routing::ids::{ClassId, RequestId};
use specrouter_routing::profile::ModelSpec;
use specrouter_routing::record::{RequestRecord, RoundRecord, Status, TokenRecord};
use specrouter_routing::slo::Slo;
use specrouter_routing::units::{Span, Time};
use specrouter_routing::workload::{
    Arrivals, ClassConfig, FileRow, FileSource, FileWorkload, Format, Surroundings, Terms, Workload,
    WorkloadConfig,
};
use specrouter_sim::acceptance::{Recorded, Source};
use specrouter_traces::{Table, Trace};

use super::costs;
use super::raw::CostsRef;
use super::{Paths, RawScenario, Scenario, arms, kv_tokens, limits, measured_interference, pool, seeds};
use crate::catalog::is_path;
use crate::pass_times;
use crate::trace;
use crate::yaml::Document;

/// Seeds of luck where a trace is sampled.
const REPLICATIONS: u32 = 10;

/// What was asked of a replay besides the trace.
#[derive(Clone, Debug, Default)]
pub struct Asked<'a> {
    /// Hardware that takes the place of the trace's own pass times.
    pub hardware: Option<&'a str>,
    /// A profile that takes their place, and is what policies know.
    pub profile: Option<&'a str>,
    /// Policies that take the place of the recorded scenario's, as YAML.
    pub policies: &'a [String],
    /// Luck is drawn this many times.
    pub seeds: Option<u32>,
    /// Requests replayed, the trace's over and over; all of them once by default.
    pub requests: Option<u64>,
    /// Overrides of the recorded scenario.
    pub sets: &'a [String],
}

/// A trace, ready to be replayed.
pub struct Replayed {
    /// The trace as a scenario: recorded arrivals, lengths and verdicts.
    pub scenario: Scenario,
    /// What its rounds executed, under the ids that the scenario gives the requests; empty without that table.
    pub rounds: Vec<RoundRecord>,
    #[cfg_attr(not(feature = "engine"), expect(dead_code, reason = "for running them again"))]
    /// The ids and classes that the requests have in the trace, in the scenario's order.
    pub originals: Vec<(RequestId, ClassId)>,
}

/// Makes a scenario of `trace`.
///
/// # Errors
/// A trace without scored requests, tables that do not fit each other, and whatever of the scenario or what was asked
/// cannot be.
pub fn resolve_replay(trace: &Trace, asked: &Asked<'_>) -> anyhow::Result<Replayed> {
    let run = trace.run();
    let (document, mut raw) = trace::scenario(trace, &sets(asked))?;
    let paths = Paths { document: &document, folder: None };
    let pool: Vec<ModelSpec> = run.models.iter().map(|member| member.spec.clone()).collect();
    pool::check_pool(&pool).map_err(|message| anyhow::anyhow!("{}: {message}", trace.folder().display()))?;
    // How often luck is drawn has nothing to do with how often was recorded.
    if asked.seeds.is_none() && !document.was_set("seeds") {
        raw.seeds = if run.decoding.by_agreement() { 1 } else { REPLICATIONS };
    }
    let seeds = seeds(&raw, &document)?;

    let mut texts = Texts::read(trace)?;
    let (hardware, interference) = match (&raw.hardware, &raw.profile) {
        (Some(written), _) => (costs::hardware(written, &pool, &document, &paths)?, Vec::new()),
        (None, Some(written)) => {
            let interference = match written {
                CostsRef::Named(name) if is_path(name) => measured_interference(Path::new(name), &pool)?,
                _ => Vec::new(),
            };
            (costs::known("profile", written, &pool, &document, &paths)?, interference)
        }
        (None, None) => {
            let (costs, interference, said) = pass_times::of_trace(trace, &pool)?;
            texts.notes.push(said);
            (costs, interference)
        }
    };
    // On hardware of the catalog policies know its data sheet; what was measured they know as well.
    let profile = match &raw.profile {
        Some(written) => costs::known("profile", written, &pool, &document, &paths)?,
        None => hardware.clone(),
    };
    let kv_tokens = match &raw.hardware {
        Some(_) => kv_tokens(&raw, &pool, &hardware, None, &document)?,
        None => raw.limits.kv_tokens.unwrap_or(run.kv_tokens),
    };
    let limits = limits(&raw, &pool, kv_tokens, &document)?;
    let slo = raw.slo.unwrap_or_default().resolve(Slo::default()).map_err(|e| document.error("slo", e))?;
    let around = Surroundings { context_tokens: limits.context, slo };
    let workload = workload(trace, &raw, &document, &texts, asked.requests, &around)?;
    let arms = arms::resolve(&raw.policies, &pool, &workload.class_names(), limits.max_block, &document)?;
    if let Some(arm) = arms.iter().find(|arm| arm.other_output) {
        bail!("{}: its output is another target's, and the trace holds this target's text alone", arm.name);
    }
    let source = Recorded::new(pool.len(), run.decoding, &texts.tokens, texts.of.clone())
        .with_context(|| format!("{}", trace.folder().display()))?;
    let rounds = texts.rounds(trace)?;
    let scenario = Scenario {
        name: trace.folder().display().to_string(),
        description: description(trace),
        raw,
        seeds,
        pool,
        hardware,
        interference,
        profile,
        limits,
        kv_tokens,
        workload,
        acceptance: Arc::new(Source::Recorded(source)),
        slo,
        arms,
        loads: None,
    };
    let originals = texts.requests.iter().map(|request| (request.id, request.class)).collect();
    Ok(Replayed { scenario, rounds, originals })
}

/// What was asked, as overrides of the recorded scenario.
fn sets(asked: &Asked<'_>) -> Vec<String> {
    let mut sets = asked.sets.to_vec();
    sets.extend(asked.seeds.map(|seeds| format!("seeds={seeds}")));
    sets.extend(asked.hardware.map(|hardware| format!("hardware={hardware}")));
    sets.extend(asked.profile.map(|profile| format!("profile={profile}")));
    if !asked.policies.is_empty() {
        sets.push(format!("policies=[{}]", asked.policies.join(", ")));
    }
    sets
}

fn description(trace: &Trace) -> String {
    let run = trace.run();
    format!(
        "A replay of requests recorded under {} with seed {} on {}. {}",
        run.policy,
        run.seed,
        run.device,
        match run.decoding.by_agreement() {
            true =>
                "What was kept is certain for every plan, so there is no luck: differences are facts of this trace.",
            false =>
                "What was kept is drawn again for every seed with the recorded chances: intervals are conditional on this trace.",
        }
    )
}

/// The finished and scored requests of a trace.
struct Texts {
    requests: Vec<RequestRecord>,
    /// Positions of the texts, each in a row.
    tokens: Vec<TokenRecord>,
    /// The text of each request.
    of: Vec<u32>,
    notes: Vec<String>,
}

impl Texts {
    fn read(trace: &Trace) -> anyhow::Result<Self> {
        let mut all = trace.requests()?;
        all.sort_by_key(|request| request.id);
        if !trace.has(Table::Tokens) {
            let how = match trace.has(Table::Texts) {
                true => "`specrouter trace score` makes them of its texts",
                false => "`specrouter record` keeps them, in full tables",
            };
            bail!(
                "{}: expected scores of every output token, got no such table; {how}",
                trace.folder().display()
            );
        }
        let tokens = trace.tokens()?;
        let mut text_of: BTreeMap<RequestId, u32> = BTreeMap::new();
        let mut lengths: Vec<u32> = Vec::new();
        for token in &tokens {
            let next = text_of.len() as u32;
            let text = *text_of.entry(token.request).or_insert(next);
            if text == next {
                lengths.push(0);
            }
            lengths[text as usize] += 1;
        }
        let total = all.len();
        let mut requests = Vec::with_capacity(total);
        let mut of = Vec::with_capacity(total);
        let mut unscored = 0;
        for request in all {
            match text_of.get(&request.id) {
                Some(&text) if request.status == Status::Finished => {
                    let scored = lengths[text as usize];
                    if scored != request.output_tokens {
                        bail!(
                            "{}: request {}: expected the scores of {} output tokens, got {scored}",
                            trace.folder().display(),
                            request.id,
                            request.output_tokens
                        );
                    }
                    requests.push(request);
                    of.push(text);
                }
                _ => unscored += 1,
            }
        }
        if requests.is_empty() {
            bail!(
                "{}: expected finished requests with scores, got none of {total}; `specrouter trace check` says what is missing",
                trace.folder().display()
            );
        }
        let note = || format!("{unscored} of {total} requests are left out: not finished, or not scored");
        let notes = (unscored > 0).then(note).into_iter().collect();
        Ok(Self { requests, tokens, of, notes })
    }

    /// What the rounds executed, by the new ids.
    fn rounds(&self, trace: &Trace) -> anyhow::Result<Vec<RoundRecord>> {
        if trace.manifest().rows(Table::Rounds).is_none() {
            return Ok(Vec::new());
        }
        let renamed: BTreeMap<RequestId, u64> =
            self.requests.iter().enumerate().map(|(new, request)| (request.id, new as u64)).collect();
        let mut rounds = trace.rounds()?;
        rounds.retain_mut(|round| match renamed.get(&round.request) {
            Some(&new) => {
                round.request = RequestId(new);
                true
            }
            None => false,
        });
        Ok(rounds)
    }

    /// The requests `count` times over; each time later by the trace's own span.
    fn rows(&self, count: u64) -> Vec<FileRow> {
        let first = self.requests.first().map_or(Time::ZERO, |request| request.arrival);
        let last = self.requests.last().map_or(Time::ZERO, |request| request.arrival);
        let n = self.requests.len() as u64;
        // As if the next first request came one mean gap after the last.
        let span = (last - first).nanos().saturating_mul(n) / (n - 1).max(1);
        let row = |index: u64| {
            let request = &self.requests[(index % n) as usize];
            let shift = Span::from_nanos(span.saturating_mul(index / n));
            FileRow {
                arrival: request.arrival + shift,
                prompt_tokens: request.prompt_tokens,
                output_tokens: request.output_tokens,
                class: Some(request.class),
                terms: Some(Terms { limit: request.limit, priority: request.priority, slo: request.slo }),
            }
        };
        (0..count).map(row).collect()
    }
}

fn workload(
    trace: &Trace,
    raw: &RawScenario,
    document: &Document,
    texts: &Texts,
    asked: Option<u64>,
    around: &Surroundings,
) -> anyhow::Result<Workload> {
    let run = trace.run();
    let count = asked.unwrap_or(texts.requests.len() as u64);
    // Arrivals are the recorded ones, unless others are asked for.
    let arrivals = match (document.was_set("workload.arrivals"), run.users) {
        (true, _) => raw.workload.arrivals.clone(),
        (false, Some(users)) => Some(Arrivals::ClosedLoop { users }),
        (false, None) => None,
    };
    let source = match arrivals {
        Some(_) => FileSource::InOrder(texts.rows(texts.requests.len() as u64).into()),
        None => FileSource::Recorded(texts.rows(count).into()),
    };
    let config = WorkloadConfig {
        requests: Some(count),
        horizon_s: None,
        arrivals,
        file: Some(trace.folder().to_path_buf()),
        format: None,
        lengths_file: None,
        speed: raw.workload.speed,
        classes: run
            .classes
            .iter()
            .map(|name| ClassConfig { name: name.clone(), ..ClassConfig::default() })
            .collect(),
        max_tokens: None,
        max_prompt_tokens: None,
    };
    let file = FileWorkload {
        name: trace.folder().display().to_string(),
        format: Format::Csv,
        source,
        class_names: run.classes.clone(),
        notes: texts.notes.clone(),
    };
    Ok(config.resolve(around, Some(&file))?)
}

/// The name of a trace's replay as a folder under `out/`.
pub fn default_name(trace: &Path) -> String {
    let parts: Vec<String> = trace
        .components()
        .rev()
        .take(2)
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    format!("replay-{}", parts.into_iter().rev().collect::<Vec<_>>().join("-"))
}
