//! A trace's requests once more on real models: its prompts, arrivals and seeds, under other policies.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, bail};
use specrouter_engine::load::Checkpoint;
use specrouter_engine::prompts::PromptText;
use specrouter_engine::settings::EngineConfig;
use specrouter_engine::verify::Verify;
use specrouter_routing::ids::RequestId;
use specrouter_routing::record::{Decoding, TextRecord};
use specrouter_traces::Trace;

use super::recording::{Member, Ready, Recording};
use super::{RawScenario, Replayed};
use crate::catalog::is_path;
use crate::{files, score};

/// The folders of a trace's pool, cheapest first: those of its scenario, or `given` ones. Their weights are those that ran.
///
/// # Errors
/// Folders that are missing, or hold other weights.
pub fn model_folders(trace: &Trace, raw: &RawScenario, given: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let folders: Vec<PathBuf> = match given.is_empty() {
        true => raw.pool.iter().filter(|name| is_path(name)).map(PathBuf::from).collect(),
        false => given.to_vec(),
    };
    let members = &trace.run().models;
    if folders.len() != members.len() {
        bail!(
            "expected the folders of {} models, got {}: name them with --model",
            members.len(),
            folders.len()
        );
    }
    for (folder, member) in folders.iter().zip(members) {
        let digest = files::weights_digest(folder)?;
        if let Some(ran) = member.weights_fnv1a.as_ref().filter(|ran| **ran != digest) {
            bail!(
                "{}: expected the weights of {} that ran ({ran}), got others ({digest})",
                folder.display(),
                member.spec.name
            );
        }
    }
    Ok(folders)
}

/// How a trace's drafts were verified.
pub fn verify_of(decoding: Decoding) -> Verify {
    match decoding {
        Decoding::Coupled => Verify::Coupled,
        Decoding::Speculative | Decoding::Greedy => Verify::Speculative,
    }
}

/// The requests of a replay as a recording: the same policies, limits and arrivals, and the run's own luck.
///
/// # Errors
/// Prompts that were not kept, models that are not there.
pub fn resolve_execution(trace: &Trace, replayed: &Replayed, given: &[PathBuf]) -> anyhow::Result<Recording> {
    let (run, scenario) = (trace.run(), &replayed.scenario);
    let folders = model_folders(trace, &scenario.raw, given)?;
    let texts: BTreeMap<RequestId, TextRecord> =
        trace.texts()?.into_iter().map(|text| (text.request, text)).collect();
    let mut prompts = Vec::with_capacity(replayed.originals.len());
    let mut sampling = None;
    for &(id, class) in &replayed.originals {
        let text = texts.get(&id).with_context(|| format!("request {id}: its text is not in the trace"))?;
        let Some(tokens) = text.prompt.clone() else {
            bail!("request {id}: its prompt was not kept, so it cannot be run again");
        };
        let own = score::sampling(text)?;
        if *sampling.get_or_insert(own) != own {
            bail!("request {id}: expected one way of sampling for all requests, got another");
        }
        let domain = run.classes.get(class.index()).cloned().unwrap_or_default();
        let text = PromptText { id: format!("request {id}"), domain, turns: Vec::new(), reference: None };
        prompts.push(Ready { text, tokens, seed: Some(id.0) });
    }
    let last = folders.last().context("a trace has a model")?;
    let stop = Checkpoint::open(last, &scenario.pool[scenario.pool.len() - 1].name)?.stop_tokens().to_vec();
    let member = |(spec, folder): (_, PathBuf)| Member { spec, folder: Some(folder) };
    let mut raw = scenario.raw.clone();
    (raw.hardware, raw.profile, raw.seeds) = (None, None, 1);
    Ok(Recording {
        name: scenario.name.clone(),
        description: scenario.description.clone(),
        engine: raw.engine.clone().unwrap_or_else(EngineConfig::default),
        raw,
        seeds: vec![run.seed],
        members: scenario.pool.iter().cloned().zip(folders).map(member).collect(),
        pool: scenario.pool.clone(),
        profile: None,
        limits: scenario.limits.clone(),
        kv_tokens: run.kv_tokens,
        prompts,
        tokenizer: None,
        stop,
        workload: scenario.workload.clone(),
        sampling: sampling.context("a trace has a request")?,
        verify: verify_of(run.decoding),
        slo: scenario.slo,
        arms: scenario.arms.clone(),
    })
}
