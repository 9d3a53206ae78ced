//! The models of a recording, opened once, and what runs them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use specrouter_engine::cores::OwnCore;
use specrouter_engine::kernels::Path as KernelPath;
use specrouter_engine::pool;
use specrouter_engine::profile::{Grid, measure};
use specrouter_engine::settings::Device;
use specrouter_engine::stopwatch::Stopwatch;
use specrouter_reports::{ArmResult, SeedSummary};
use specrouter_routing::profile::{PassCosts, Table, TableRow};
use specrouter_traces::Member;

use super::arms::{self, Models, Surroundings};
use crate::commands::run::progress;
use crate::failure::Failure;
use crate::files;
use crate::scenario::{self, Recording};

/// The models of a pool, opened, with what policies know of them.
pub struct Rig {
    models: Models,
    belief: Arc<dyn PassCosts>,
    members: Vec<Member>,
    threads: usize,
    /// What runs them, for people.
    pub device: String,
}

impl Rig {
    /// Opens the models and, where no profile is named, measures them shortly.
    ///
    /// # Errors
    /// A model that cannot be opened or measured; Ctrl-C.
    pub fn open(recording: &Recording, stop: &AtomicBool) -> Result<Self, Failure> {
        let threads = pool::share_work(recording.engine.threads);
        let mut models = open(recording)?;
        let _own = OwnCore::take(threads);
        let belief = belief(recording, &mut models, stop)?;
        Ok(Self { models, belief, members: members(recording)?, device: device(recording, threads), threads })
    }

    /// Records every arm under every seed, the traces below `out`: by arm, its summaries. Seed by seed, so that the
    /// machine's moods meet every arm alike. Ctrl-C ends it early.
    ///
    /// # Errors
    /// A policy's bad answer, a pass that failed, the disk.
    pub fn run(
        &mut self,
        recording: &Recording,
        out: &Path,
        quiet: bool,
        stop: &AtomicBool,
    ) -> anyhow::Result<Vec<Vec<SeedSummary>>> {
        let jobs = recording.seeds.len() * recording.arms.len();
        let bar = progress::bar(recording.workload.size().requests * jobs as u64, jobs, quiet);
        let mut done: Vec<Vec<SeedSummary>> = recording.arms.iter().map(|_| Vec::new()).collect();
        let _own = OwnCore::take(self.threads);
        'seeds: for (index, &seed) in recording.seeds.iter().enumerate() {
            for turn in 0..recording.arms.len() {
                // Each seed begins with another arm.
                let arm = (turn + index) % recording.arms.len();
                let around = Surroundings {
                    out,
                    belief: Arc::clone(&self.belief),
                    bar: &bar,
                    stop,
                    members: &self.members,
                    device: &self.device,
                    first: index == 0,
                };
                match arms::record(recording, &recording.arms[arm], seed, &mut self.models, &around)? {
                    Some(summary) => done[arm].push(summary),
                    None => break 'seeds,
                }
                bar.job_done(0);
            }
        }
        bar.finish();
        Ok(done)
    }
}

/// Seeds that every arm has finished, in the scenario's order.
pub fn arm_results(recording: &Recording, done: Vec<Vec<SeedSummary>>) -> Vec<ArmResult> {
    let seeds = done.iter().map(Vec::len).min().unwrap_or(0);
    let pool: Vec<String> = recording.pool.iter().map(|model| model.name.clone()).collect();
    let arms = recording.arms.iter().zip(done).filter(|_| seeds > 0).map(|(arm, mut summaries)| {
        summaries.truncate(seeds);
        ArmResult {
            policy: arm.name.clone(),
            label: String::new(),
            other_output: false,
            load: None,
            pool: pool.clone(),
            seeds: summaries,
        }
    });
    arms.collect()
}

/// The pool's models as a trace names them.
fn members(recording: &Recording) -> anyhow::Result<Vec<Member>> {
    let member = |member: &scenario::Member| {
        let weights_fnv1a = member.folder.as_deref().map(files::weights_digest).transpose()?;
        Ok(Member { spec: member.spec.clone(), weights_fnv1a })
    };
    recording.members.iter().map(member).collect()
}

/// Opens the pool's models.
fn open(recording: &Recording) -> anyhow::Result<Models> {
    let open = |member: &scenario::Member| match &member.folder {
        Some(folder) => pool::open(folder, &member.spec.name, &recording.engine, recording.kv_tokens)
            .with_context(|| format!("cannot open {}", folder.display())),
        None => Ok(pool::dummy(&member.spec, &recording.engine, recording.kv_tokens)?),
    };
    recording.members.iter().map(open).collect()
}

/// What policies know of pass times: the scenario's profile, or a short measurement.
fn belief(
    recording: &Recording,
    models: &mut Models,
    stop: &AtomicBool,
) -> Result<Arc<dyn PassCosts>, Failure> {
    if let Some(profile) = &recording.profile {
        let members: Vec<usize> = (0..recording.pool.len()).collect();
        return Ok(profile.belief(&recording.pool, &members, 1));
    }
    let grid = Grid::quick(recording.limits.max_running, recording.limits.context);
    let mut rows: Vec<TableRow> = Vec::new();
    for (model, spec) in models.iter_mut().zip(&recording.pool) {
        let mut own = measure(model, &grid, Stopwatch::start(), &mut || !stop.load(Ordering::Relaxed))
            .map_err(anyhow::Error::new)?;
        own.iter_mut().for_each(|row| row.model.clone_from(&spec.name));
        rows.extend(own);
    }
    if stop.load(Ordering::Relaxed) {
        return Err(Failure::Interrupted("no arm had begun".into()));
    }
    let table = Table::new(&recording.pool, &rows).map_err(anyhow::Error::new);
    Ok(Arc::new(table.context("the models' KV memory (limits.kv_tokens) is too small to time a pass")?))
}

fn device(recording: &Recording, threads: usize) -> String {
    match recording.engine.device {
        Device::Cpu => format!("cpu, {threads} threads, {}", KernelPath::best().as_str()),
        device => device.to_string(),
    }
}
