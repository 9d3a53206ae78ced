//! `specrouter run`: every policy of a scenario, over its seeds and loads.

pub(crate) mod arms;
pub(crate) mod progress;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use specrouter_reports::{ArmResult, BoundReport, Report};
use specrouter_routing::workload::Workload;
use specrouter_sim::acceptance::Source;

use crate::args::{Format, RunArgs};
use crate::catalog;
use crate::failure::Failure;
use crate::files;
use crate::league;
use crate::scenario::{self, Scenario};
use crate::simulate;
use arms::{Done, Job};

/// Resolves the scenario, runs it, prints its table and writes its folder.
///
/// # Errors
/// [`Failure::BadInput`] for a scenario that cannot be run, [`Failure::Interrupted`] after Ctrl-C
/// with what had finished written, [`Failure::Failed`] for the rest.
pub fn run(args: &RunArgs) -> Result<(), Failure> {
    if league::is_league(&catalog::scenario(&args.scenario).map_err(Failure::input)?) {
        return league::run(args, &*on_interrupt()?);
    }
    if !args.only.is_empty() || args.reference.is_some() {
        let error =
            anyhow::anyhow!("--only and --reference are for leagues; {} is a scenario", args.scenario);
        return Err(Failure::BadInput(error));
    }
    let mut sets = args.sets.clone();
    sets.extend(args.seeds.map(|seeds| format!("seeds={seeds}")));
    let scenario = scenario::resolve(&args.scenario, &sets).map_err(Failure::input)?;
    if args.dry_run {
        return super::dry_run::print(&scenario, args.format);
    }
    let sets = args.sets.iter().map(|set| format!(" --set {set}")).collect::<String>();
    let seeds = args.seeds.map(|seeds| format!(" --seeds {seeds}")).unwrap_or_default();
    let told = Told {
        out: args.out.clone().unwrap_or_else(|| files::default_folder(&args.scenario)),
        jobs: args.jobs,
        format: args.format,
        quiet: args.quiet,
        command: format!("specrouter run {}{sets}{seeds}", args.scenario),
        stop: on_interrupt()?,
        bound: None,
        notes: Vec::new(),
    };
    execute(&scenario, &told)
}

/// Where results go, and how.
pub struct Told {
    /// The run's folder.
    pub out: PathBuf,
    /// Threads; all cores when `None`.
    pub jobs: Option<NonZeroUsize>,
    /// What goes to stdout.
    pub format: Format,
    /// No progress and no notes on stderr.
    pub quiet: bool,
    /// The command that makes the report again.
    pub command: String,
    /// Raised by Ctrl-C.
    pub stop: Arc<AtomicBool>,
    /// What no policy can beat, where that was computed.
    pub bound: Option<BoundReport>,
    /// What a reader of the report must know, besides what the run itself finds.
    pub notes: Vec<String>,
}

/// Simulates a scenario, prints its table and writes its folder.
///
/// # Errors
/// As [`run`], for a scenario that is resolved.
pub fn execute(scenario: &Scenario, args: &Told) -> Result<(), Failure> {
    let out = &args.out;
    files::prepare(out, &scenario.resolved_text()?)?;
    let stop = &args.stop;
    let workloads = workloads(scenario, stop)?;
    let jobs = jobs(scenario, workloads.len());
    let threads = args.jobs.map_or_else(cores, NonZeroUsize::get).min(jobs.len());
    let runs = (scenario.arms.len() * scenario.seeds.len()) as u64;
    let requests = workloads.iter().map(|(_, workload)| workload.size().requests * runs).sum();
    let bar = progress::bar(requests, jobs.len(), args.quiet);
    let done = arms::run_all(scenario, &workloads, &jobs, threads, out, &bar, stop);
    bar.finish();
    let done = done?;
    let finished = done.iter().flatten().count();
    let report = report(scenario, &workloads, &jobs, done, args);
    let interrupted = stop.load(Ordering::Relaxed) && finished < jobs.len();
    if report.arms.is_empty() {
        return Err(if interrupted {
            Failure::Interrupted("no arm had finished".into())
        } else {
            anyhow::anyhow!("no arm ran").into()
        });
    }
    files::write(out, &report)?;
    match args.format {
        Format::Table => super::print(&report.text_table())?,
        Format::Json => super::print(&report.to_json())?,
    }
    if !args.quiet {
        progress::say(&format!("report: {}", out.join("report.html").display()));
    }
    if interrupted {
        let kept = format!("finished arms kept: {}, in {}", report.arms.len(), out.display());
        return Err(Failure::Interrupted(kept));
    }
    Ok(())
}

pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// A flag that Ctrl-C raises.
pub(super) fn on_interrupt() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&stop);
    ctrlc::set_handler(move || raised.store(true, Ordering::Relaxed)).map_err(anyhow::Error::new)?;
    Ok(stop)
}

/// What arrives: the scenario's workload, or one for each load of its sweep.
pub(super) fn workloads(
    scenario: &Scenario,
    stop: &AtomicBool,
) -> Result<Vec<(Option<f64>, Workload)>, Failure> {
    let Some(loads) = &scenario.loads else {
        return Ok(vec![(None, scenario.workload.clone())]);
    };
    let capacity = simulate::capacity(scenario, &mut |_| !stop.load(Ordering::Relaxed));
    if stop.load(Ordering::Relaxed) {
        return Err(Failure::Interrupted("no arm had begun".into()));
    }
    let capacity = capacity?;
    let at = |&load: &f64| Ok((Some(load), scenario.at_rate(load * capacity)?));
    loads.iter().map(at).collect()
}

/// Arm by arm, so that an interrupted run keeps whole arms.
fn jobs(scenario: &Scenario, workloads: usize) -> Vec<Job> {
    let mut jobs = Vec::new();
    for load in 0..workloads {
        for arm in 0..scenario.arms.len() {
            for seed in 0..scenario.seeds.len() {
                jobs.push(Job { load, arm, seed });
            }
        }
    }
    jobs
}

/// What of a replayed arm does not rest on the recorded text: in chains of three levels and more, the drafts and cycles
/// behind the position where a level left it.
fn modelled(arm: &ArmResult) -> Option<String> {
    let target = arm.pool.last()?;
    let runs = || arm.seeds.iter().map(|seed| &seed.summary);
    if !runs().flat_map(|run| &run.pairs).any(|pair| pair.verifier != *target) {
        return None;
    }
    let models = || runs().flat_map(|run| &run.models);
    let wasted: f64 = models().filter(|model| model.model != *target).map(|model| model.wasted).sum();
    let all: f64 = models().map(|model| model.useful + model.wasted + model.catch_up).sum();
    (all > 0.0).then(|| {
        let share = 100.0 * wasted / all;
        format!("{}: at most {share:.0} % of its pass time rests on what was drafted off the text, which is modelled", arm.policy)
    })
}

/// Arms of which every seed has finished, in the scenario's order.
fn report(
    scenario: &Scenario,
    workloads: &[(Option<f64>, Workload)],
    jobs: &[Job],
    done: Vec<Option<Done>>,
    args: &Told,
) -> Report {
    let mut notes: Vec<String> = [scenario.workload.notes(), &args.notes].concat();
    let mut facts: Vec<(String, String)> =
        super::dry_run::facts(scenario).into_iter().map(|(what, value)| (what.to_owned(), value)).collect();
    if let Some(loads) = &scenario.loads
        && let Some(rate) = workloads
            .last()
            .zip(loads.last())
            .and_then(|((_, w), load)| w.size().span_s.map(|s| w.size().requests as f64 / s / load))
    {
        facts.push(("target-only capacity".into(), format!("{rate:.3} requests/s")));
    }
    let mut arms: Vec<ArmResult> = Vec::new();
    let mut done = done.into_iter();
    for group in jobs.chunks(scenario.seeds.len()) {
        let results: Vec<Done> = done.by_ref().take(group.len()).flatten().collect();
        if results.len() < group.len() {
            continue;
        }
        let arm = &scenario.arms[group[0].arm];
        let off_grid: u64 = results.iter().map(|r| r.extrapolations).sum();
        if off_grid > 0 {
            notes.push(format!("{}: {off_grid} passes were priced beyond the measured table", arm.name));
        }
        arms.push(ArmResult {
            policy: arm.name.clone(),
            label: arm.label.into(),
            other_output: arm.other_output,
            load: workloads[group[0].load].0,
            pool: arm.members.iter().map(|&index| scenario.pool[index].name.clone()).collect(),
            seeds: results.into_iter().map(|r| r.summary).collect(),
        });
    }
    if matches!(*scenario.acceptance, Source::Recorded(_)) {
        notes.extend(arms.iter().filter_map(modelled));
    }
    Report {
        title: scenario.name.clone(),
        scenario_name: scenario.name.clone(),
        description: scenario.description.clone(),
        facts,
        pool: scenario.pool.iter().map(|model| model.name.clone()).collect(),
        classes: scenario.workload.classes().iter().map(|class| class.name.clone()).collect(),
        slo: scenario.slo,
        baseline: 0,
        arms,
        loads: scenario.loads.clone(),
        load_unit: "of target-only capacity".into(),
        bound: args.bound.clone(),
        notes,
        command: args.command.clone(),
    }
}
