//! `specrouter record`: every policy of a scenario on real models, seed by seed.

mod arms;
mod texts;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use specrouter_engine::kernels::Path as KernelPath;
use specrouter_engine::pool;
use specrouter_engine::profile::{Grid, measure};
use specrouter_engine::settings::{Device, Dtype};
use specrouter_engine::stopwatch::Stopwatch;
use specrouter_reports::{ArmResult, Report, SeedSummary};
use specrouter_routing::profile::{PassCosts, Table, TableRow};
use specrouter_traces::Member;

use crate::args::{Format, RecordArgs};
use crate::commands::run::{on_interrupt, progress};
use crate::failure::Failure;
use crate::files;
use crate::scenario::{self, Recording};
use arms::{Models, Surroundings};

/// Resolves the scenario, runs its models, prints its table and writes its folder.
///
/// # Errors
/// [`Failure::BadInput`] for a scenario that cannot be run, [`Failure::Interrupted`] after Ctrl-C
/// with what had finished written, [`Failure::Failed`] for the rest.
pub fn run(args: &RecordArgs) -> Result<(), Failure> {
    let recording = scenario::resolve_recording(&args.scenario, &sets(args)).map_err(Failure::input)?;
    if args.dry_run {
        return dry_run(&recording, args.format);
    }
    let out = args.out.clone().unwrap_or_else(|| files::default_folder(&args.scenario));
    files::prepare(&out, &recording.resolved_text()?)?;
    let stop = on_interrupt()?;
    let threads = pool::share_work(recording.engine.threads);
    let mut models = open(&recording)?;
    let belief = belief(&recording, &mut models, &stop)?;
    let device = device(&recording, threads);
    let members = members(&recording)?;

    // Seed by seed, so that the machine's moods meet every arm alike.
    let jobs = recording.seeds.len() * recording.arms.len();
    let bar = progress::bar(recording.workload.size().requests * jobs as u64, jobs, args.quiet);
    let mut done: Vec<Vec<SeedSummary>> = recording.arms.iter().map(|_| Vec::new()).collect();
    'seeds: for (index, &seed) in recording.seeds.iter().enumerate() {
        for turn in 0..recording.arms.len() {
            // Each seed begins with another arm.
            let arm = (turn + index) % recording.arms.len();
            let around = Surroundings {
                out: &out,
                belief: Arc::clone(&belief),
                bar: &bar,
                stop: &stop,
                members: &members,
                device: &device,
                first: index == 0,
            };
            match arms::record(&recording, &recording.arms[arm], seed, &mut models, &around)? {
                Some(summary) => done[arm].push(summary),
                None => break 'seeds,
            }
            bar.job_done(0);
        }
    }
    bar.finish();
    let interrupted = stop.load(Ordering::Relaxed);
    let report = report(&recording, done, &device, args);
    if report.arms.is_empty() {
        return Err(match interrupted {
            true => Failure::Interrupted(format!(
                "no seed of every arm had finished; texts and tables of what had are in {}",
                out.display()
            )),
            false => anyhow::anyhow!("no arm ran").into(),
        });
    }
    files::write(&out, &report)?;
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

/// Everything that was typed, as `--set`s.
fn sets(args: &RecordArgs) -> Vec<String> {
    let mut sets = args.sets.clone();
    sets.extend(args.seeds.map(|seeds| format!("seeds={seeds}")));
    sets.extend(args.device.map(|device| format!("engine.device={device}")));
    sets.extend(args.device.filter(|device| *device != Device::Cpu).map(|_| "engine.mode=fast".to_owned()));
    let dtype = args.dtype.map(|dtype| match dtype {
        Dtype::Auto => "auto",
        Dtype::F32 => "f32",
        Dtype::Bf16 => "bf16",
    });
    sets.extend(dtype.map(|dtype| format!("engine.dtype={dtype}")));
    sets.extend(args.no_texts.then(|| "output.texts=false".to_owned()));
    sets.extend(args.no_prompts.then(|| "output.prompts=false".to_owned()));
    sets
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

/// What the scenario came to: `(what, value with its unit)`.
fn facts(recording: &Recording, device: &str) -> Vec<(String, String)> {
    let size = recording.workload.size();
    let names: Vec<&str> = recording.pool.iter().map(|model| model.name.as_str()).collect();
    let known = recording.profile.as_ref().map_or("a short measurement".to_owned(), scenario::Costs::label);
    let prompt_tokens: usize = recording.prompts.iter().map(|prompt| prompt.tokens.len()).sum();
    let mean = prompt_tokens as f64 / recording.prompts.len() as f64;
    let span =
        size.span_s.map_or_else(|| "until they are answered".to_owned(), |span| format!("over {span:.1} s"));
    let facts = [
        ("pool", names.join(" > ")),
        ("device", device.to_owned()),
        ("policies know", known),
        ("KV cache", format!("{} tokens for each model", recording.kv_tokens)),
        ("context", format!("{} tokens", recording.limits.context)),
        ("requests", format!("{} {span}", size.requests)),
        ("prompts", format!("{}, mean {mean:.1} tokens", recording.prompts.len())),
        ("seeds", format!("{} from {}", recording.seeds.len(), recording.raw.seed)),
    ];
    facts.into_iter().map(|(what, value)| (what.to_owned(), value)).collect()
}

fn dry_run(recording: &Recording, format: Format) -> Result<(), Failure> {
    let facts = facts(recording, &recording.engine.device.to_string());
    let arms: Vec<&str> = recording.arms.iter().map(|arm| arm.name.as_str()).collect();
    super::dry_run::print_facts(&recording.name, facts, &arms, recording.workload.notes(), format)
}

/// Seeds that every arm has finished, in the scenario's order.
fn report(recording: &Recording, done: Vec<Vec<SeedSummary>>, device: &str, args: &RecordArgs) -> Report {
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
    let sets: String = sets(args).iter().map(|set| format!(" --set {set}")).collect();
    Report {
        title: recording.name.clone(),
        scenario_name: recording.name.clone(),
        description: recording.description.clone(),
        facts: facts(recording, device),
        pool: pool.clone(),
        classes: recording.workload.classes().iter().map(|class| class.name.clone()).collect(),
        slo: recording.slo,
        baseline: 0,
        arms: arms.collect(),
        loads: None,
        load_unit: String::new(),
        bound: None,
        notes: recording.workload.notes().to_vec(),
        command: format!("specrouter record {}{sets}", args.scenario),
    }
}
