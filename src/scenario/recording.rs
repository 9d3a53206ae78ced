//! A scenario for `record`: real models, real prompts, the wall clock.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use specrouter_engine::backend::{Finished, Prompt};
use specrouter_engine::load::Checkpoint;
use specrouter_engine::prompts::{PromptText, read_prompts};
use specrouter_engine::sampling::Sampling;
use specrouter_engine::settings::{EngineConfig, Weights};
use specrouter_engine::tokenizer::Tokenizer;
use specrouter_engine::verify::Verify;
use specrouter_routing::ids::{ClassId, ReplicaId};
use specrouter_routing::profile::ModelSpec;
use specrouter_routing::record::TextRecord;
use specrouter_routing::replica::Limits;
use specrouter_routing::slo::Slo;
use specrouter_routing::units::Time;
use specrouter_routing::workload::{
    Arrivals, FileRow, FileSource, FileWorkload, Format, Surroundings, Workload,
};

use super::costs::{self, Costs};
use super::{Arm, Paths, RawScenario, ScenarioError, arms, check_sampling, limits, pool, raw, seeds, yaml};
use crate::catalog;
use crate::yaml::Document;

/// Most bytes of KV memory, Σ over models, when the scenario does not say how many tokens.
const MOST_KV_BYTES: u64 = 4 << 30;

/// A model of the pool.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its size.
    pub spec: ModelSpec,
    /// Its folder; `None` for random weights in a catalog model's shapes.
    pub folder: Option<PathBuf>,
}

/// A prompt, ready to be sent.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Where it is from.
    pub text: PromptText,
    /// What is sent: its first turn, cut in front to `max_prompt_tokens`.
    pub tokens: Vec<u32>,
    /// The seed of its request; the request's id where `None`.
    pub seed: Option<u64>,
}

/// A scenario as `record` means it.
pub struct Recording {
    /// What the user called it.
    pub name: String,
    /// What it shows; may be empty.
    pub description: String,
    /// What was written.
    pub raw: RawScenario,
    /// How passes are run.
    pub engine: EngineConfig,
    /// The seeds, one replication each.
    pub seeds: Vec<u64>,
    /// The models, cheapest first, target last.
    pub members: Vec<Member>,
    /// Their sizes, in the same order.
    pub pool: Vec<ModelSpec>,
    /// What policies know of costs beforehand; `None`: a short measurement.
    pub profile: Option<Costs>,
    /// What the replica allows.
    pub limits: Limits,
    /// Tokens of KV cache that each model has.
    pub kv_tokens: u64,
    /// The prompts, in the file's order.
    pub prompts: Vec<Ready>,
    /// The pool's tokenizer; `None` for dummy weights, whose prompts are random.
    pub tokenizer: Option<Tokenizer>,
    /// Tokens that end an output.
    pub stop: Vec<u32>,
    /// The requests: request `n` is prompt `n`, again from the first after the last.
    pub workload: Workload,
    /// How tokens are sampled, at every level.
    pub sampling: Sampling,
    /// How drafts are verified.
    pub verify: Verify,
    /// The targets of requests whose class states none.
    pub slo: Slo,
    /// The policies, in the scenario's order.
    pub arms: Vec<Arm>,
}

/// Reads the scenario of that name or path, applies the `--set`s, and resolves it for `record`.
///
/// # Errors
/// [`ScenarioError`], naming the place, what was expected and what came.
pub fn resolve_recording(name: &str, sets: &[String]) -> Result<Recording, ScenarioError> {
    resolve_part(name, sets, &Part::default())
}

/// The arrivals that a scenario's sweep names, for people; none without a sweep.
///
/// # Errors
/// As [`resolve_recording`], as far as that reads the scenario.
pub fn swept_arrivals(name: &str, sets: &[String]) -> Result<Vec<String>, ScenarioError> {
    let mut document = catalog::scenario(name)?.document()?;
    for set in sets {
        document.set(set)?;
    }
    let raw: RawScenario = document.read()?;
    let arrivals = raw.sweep.map(|sweep| sweep.arrivals).unwrap_or_default();
    Ok(arrivals.iter().map(Arrivals::label).collect())
}

/// Which part of a scenario is recorded.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// Every second prompt of each domain, from the first (0) or the second (1) on, and half of the requests.
    pub half: Option<usize>,
    /// Index in the sweep's arrivals of those that take the workload's place.
    pub arrivals: Option<usize>,
}

/// Reads a part of the scenario; otherwise as [`resolve_recording`].
///
/// # Errors
/// As [`resolve_recording`].
pub fn resolve_part(name: &str, sets: &[String], part: &Part) -> Result<Recording, ScenarioError> {
    let source = catalog::scenario(name)?;
    let mut document = source.document()?;
    for set in sets {
        document.set(set)?;
    }
    let mut raw: RawScenario = document.read()?;
    let description = raw.description.clone().unwrap_or_else(|| source.opening_comment());
    let paths = Paths { document: &document, folder: source.folder.as_deref() };

    let Some(engine) = raw.engine.clone() else {
        return Err(document.error("", "engine is missing: `record` runs real models and must know where, e.g. `engine: {device: cpu}`; a scenario with `hardware` is for `specrouter run`").into());
    };
    engine.check().map_err(|e| document.error("engine", e))?;
    let seeds = seeds(&raw, &document)?;
    for (place, value) in [("replicas", raw.replicas), ("tensor_parallel", raw.tensor_parallel)] {
        if value != 1 {
            let message = format!("expected 1: `record` runs one replica on one device, got {value}");
            return Err(document.error(place, message).into());
        }
    }
    match (raw.sweep.take(), part.arrivals) {
        (None, None) => {}
        (Some(sweep), Some(index)) if index < sweep.arrivals.len() => {
            raw.workload.arrivals = Some(sweep.arrivals[index].clone());
        }
        _ => {
            return Err(document
                .error("sweep", "expected no sweep: `record` runs the workload's own arrivals")
                .into());
        }
    }
    check_sampling(&raw, &document)?;
    let (sampling, verify) = sampling(&raw, &document)?;
    let members = members(&raw, engine.weights, &document, &paths)?;
    let pool: Vec<ModelSpec> = members.iter().map(|member| member.spec.clone()).collect();
    let profile = match &raw.profile {
        Some(written) => Some(costs::known("profile", written, &pool, &document, &paths)?),
        None => None,
    };
    let kv_tokens = kv_tokens(&raw, &pool, &document)?;
    let limits = limits(&raw, &pool, kv_tokens, &document)?;
    let slo = raw.slo.unwrap_or_default().resolve(Slo::default()).map_err(|e| document.error("slo", e))?;
    let (tokenizer, stop) = words(&members, &document)?;
    let mut prompts = prompts(&mut raw, tokenizer.as_ref(), pool[pool.len() - 1].vocab, &document, &paths)?;
    if let Some(half) = part.half {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        prompts.retain(|prompt| {
            let count = seen.entry(prompt.text.domain.clone()).or_default();
            *count += 1;
            (*count - 1) % 2 == half
        });
        raw.workload.requests = raw.workload.requests.map(|requests| requests.div_ceil(2));
        if prompts.is_empty() {
            return Err(document
                .error("workload.file", "expected two prompts of a domain at least, to halve")
                .into());
        }
    }
    let workload = workload(&raw, &prompts, &limits, slo, &document)?;
    let arms = arms::resolve(&raw.policies, &pool, &workload.class_names(), limits.max_block, &document)?;
    if let Some(arm) = arms.iter().position(|arm| arm.other_output) {
        let place = format!("policies[{arm}]");
        let message = "expected a policy whose output is the target's; record the other model as the target of a pool of its own";
        return Err(document.error(&place, message).into());
    }
    paths.lead_on(&mut raw);
    Ok(Recording {
        name: name.to_owned(),
        description,
        raw,
        engine,
        seeds,
        members,
        pool,
        profile,
        limits,
        kv_tokens,
        prompts,
        tokenizer,
        stop,
        workload,
        sampling,
        verify,
        slo,
        arms,
    })
}

impl Recording {
    /// The contents of request `id` under `seed`.
    pub fn prompt(&self, id: u64) -> (&Ready, Prompt) {
        let ready = &self.prompts[(id % self.prompts.len() as u64) as usize];
        let tokens = ready.tokens.clone();
        let seed = ready.seed.unwrap_or(id);
        (ready, Prompt { tokens, sampling: self.sampling, seed, stop: self.stop.clone() })
    }

    /// A finished text as its trace has it, prompt included.
    pub fn record_of(&self, text: &Finished) -> TextRecord {
        TextRecord {
            replica: ReplicaId(0),
            request: text.request,
            seed: self.prompt(text.request.0).1.seed,
            temperature: self.sampling.temperature() as f32,
            top_k: self.sampling.top_k(),
            top_p: self.sampling.top_p().map(|p| p as f32),
            prompt: Some(text.text[..text.prompt_tokens].to_vec()),
            output: text.output().to_vec(),
            stopped: text.stopped,
        }
    }

    /// The scenario as YAML that runs from any folder: defaults written out, paths absolute.
    ///
    /// # Errors
    /// A path that cannot be made absolute (no current folder), or a value that YAML cannot hold.
    pub fn resolved_text(&self) -> anyhow::Result<String> {
        let mut raw = self.raw.clone();
        raw.description = Some(self.description.clone()).filter(|text| !text.is_empty());
        if let Some(file) = &mut raw.workload.file {
            *file = std::path::absolute(&*file)?;
        }
        for (_, text) in raw.path_texts() {
            *text = std::path::absolute(&*text)?.display().to_string();
        }
        Ok(yaml::to_text(&raw)?)
    }
}

fn sampling(raw: &RawScenario, document: &Document) -> Result<(Sampling, Verify), ScenarioError> {
    let (written, greedy) = (&raw.sampling, raw.verify == raw::Verify::Greedy);
    let temperature = written.temperature.map_or(if greedy { 0.0 } else { 1.0 }, |t| t.get());
    let top_p = written.top_p.map(|p| p.get());
    let sampling =
        Sampling::new(temperature, written.top_k, top_p).map_err(|e| document.error("sampling", e))?;
    let verify = match raw.verify {
        raw::Verify::Coupled => Verify::Coupled,
        // At temperature 0 tokens must agree either way.
        raw::Verify::Speculative | raw::Verify::Greedy => Verify::Speculative,
    };
    Ok((sampling, verify))
}

/// The pool: folders with weights, or catalog names where weights are random.
fn members(
    raw: &RawScenario,
    weights: Weights,
    document: &Document,
    paths: &Paths<'_>,
) -> Result<Vec<Member>, ScenarioError> {
    let specs = pool::resolve(&raw.pool, document, paths)?;
    let member = |(index, (spec, name)): (usize, (ModelSpec, &String))| {
        let place = format!("pool[{index}]");
        let folder = catalog::is_path(name).then(|| paths.resolve(&place, Path::new(name)));
        match weights {
            Weights::Dummy => Ok(Member { spec, folder: None }),
            Weights::Stored => match folder.filter(|folder| folder.is_dir()) {
                Some(folder) => Ok(Member { spec, folder: Some(folder) }),
                None => Err(document
                    .error(&place, format_args!("expected a folder with weights, got `{name}`; `engine: {{weights: dummy}}` runs any catalog model with random ones"))
                    .into()),
            },
        }
    };
    specs.into_iter().zip(&raw.pool).enumerate().map(member).collect()
}

/// The tokenizer that the pool shares, and the tokens that end an output: the target's.
fn words(members: &[Member], document: &Document) -> Result<(Option<Tokenizer>, Vec<u32>), ScenarioError> {
    let mut target: Option<Tokenizer> = None;
    for (index, member) in members.iter().enumerate().rev() {
        let Some(folder) = &member.folder else { return Ok((None, Vec::new())) };
        let at = |e: &dyn std::fmt::Display| document.error(&format!("pool[{index}]"), e);
        let own = Tokenizer::open(folder, &member.spec.name).map_err(|e| at(&e))?;
        own.check_fits(member.spec.vocab).map_err(|e| at(&e))?;
        match &target {
            None => target = Some(own),
            Some(target) => {
                specrouter_engine::tokenizer::same_vocabulary(&own, target).map_err(|e| at(&e))?
            }
        }
    }
    let last = &members[members.len() - 1];
    let Some(folder) = &last.folder else { return Ok((None, Vec::new())) };
    let checkpoint = Checkpoint::open(folder, &last.spec.name)
        .map_err(|e| document.error(&format!("pool[{}]", members.len() - 1), e))?;
    Ok((target, checkpoint.stop_tokens().to_vec()))
}

/// What fits [`MOST_KV_BYTES`], and no more than every place could use.
fn kv_tokens(raw: &RawScenario, pool: &[ModelSpec], document: &Document) -> Result<u64, ScenarioError> {
    if let Some(tokens) = raw.limits.kv_tokens {
        return Ok(tokens);
    }
    let context = pool.iter().map(|model| model.context).min().unwrap_or_default();
    let want = u64::from(raw.limits.max_running) * u64::from(context);
    // The engine keeps f32.
    let bytes: u64 =
        pool.iter().map(|m| u64::from(m.layers) * u64::from(m.kv_heads) * u64::from(m.head_dim) * 8).sum();
    let fits = MOST_KV_BYTES / bytes.max(1);
    if fits < u64::from(raw.limits.block_size) {
        let message = format!(
            "a token of the pool takes {bytes} bytes of KV memory, more than the default leaves room for: say how many tokens each model has"
        );
        return Err(document.error("limits.kv_tokens", message).into());
    }
    Ok(want.min(fits))
}

fn prompts(
    raw: &mut RawScenario,
    tokenizer: Option<&Tokenizer>,
    vocab: u32,
    document: &Document,
    paths: &Paths<'_>,
) -> Result<Vec<Ready>, ScenarioError> {
    let place = "workload.file";
    let Some(file) = &mut raw.workload.file else {
        return Err(document
            .error("workload", "file is missing: `record` sends the prompts of a JSONL file")
            .into());
    };
    if !matches!(raw.workload.format, None | Some(Format::PromptsJsonl)) {
        return Err(document.error("workload.format", "expected prompts_jsonl: `record` sends text").into());
    }
    *file = paths.resolve(place, file);
    raw.workload.format = Some(Format::PromptsJsonl);
    let most = raw.workload.max_prompt_tokens.map_or(usize::MAX, |most| most as usize);
    let texts = read_prompts(file).map_err(|e| document.error(place, e))?;
    texts
        .into_iter()
        .enumerate()
        .map(|(index, text)| {
            let tokens = match tokenizer {
                Some(tokenizer) => tokenizer
                    .encode_user(&text.turns[0])
                    .map_err(|e| document.error(place, format_args!("prompt `{}`: {e}", text.id)))?,
                // Of noise the length is all that matters: some four bytes are a token.
                None => (0..text.turns[0].len().div_ceil(4) as u32)
                    .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(index as u32 * 97)) % vocab)
                    .collect(),
            };
            let tokens = tokens[tokens.len().saturating_sub(most)..].to_vec();
            Ok(Ready { text, tokens, seed: None })
        })
        .collect()
}

fn workload(
    raw: &RawScenario,
    prompts: &[Ready],
    limits: &Limits,
    slo: Slo,
    document: &Document,
) -> Result<Workload, ScenarioError> {
    let mut class_names: Vec<String> = raw.workload.classes.iter().map(|class| class.name.clone()).collect();
    let given = !class_names.is_empty();
    let mut rows = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let domain = &prompt.text.domain;
        let class = match class_names.iter().position(|name| name == domain) {
            Some(class) => class,
            None if given => {
                let message = format!(
                    "prompt `{}` is of domain `{domain}`, and no class is called so: {}",
                    prompt.text.id,
                    class_names.join(", ")
                );
                return Err(document.error("workload.classes", message).into());
            }
            None => {
                class_names.push(domain.clone());
                class_names.len() - 1
            }
        };
        let class = Some(ClassId(u16::try_from(class).unwrap_or(u16::MAX)));
        let prompt_tokens = u32::try_from(prompt.tokens.len()).unwrap_or(u32::MAX);
        // An output is as long as it becomes; `max_tokens` and the context bound it.
        rows.push(FileRow { arrival: Time::ZERO, prompt_tokens, output_tokens: 1, class, terms: None });
    }
    let name = raw.workload.file.as_ref().map_or_else(String::new, |file| file.display().to_string());
    let source = FileSource::InOrder(rows.into());
    let file = FileWorkload { name, format: Format::PromptsJsonl, source, class_names, notes: Vec::new() };
    let around = Surroundings { context_tokens: limits.context, slo };
    raw.workload.resolve(&around, Some(&file)).map_err(|e| document.complaint(e).into())
}
