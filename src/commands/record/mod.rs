//! `specrouter record`: every policy of a scenario on real models, seed by seed.

mod arms;
mod rig;
mod texts;

use std::sync::atomic::Ordering;

use specrouter_engine::settings::{Device, Dtype};
use specrouter_reports::{Report, SeedSummary};

use crate::args::{Format, RecordArgs};
use crate::commands::run::{on_interrupt, progress};
use crate::failure::Failure;
use crate::files;
use crate::scenario::{self, Recording};

pub use rig::{Rig, arm_results};

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
    let mut rig = Rig::open(&recording, &stop)?;
    let done = rig.run(&recording, &out, args.quiet, &stop)?;
    let interrupted = stop.load(Ordering::Relaxed);
    let report = report(&recording, done, &rig.device, args);
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
    let arms = arm_results(recording, done);
    let pool: Vec<String> = recording.pool.iter().map(|model| model.name.clone()).collect();
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
        arms,
        loads: None,
        load_unit: String::new(),
        bound: None,
        notes: recording.workload.notes().to_vec(),
        command: format!("specrouter record {}{sets}", args.scenario),
    }
}
