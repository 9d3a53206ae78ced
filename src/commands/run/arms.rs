//! The arms of a run, on all cores. Results do not depend on how many.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Context;
use specrouter_reports::{Collector, Facts, Keep, SeedResult, SeedSummary};
use specrouter_routing::hand_on;
use specrouter_routing::luck::Luck;
use specrouter_routing::record::{RequestRecord, RoundRecord, Sink, Status, Wants};
use specrouter_routing::workload::Workload;
use specrouter_sim::acceptance::Source;
use specrouter_sim::drive::{Ended, Progress};
use specrouter_traces::{Member, Mode, Run, Tables, TraceWriter};

use super::progress::Bar;
use crate::keep::{Both, folder};
use crate::scenario::{self, Scenario};
use crate::simulate::{Seed, simulate};

/// One arm at one load under one seed, as indices.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// Index of the load.
    pub load: usize,
    /// Index of the arm.
    pub arm: usize,
    /// Index of the seed.
    pub seed: usize,
}

/// What a job left behind.
pub struct Done {
    /// Its metrics.
    pub summary: SeedSummary,
    /// Prices that lay off a measured table's grid.
    pub extrapolations: u64,
}

/// Runs every job on `threads` threads; a job that was not run, or was interrupted, is `None`.
///
/// # Errors
/// The first job's error, in order of jobs.
pub fn run_all(
    scenario: &Scenario,
    workloads: &[(Option<f64>, Workload)],
    jobs: &[Job],
    threads: usize,
    out: &Path,
    bar: &Bar,
    stop: &AtomicBool,
) -> anyhow::Result<Vec<Option<Done>>> {
    on_threads(jobs.len(), threads, stop, &|index| {
        let job = jobs[index];
        let (load, workload) = &workloads[job.load];
        run_one(scenario, job, *load, workload, out, bar, stop)
    })
}

/// Calls `run` with every index below `count` on `threads` threads; what was not run, or was interrupted, is `None`.
///
/// # Errors
/// The first call's error, in order of indices. It raises `stop`.
pub fn on_threads<T: Send>(
    count: usize,
    threads: usize,
    stop: &AtomicBool,
    run: &(dyn Fn(usize) -> anyhow::Result<Option<T>> + Sync),
) -> anyhow::Result<Vec<Option<T>>> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<anyhow::Result<Option<T>>>>> =
        (0..count).map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(slot) = results.get(index) else { return };
                    let result = run(index);
                    if result.is_err() {
                        stop.store(true, Ordering::Relaxed); // The others would be for nothing.
                    }
                    *slot.lock().expect("no thread panics while it holds a result") = Some(result);
                }
            });
        }
    });
    let results =
        results.into_iter().map(|slot| slot.into_inner().expect("no thread panics while it holds a result"));
    results.map(|result| result.unwrap_or(Ok(None))).collect()
}

fn run_one(
    scenario: &Scenario,
    job: Job,
    load: Option<f64>,
    workload: &Workload,
    out: &Path,
    bar: &Bar,
    stop: &AtomicBool,
) -> anyhow::Result<Option<Done>> {
    let (arm, seed) = (&scenario.arms[job.arm], scenario.seeds[job.seed]);
    let pool: Vec<String> = arm.members.iter().map(|&index| scenario.pool[index].name.clone()).collect();
    let classes: Vec<String> = workload.classes().iter().map(|class| class.name.clone()).collect();
    let tables = match scenario.raw.output.tables.unwrap_or_default() {
        scenario::Tables::Summary => Tables::Summary,
        scenario::Tables::Requests => Tables::Requests,
        scenario::Tables::Full => Tables::Full,
    };
    let mut collector =
        Collector::with_capacity(Keep::Summary, workload.size().requests.min(1 << 20) as usize);
    // One timeline is enough to look at; summaries are for speed.
    if tables != Tables::Summary && job.seed == 0 && load.is_none() {
        collector = collector.with_timeline();
    }
    let folder = folder(out, &arm.name, load, seed);
    let writer = if tables == Tables::Summary {
        None
    } else {
        let run = Run {
            tool_version: env!("CARGO_PKG_VERSION").into(),
            scenario: scenario.resolved_text()?,
            seed,
            policy: arm.name.clone(),
            models: members(scenario, arm),
            classes: classes.clone(),
            device: format!("simulated {}", scenario.hardware.label()),
            decoding: scenario.raw.decoding(),
            mode: Mode::Simulated,
            kv_tokens: scenario.kv_tokens,
            users: workload.users(),
        };
        Some(TraceWriter::create(&folder, tables, run)?)
    };
    // Scores are of the whole pool: an arm that hosts less of it has none.
    let scores = tables == Tables::Full && arm.members.len() == scenario.pool.len();
    let both = Both { collector, writer };
    let mut sink = Scoring {
        both,
        source: scores.then_some(&*scenario.acceptance),
        luck: Luck::new(seed),
        models: pool.len(),
    };
    let mut told = 0;
    let run = simulate(scenario, arm, workload, seed, &mut sink, &mut |progress| {
        bar.advance(progress.ended - told, progress.events);
        told = progress.ended;
        !stop.load(Ordering::Relaxed)
    });
    let run = run.with_context(|| format!("{}, seed {seed}", arm.name))?;
    bar.job_done(workload.size().requests.saturating_sub(told));
    if run.ended == Ended::Interrupted {
        if sink.both.writer.is_some() {
            // What was cut off is no trace of anything.
            let _ = std::fs::remove_dir_all(&folder);
        }
        return Ok(None);
    }
    let sink = sink.both;
    if let Some(writer) = sink.writer {
        writer.finish()?;
    }
    if let Some(timeline) = &sink.collector.timeline {
        let path = folder.join("timeline.json");
        std::fs::write(&path, timeline.json(&pool))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let extrapolations = run.extrapolations;
    Ok(Some(Done { summary: reduce(scenario, arm, workload, seed, sink.collector, run), extrapolations }))
}

/// One simulated run, nothing written.
///
/// # Errors
/// A policy's bad answer.
pub fn once(
    scenario: &Scenario,
    arm: &scenario::Arm,
    workload: &Workload,
    seed: u64,
    stop: &AtomicBool,
) -> anyhow::Result<SeedSummary> {
    let watch = &mut |_| !stop.load(Ordering::Relaxed);
    Ok(kept(scenario, arm, workload, seed.into(), Keep::Summary, watch)?.summary)
}

/// One simulated run in memory.
pub struct Kept {
    /// Its metrics.
    pub summary: SeedSummary,
    /// Its requests in the order of their ends, if they were asked for.
    pub requests: Vec<RequestRecord>,
    /// Prices that lay off a measured table's grid.
    pub extrapolations: u64,
    /// How it ended.
    pub ended: Ended,
}

/// One simulated run, nothing written, with what `keep` says.
///
/// # Errors
/// A policy's bad answer.
pub fn kept(
    scenario: &Scenario,
    arm: &scenario::Arm,
    workload: &Workload,
    seed: Seed,
    keep: Keep,
    watch: &mut dyn FnMut(Progress) -> bool,
) -> anyhow::Result<Kept> {
    let mut collector = Collector::new(keep);
    let run = simulate(scenario, arm, workload, seed, &mut collector, watch)
        .with_context(|| format!("{}, seed {}", arm.name, seed.requests))?;
    let (requests, extrapolations, ended) =
        (std::mem::take(&mut collector.requests), run.extrapolations, run.ended);
    let summary = reduce(scenario, arm, workload, seed.requests, collector, run);
    Ok(Kept { summary, requests, extrapolations, ended })
}

/// The metrics of a simulated run.
fn reduce(
    scenario: &Scenario,
    arm: &scenario::Arm,
    workload: &Workload,
    seed: u64,
    collector: Collector,
    run: crate::simulate::Run,
) -> SeedSummary {
    let pool: Vec<String> = arm.members.iter().map(|&index| scenario.pool[index].name.clone()).collect();
    let classes = workload.classes().iter().map(|class| class.name.clone()).collect();
    let raw = &scenario.raw;
    let device = scenario.hardware.sheet();
    let result = SeedResult {
        seed,
        columns: collector.columns,
        tally: run.tally,
        end: run.end,
        replicas: raw.replicas,
        devices_per_replica: raw.tensor_parallel,
        dollars_per_device_hour: device.map(|sheet| sheet.dollars_per_hour.get()),
        watts_per_device: device.map(|sheet| sheet.watts.get()),
        kv_blocks_total: scenario.kv_tokens / u64::from(raw.limits.block_size)
            * pool.len() as u64
            * u64::from(raw.replicas),
    };
    result.reduce(&Facts { pool, classes })
}

/// The models that an arm hosts, as a trace names them.
fn members(scenario: &Scenario, arm: &scenario::Arm) -> Vec<Member> {
    let member = |&index: &usize| Member { spec: scenario.pool[index].clone(), weights_fnv1a: None };
    arm.members.iter().map(member).collect()
}

/// Adds to a finished request what its acceptance source says of every position.
struct Scoring<'a> {
    both: Both,
    source: Option<&'a Source>,
    luck: Luck,
    models: usize,
}

impl Sink for Scoring<'_> {
    fn wants(&self) -> Wants {
        self.both.wants()
    }

    fn request(&mut self, record: &RequestRecord) {
        self.both.request(record);
        if let Some(source) = self.source
            && record.status == Status::Finished
        {
            source.score(self.luck, record, self.models, |token| self.both.token(token));
        }
    }

    fn round(&mut self, record: &RoundRecord) {
        self.both.round(record);
    }

    hand_on!(both);
}
