//! `specrouter compare`: arms of simulations, replays and recordings, with intervals.

mod false_positives;
mod recorded;
mod sources;
mod units;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use specrouter_reports::compare::{FixedWidth, Terms};
use specrouter_reports::{Kind, Metric, Plan, Study, StudyArm};

use super::run::{on_interrupt, progress};
use crate::args::{CompareArgs, Format, Pairs};
use crate::failure::Failure;
use crate::files;
use sources::{Source, What};
use units::Units;

/// Compares what was asked for: prints tables and verdicts, writes the page.
///
/// # Errors
/// [`Failure::BadInput`] for arms that are none, [`Failure::Interrupted`] after Ctrl-C with what had finished
/// compared, [`Failure::Failed`] for the rest.
pub fn run(args: &CompareArgs) -> Result<(), Failure> {
    if let Some(scenario) = &args.false_positives {
        return false_positives::run(scenario, args);
    }
    let mut notes = Vec::new();
    let sources = sources::resolve(args, &mut notes).map_err(Failure::BadInput)?;
    let stop = on_interrupt()?;
    let mut units = Units::new(&sources, args, &stop)?;
    let named = naming(&sources, &units);
    let names = sources::names(&named);
    let baseline = sources::baseline(args.baseline.as_deref(), &named, &names).map_err(Failure::BadInput)?;
    let frame = Frame { args, sources: &sources, names: &names, baseline: &names[baseline], notes };
    if names.len() < 2 {
        return Err(Failure::input(anyhow::anyhow!("expected two arms or more, got one: {}", names[0])));
    }
    if args.plan {
        return plan(&frame, &mut units, &stop);
    }
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("out").join(folder(&sources)));
    prepare(&out, &sources)?;
    run_seeds(&frame, &mut units, &stop)?;
    if args.references && !stop.load(Ordering::Relaxed) {
        units.bounds(&stop)?;
    }
    let mut study = frame.study(&units);
    study.notes.extend(reached(&study, args));
    if study.arms.iter().all(|own| own.arm.seeds.is_empty()) {
        return Err(Failure::Interrupted("no run had finished".into()));
    }
    files::put(&out.join("compare.json"), &study.to_json())?;
    files::put(&out.join("compare.html"), &study.html().map_err(anyhow::Error::new)?)?;
    match args.format {
        Format::Table => super::print(&study.text())?,
        Format::Json => super::print(&study.to_json())?,
    }
    if !args.quiet {
        progress::say(&format!("page: {}", out.join("compare.html").display()));
    }
    if stop.load(Ordering::Relaxed) {
        return Err(Failure::Interrupted(format!("what had finished is compared in {}", out.display())));
    }
    Ok(())
}

/// Runs the scenarios' seeds, and more until the intervals are narrow enough where that is asked.
fn run_seeds(frame: &Frame<'_>, units: &mut Units<'_>, stop: &AtomicBool) -> Result<(), Failure> {
    let args = frame.args;
    let Some(target) = args.width else {
        return units.run(None, args.jobs, args.quiet, stop);
    };
    let mut rule = FixedWidth::new(target, args.max_seeds as usize);
    let mut seeds = Some(rule.first(units.seeds()));
    while let Some(count) = seeds.filter(|_| !stop.load(Ordering::Relaxed)) {
        units.run(Some(count), args.jobs, args.quiet, stop)?;
        let half = frame.study(units).half_width(Metric::TpotMean);
        if half.is_none() && !stop.load(Ordering::Relaxed) {
            let message = "--width needs pairs with an interval that more seeds make narrower: arms that are simulated, or replayed from a sampled trace, with answers of more than one token";
            return Err(Failure::input(anyhow::anyhow!(message)));
        }
        seeds = rule.next(count, half);
    }
    Ok(())
}

/// Whether the width asked for was reached, and with how many seeds.
fn reached(study: &Study, args: &CompareArgs) -> Option<String> {
    let (target, half) = (args.width?, study.half_width(Metric::TpotMean)?);
    let seeds = study.arms.iter().map(|own| own.arm.seeds.len()).max()?;
    let said = if half <= target { "is" } else { "is not" };
    Some(format!(
        "half of the widest interval of mean TPOT {said} within {} %: {} % with {seeds} seeds",
        round(target),
        (half * 10_000.0).round() / 100.0
    ))
}

/// Runs a pilot on other seeds and prints what those of the run would tell.
fn plan(frame: &Frame<'_>, units: &mut Units<'_>, stop: &AtomicBool) -> Result<(), Failure> {
    let seeds = units.seeds();
    units.pilot(frame.args.pilot);
    units.run(None, frame.args.jobs, frame.args.quiet, stop)?;
    if stop.load(Ordering::Relaxed) {
        return Err(Failure::Interrupted("the pilot had not finished".into()));
    }
    let mut study = frame.study(units);
    // What has run has run; what has no luck has nothing to plan.
    study.arms.retain(|own| matches!(own.kind, Kind::Simulated | Kind::Replayed));
    let plan = Plan::of(&study, seeds);
    if plan.lines.is_empty() {
        let message = "--plan needs two arms that can be run on more seeds: simulated, or replayed from a sampled trace";
        return Err(Failure::input(anyhow::anyhow!(message)));
    }
    match frame.args.format {
        Format::Table => super::print(&plan.text()),
        Format::Json => super::print_json(&plan),
    }
}

/// The arms of all sources in the order given, as (source, policy), each once for all loads.
fn naming(sources: &[Source], units: &Units<'_>) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        let policies: Vec<String> = match &source.what {
            What::Run(_) => units.policies(index),
            What::Recorded(arms) => {
                let mut policies: Vec<String> = Vec::new();
                for own in arms {
                    if !policies.contains(&own.arm.policy) {
                        policies.push(own.arm.policy.clone());
                    }
                }
                policies
            }
        };
        all.extend(policies.into_iter().map(|policy| (source.typed.clone(), policy)));
    }
    all
}

/// What stands around the results.
struct Frame<'a> {
    args: &'a CompareArgs,
    sources: &'a [Source],
    names: &'a [String],
    baseline: &'a str,
    notes: Vec<String>,
}

impl Frame<'_> {
    /// The study of what has finished.
    fn study(&self, units: &Units<'_>) -> Study {
        let mut arms: Vec<StudyArm> = Vec::new();
        let mut names = self.names.iter();
        for (index, source) in self.sources.iter().enumerate() {
            let mut own = match &source.what {
                What::Run(_) => units.results(index),
                What::Recorded(arms) => arms.clone(),
            };
            // One name for an arm at all of its loads.
            let mut policies: Vec<String> = Vec::new();
            let mut given: Vec<String> = Vec::new();
            for arm in own.iter_mut().filter(|own| !own.reference) {
                let policy = arm.arm.policy.clone();
                let at = policies.iter().position(|known| *known == policy).unwrap_or_else(|| {
                    policies.push(policy);
                    given.extend(names.next().cloned());
                    policies.len() - 1
                });
                arm.arm.policy.clone_from(&given[at]);
            }
            if self.several() {
                let prefix = |arm: &mut StudyArm| {
                    arm.arm.policy = format!("{}#{}", sources::short(&source.typed), arm.arm.policy)
                };
                own.iter_mut().filter(|own| own.reference).for_each(prefix);
            }
            arms.extend(own);
        }
        arms.sort_by(|a, b| {
            let of = |own: &StudyArm| own.arm.load.unwrap_or(f64::NEG_INFINITY);
            of(a).total_cmp(&of(b))
        });
        let notes = self.remarks(&arms, units);
        let mut titles: Vec<&str> = self.sources.iter().map(|source| source.typed.as_str()).collect();
        titles.dedup();
        let args = self.args;
        Study {
            title: format!("Comparison of {}", titles.join(", ")),
            facts: self.facts(&arms),
            arms,
            baseline: self.baseline.to_owned(),
            all_pairs: args.pairs == Pairs::All,
            by_class: !args.no_classes,
            terms: Terms { margin: args.margin, detect: args.detect },
            load_unit: "of target-only capacity".into(),
            notes,
            command: command(args),
        }
    }

    /// Do arms come from several sources.
    fn several(&self) -> bool {
        self.sources.windows(2).any(|pair| pair[0].typed != pair[1].typed)
    }

    fn facts(&self, arms: &[StudyArm]) -> Vec<(String, String)> {
        let mut facts = vec![("baseline".to_owned(), self.baseline.to_owned())];
        for source in self.sources {
            let own = arms.iter().find(|own| own.source == source.typed);
            let kind = own.map_or("", |own| own.kind.as_str()).to_owned();
            if !facts.iter().any(|(what, _)| *what == source.typed) {
                facts.push((source.typed.clone(), kind));
            }
        }
        facts.push(("no difference".into(), format!("within {} %", round(self.args.margin))));
        facts
    }

    fn remarks(&self, arms: &[StudyArm], units: &Units<'_>) -> Vec<String> {
        let mut notes = self.notes.clone();
        if arms.iter().any(|own| own.kind == Kind::Replayed) {
            notes.push("replays draw the luck of one trace again: their intervals are conditional on this trace, whose requests and texts are no sample of others".into());
        }
        if arms.iter().any(|own| own.kind == Kind::Fact) {
            notes.push("a greedy or coupled trace has no luck: differences between its replays are facts of this trace, and an interval needs 20 blocks longer than the longest busy period".into());
        }
        let mut targets: Vec<&String> = arms.iter().filter_map(|own| own.arm.pool.last()).collect();
        targets.sort_unstable();
        targets.dedup();
        let others = arms.iter().any(|own| own.arm.other_output);
        if targets.len() > 1 && !others {
            let names: Vec<&str> = targets.iter().map(|name| name.as_str()).collect();
            notes.push(format!("targets differ ({}): the arms do not write the same text", names.join(", ")));
        }
        let alone = |own: &&StudyArm| {
            !own.reference
                && own.arm.policy != self.baseline
                && !arms.iter().any(|base| base.arm.policy == self.baseline && base.arm.load == own.arm.load)
        };
        for own in arms.iter().filter(alone).filter(|_| self.args.pairs == Pairs::Baseline) {
            let at = own.arm.load.map_or("without a load".to_owned(), |load| format!("at load {load}"));
            notes.push(format!(
                "{} {at} is compared with nothing: {} has no run there",
                own.arm.policy, self.baseline
            ));
        }
        let gained = |own: &StudyArm| {
            let base = |other: &&StudyArm| other.arm.policy == self.baseline && other.source == own.source;
            own.bound.is_none() || arms.iter().any(|other| base(&other))
        };
        if let Some(own) = arms.iter().find(|own| !gained(own)) {
            notes.push(format!(
                "{}: no share of the bound's gain, which is counted from {}, of another source",
                own.source, self.baseline
            ));
        }
        notes.extend(units.notes());
        notes
    }
}

fn round(share: f64) -> f64 {
    (share * 1000.0).round() / 10.0
}

/// The folder, and every scenario as it was resolved: what is wrong with the disk is known before anything runs.
fn prepare(out: &std::path::Path, sources: &[Source]) -> Result<(), Failure> {
    std::fs::create_dir_all(out)
        .map_err(|e| anyhow::Error::new(e).context(format!("cannot make the folder {}", out.display())))?;
    for (index, source) in sources.iter().enumerate() {
        if let What::Run(runs) = &source.what {
            let name = format!("arm-{}.resolved.yaml", index + 1);
            files::put(&out.join(name), &runs.scenario.resolved_text()?)?;
        }
    }
    Ok(())
}

/// `compare-quickstart` for the first source.
fn folder(sources: &[Source]) -> String {
    let first = sources.first().map(|source| source.typed.trim_start_matches("replay:")).unwrap_or_default();
    let stem = files::default_folder(first);
    format!("compare-{}", stem.file_name().map(|name| name.to_string_lossy()).unwrap_or_default())
}

/// The command that makes the comparison again.
fn command(args: &CompareArgs) -> String {
    let quoted = |text: &str| match text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:=".contains(c)) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    };
    let mut command = String::from("specrouter compare");
    args.arms.iter().for_each(|arm| command += &format!(" {}", quoted(arm)));
    args.baseline.iter().for_each(|arm| command += &format!(" --baseline {}", quoted(arm)));
    command += if args.pairs == Pairs::All { " --pairs all" } else { "" };
    args.policies.iter().for_each(|policy| command += &format!(" --policy {}", quoted(policy)));
    args.sets.iter().for_each(|set| command += &format!(" --set {}", quoted(set)));
    command += &format!(" --margin {}% --detect {}%", round(args.margin), round(args.detect));
    args.width.iter().for_each(|width| {
        command += &format!(" --width {}% --max-seeds {}", width * 100.0, args.max_seeds);
    });
    command += if args.references { " --references" } else { "" };
    command += if args.no_classes { " --no-classes" } else { "" };
    args.seeds.iter().for_each(|seeds| command += &format!(" --seeds {seeds}"));
    command
}
