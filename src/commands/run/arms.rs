//! The arms of a run, on all cores. Results do not depend on how many.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Context;
use specrouter_reports::{Collector, Facts, Keep, SeedResult, SeedSummary};
use specrouter_routing::record::{
    DecisionRecord, PassRecord, RequestRecord, RoundRecord, Sink, VerificationRecord, Wants,
};
use specrouter_routing::units::Span;
use specrouter_routing::workload::Workload;
use specrouter_sim::drive::Ended;
use specrouter_traces::{Run, Tables, TraceWriter};

use super::progress::Bar;
use crate::scenario::{self, Scenario};
use crate::simulate::simulate;

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
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<anyhow::Result<Option<Done>>>>> =
        jobs.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(index) else { return };
                    let (load, workload) = &workloads[job.load];
                    let result = run_one(scenario, *job, *load, workload, out, bar, stop);
                    if result.is_err() {
                        stop.store(true, Ordering::Relaxed); // The others would be for nothing.
                    }
                    *results[index].lock().expect("no thread panics while it holds a result") = Some(result);
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
    let tables = match scenario.raw.output.tables {
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
            pool: pool.clone(),
            classes: classes.clone(),
            device: format!("simulated {}", scenario.hardware.label()),
        };
        Some(TraceWriter::create(&folder, tables, run)?)
    };
    let mut sink = Both { collector, writer };
    let mut told = 0;
    let run = simulate(scenario, arm, workload, seed, &mut sink, &mut |progress| {
        bar.advance(progress.ended - told, progress.events);
        told = progress.ended;
        !stop.load(Ordering::Relaxed)
    });
    let run = run.with_context(|| format!("{}, seed {seed}", arm.name))?;
    bar.job_done(workload.size().requests.saturating_sub(told));
    if run.ended == Ended::Interrupted {
        if sink.writer.is_some() {
            // What was cut off is no trace of anything.
            let _ = std::fs::remove_dir_all(&folder);
        }
        return Ok(None);
    }
    if let Some(writer) = sink.writer {
        writer.finish()?;
    }
    if let Some(timeline) = &sink.collector.timeline {
        let path = folder.join("timeline.json");
        std::fs::write(&path, timeline.json(&pool))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let raw = &scenario.raw;
    let device = scenario.hardware.sheet();
    let result = SeedResult {
        seed,
        columns: sink.collector.columns,
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
    Ok(Some(Done { summary: result.reduce(&Facts { pool, classes }), extrapolations: run.extrapolations }))
}

/// Where an arm's tables of one seed go: names as file names, loads beside each other.
pub fn folder(out: &Path, arm: &str, load: Option<f64>, seed: u64) -> PathBuf {
    let mut name: String =
        arm.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }).collect();
    while name.contains("--") {
        name = name.replace("--", "-");
    }
    let arms = out.join("arms").join(name.trim_matches('-'));
    let arms = load.map_or(arms.clone(), |load| arms.join(format!("load-{load}")));
    arms.join(format!("seed-{seed}"))
}

/// The report's collector and the trace's writer, listening together.
struct Both {
    collector: Collector,
    writer: Option<TraceWriter>,
}

impl Sink for Both {
    fn wants(&self) -> Wants {
        let (a, b) = (self.collector.wants(), self.writer.as_ref().map(Sink::wants).unwrap_or_default());
        Wants {
            passes: a.passes || b.passes,
            verifications: a.verifications || b.verifications,
            rounds: a.rounds || b.rounds,
            decisions: a.decisions || b.decisions,
        }
    }

    fn request(&mut self, record: &RequestRecord) {
        self.collector.request(record);
        if let Some(writer) = &mut self.writer {
            writer.request(record);
        }
    }

    fn gap(&mut self, gap: Span) {
        self.collector.gap(gap);
    }

    fn pass(&mut self, record: &PassRecord) {
        self.collector.pass(record);
        if let Some(writer) = &mut self.writer {
            writer.pass(record);
        }
    }

    fn verification(&mut self, record: &VerificationRecord) {
        self.collector.verification(record);
        if let Some(writer) = &mut self.writer {
            writer.verification(record);
        }
    }

    fn round(&mut self, record: &RoundRecord) {
        self.collector.round(record);
        if let Some(writer) = &mut self.writer {
            writer.round(record);
        }
    }

    fn decision(&mut self, record: &DecisionRecord) {
        self.collector.decision(record);
        if let Some(writer) = &mut self.writer {
            writer.decision(record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arms_become_folder_names() {
        let at = |arm, load| folder(Path::new("out"), arm, load, 7).display().to_string();
        assert_eq!(
            at("static llama-68m>llama-3.1-8b (4)", None),
            "out/arms/static-llama-68m-llama-3.1-8b-4/seed-7"
        );
        assert_eq!(at("specrouter", Some(0.5)), "out/arms/specrouter/load-0.5/seed-7");
    }
}
