//! `specrouter validate`: the same thing simulated, replayed and run for real, and the gap between them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use specrouter_reports::SeedSummary;
use specrouter_reports::fit::FitReport;
use specrouter_reports::gap::{Gap, GapArm};
use specrouter_traces::Trace;

use super::calibrate::{self, PROFILE};
use super::record::Rig;
use super::run::{arms::once, on_interrupt, progress};
use crate::args::{CalibrateArgs, Format, ValidateArgs};
use crate::failure::Failure;
use crate::files;
use crate::keep::folder;
use crate::scenario::{Asked, Part, Recording, measured_acceptance, resolve_part, resolve_replay};

/// Half of the prompts, and half of the requests, calibrate; the other half is foretold and measured.
const HALVES: [(usize, &str); 2] = [(0, "calibration"), (1, "measured")];

/// Records both halves, calibrates on the first, foretells the second in two ways, and says how far off that is.
///
/// # Errors
/// [`Failure::BadInput`] for a scenario that cannot be recorded, [`Failure::Interrupted`] after Ctrl-C, with what was
/// recorded kept, [`Failure::Failed`] for the rest.
pub fn run(args: &ValidateArgs) -> Result<(), Failure> {
    let mut sets = args.sets.clone();
    sets.extend(args.seeds.map(|seeds| format!("seeds={seeds}")));
    let parts = parts(&args.scenario, &sets)?;
    let out = args.out.clone().unwrap_or_else(|| default_folder(&args.scenario));
    let stop = on_interrupt()?;
    let interrupted = || Failure::Interrupted(format!("what was recorded is in {}", out.display()));
    files::prepare(&out, &parts[0].recordings[0].resolved_text()?)?;

    let mut rig = Rig::open(&parts[0].recordings[0], &stop)?;
    let mut measured = Vec::new();
    for part in &parts {
        for (half, place) in HALVES {
            if !args.quiet {
                progress::say(&format!("recording {}, {place}", part.name));
            }
            let to = out.join(place).join(&part.folder);
            let done = rig.run(&part.recordings[half], &to, args.quiet, &stop)?;
            if stop.load(Ordering::Relaxed) {
                return Err(interrupted());
            }
            if half == 1 {
                measured.push(done);
            }
        }
    }
    let calibrate = CalibrateArgs {
        traces: vec![out.join(HALVES[0].1)],
        from_table: None,
        from_rounds: None,
        out: Some(out.join("profile")),
        format: Format::Table,
        quiet: true,
    };
    let (_, fit, profile) = calibrate::make(&calibrate)?;
    let profile = profile.join(PROFILE);

    let mut page = FitReport {
        title: format!("Validation of {}", args.scenario),
        facts: facts(&parts[0].recordings[1], &rig.device, &out),
        sections: Vec::new(),
        notes: fit.notes,
        command: command(args),
    };
    let mut gaps = Vec::new();
    for (part, done) in parts.iter().zip(measured) {
        let gap = foretell(part, done, &out.join(HALVES[1].1).join(&part.folder), &profile, &stop)?;
        let Some(gap) = gap else { return Err(interrupted()) };
        for mut section in gap.sections() {
            section.title = format!("{}: {}", part.name, section.title.to_lowercase());
            page.sections.push(section);
        }
        gaps.push(serde_json::json!({
            "arrivals": part.name, "rows": gap.rows(), "rankings": gap.rankings(),
        }));
    }
    files::put(&out.join("validate.html"), &page.html().map_err(anyhow::Error::new)?)?;
    let json = serde_json::to_string_pretty(&gaps).map_err(anyhow::Error::new)? + "\n";
    files::put(&out.join("validate.json"), &json)?;
    match args.format {
        Format::Table => super::print(&page.text())?,
        Format::Json => super::print(&json)?,
    }
    if !args.quiet {
        progress::say(&format!("page: {}", out.join("validate.html").display()));
    }
    Ok(())
}

/// One way in which requests arrive: both halves of it.
struct Arriving {
    name: String,
    folder: String,
    recordings: [Recording; 2],
}

/// The scenario's own arrivals, or those of its sweep.
fn parts(scenario: &str, sets: &[String]) -> Result<Vec<Arriving>, Failure> {
    let names = crate::scenario::swept_arrivals(scenario, sets).map_err(Failure::input)?;
    let half = |half: usize, arrivals: Option<usize>| {
        resolve_part(scenario, sets, &Part { half: Some(half), arrivals }).map_err(Failure::input)
    };
    let indices: Vec<Option<usize>> = match names.len() {
        0 => vec![None],
        n => (0..n).map(Some).collect(),
    };
    indices
        .into_iter()
        .map(|index| {
            let recordings = [half(0, index)?, half(1, index)?];
            let name = match index {
                Some(index) => names[index].clone(),
                None => "arrivals of the scenario".to_owned(),
            };
            let folder = index.map_or_else(|| "own".to_owned(), |index| format!("arrivals-{index}"));
            Ok(Arriving { name, folder, recordings })
        })
        .collect()
}

/// Replays and simulates what was measured; `None` when `stop` was raised.
fn foretell(
    part: &Arriving,
    measured: Vec<Vec<SeedSummary>>,
    traces: &Path,
    profile: &Path,
    stop: &AtomicBool,
) -> anyhow::Result<Option<Gap>> {
    let recording = &part.recordings[1];
    let mut foretold: Vec<[Vec<SeedSummary>; 2]> =
        recording.arms.iter().map(|_| Default::default()).collect();
    for &seed in &recording.seeds {
        // The first arm's text stands for all: it is distributed as the target's under any policy.
        let trace = Trace::open(&folder(traces, &recording.arms[0].name, None, seed))?;
        let shown = profile.display().to_string();
        let asked = Asked { profile: Some(&shown), seeds: Some(1), ..Asked::default() };
        let replayed = resolve_replay(&trace, &asked)?.scenario;
        let classes: Vec<String> = trace.run().classes.clone();
        let mut simulated = replayed.clone();
        simulated.acceptance = Arc::new(measured_acceptance(profile, &replayed.pool, &classes)?);
        for (arm, told) in recording.arms.iter().zip(&mut foretold) {
            for (scenario, told) in [&replayed, &simulated].into_iter().zip(told) {
                told.push(once(scenario, arm, &scenario.workload, seed, stop)?);
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
        }
    }
    let arms = recording.arms.iter().zip(measured).zip(foretold).map(|((arm, measured), foretold)| GapArm {
        policy: arm.name.clone(),
        measured,
        foretold: foretold.into(),
    });
    Ok(Some(Gap { ways: vec!["replayed".into(), "simulated".into()], arms: arms.collect() }))
}

fn facts(recording: &Recording, device: &str, out: &Path) -> Vec<(String, String)> {
    let names: Vec<&str> = recording.pool.iter().map(|model| model.name.as_str()).collect();
    let policies: Vec<&str> = recording.arms.iter().map(|arm| arm.name.as_str()).collect();
    [
        ("pool", names.join(" > ")),
        ("device", device.to_owned()),
        ("policies", policies.join(", ")),
        (
            "calibrated on",
            format!("{} prompts, {} requests", recording.prompts.len(), recording.workload.size().requests),
        ),
        ("measured on", "as many others".to_owned()),
        ("seeds", format!("{} from {}", recording.seeds.len(), recording.raw.seed)),
        ("traces and profile", out.display().to_string()),
    ]
    .into_iter()
    .map(|(what, value)| (what.to_owned(), value))
    .collect()
}

fn command(args: &ValidateArgs) -> String {
    let sets: String = args.sets.iter().map(|set| format!(" --set {set}")).collect();
    let seeds = args.seeds.map(|seeds| format!(" --seeds {seeds}")).unwrap_or_default();
    format!("specrouter validate {}{sets}{seeds}", args.scenario)
}

fn default_folder(scenario: &str) -> PathBuf {
    let own = files::default_folder(scenario);
    let stem = own.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Path::new("out").join(if stem.starts_with("validate") { stem } else { format!("validate-{stem}") })
}
