//! Tuning, measuring, reporting.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use specrouter_reports::league::{CellReport, LeagueReport, Score};
use specrouter_sim::acceptance::AcceptanceConfig;

use super::only::Only;
use super::tuned::Tuned;
use super::{Cell, Entrant, League};
use crate::args::{Format, RunArgs};
use crate::commands::run::arms::once;
use crate::commands::{dry_run, run::progress};
use crate::failure::Failure;
use crate::references::static_plans;
use crate::scenario::{Arm, Scenario};
use crate::{files, parallel};

/// Runs a league, prints its table and writes its page, or says how much it is.
///
/// # Errors
/// [`Failure::BadInput`] for a league that cannot be run, [`Failure::Interrupted`] after Ctrl-C, with nothing kept: half
/// a league has no standings. [`Failure::Failed`] for the rest.
pub fn run(args: &RunArgs, stop: &AtomicBool) -> Result<(), Failure> {
    let league = League::read(&args.scenario, &args.sets).map_err(Failure::input)?;
    let asked = Asked { only: &args.only, reference: args.reference.as_deref(), seeds: args.seeds };
    if args.dry_run {
        let size = league.size(&asked).map_err(Failure::BadInput)?;
        let policies: Vec<&str> = size.policies.iter().map(String::as_str).collect();
        return dry_run::print_facts(&args.scenario, size.facts, &policies, &[], args.format);
    }
    let only = Only::read(&league, asked.only).map_err(Failure::BadInput)?;
    let out = args.out.clone().unwrap_or_else(|| files::default_folder(&args.scenario));
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let threads = args.jobs.or_else(|| std::thread::available_parallelism().ok());
    let around = Around {
        league: &league,
        only,
        asked,
        threads: threads.map_or(1, NonZeroUsize::get),
        quiet: args.quiet,
        out: &out,
        stop,
    };
    let report = around.report(command(args))?;
    files::put(&out.join("league.json"), &report.to_json())?;
    files::put(&out.join("league.html"), &report.html().map_err(anyhow::Error::new)?)?;
    match args.format {
        Format::Table => crate::commands::print(&report.text())?,
        Format::Json => crate::commands::print(&report.to_json())?,
    }
    around.say(&format!("report: {}", out.join("league.html").display()));
    Ok(())
}

/// The command that makes the page again.
fn command(args: &RunArgs) -> String {
    let quoted = |text: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+".contains(c);
        if text.chars().all(plain) { text.to_owned() } else { format!("'{text}'") }
    };
    let mut command = format!("specrouter run {}", quoted(&args.scenario));
    let reference = args.reference.iter().map(|file| ("--reference", file.display().to_string()));
    let seeds = args.seeds.iter().map(|seeds| ("--seeds", seeds.to_string()));
    let sets = args.sets.iter().map(|set| ("--set", set.clone()));
    for (name, value) in
        args.only.iter().map(|cell| ("--only", cell.clone())).chain(reference).chain(seeds).chain(sets)
    {
        command += &format!(" {name} {}", quoted(&value));
    }
    command
}

/// What of a league is asked for.
pub struct Asked<'a> {
    /// These cells; all when none is named.
    pub only: &'a [String],
    /// A league's result that tuning is taken from.
    pub reference: Option<&'a Path>,
    /// Most seeds of tuning and of the report.
    pub seeds: Option<u32>,
}

/// A league that is being run.
pub struct Around<'a> {
    pub(super) league: &'a League,
    only: Only,
    asked: Asked<'a>,
    threads: usize,
    quiet: bool,
    out: &'a Path,
    stop: &'a AtomicBool,
}

/// One run: an arm under a seed.
pub struct Job<'a> {
    /// The cell, or the cell under other signals.
    pub scenario: &'a Scenario,
    /// Who decides.
    pub arm: &'a Arm,
    /// Its luck.
    pub seed: u64,
}

impl Around<'_> {
    fn report(&self, command: String) -> Result<LeagueReport, Failure> {
        let mut cells = self.cells()?;
        let statics = cells.iter().map(|cell| static_plans(&cell.scenario).len()).max().unwrap_or(0);
        let entrants = self.league.entrants(statics);
        let (tuned, tuning_runs) = match self.asked.reference {
            Some(file) => {
                let tuned = Tuned::read(file, self.league, &cells, &entrants).map_err(Failure::BadInput)?;
                (tuned, 0)
            }
            None => self.tune(&cells, &entrants)?,
        };
        cells.retain(|cell| self.only.has(cell.pool, cell.regime, cell.variant));
        let mut report = self.around_the_table(&cells, &tuned, &entrants);
        report.cells = self.measure(&cells, &entrants, &tuned)?;
        report.command = command;
        let measured: usize =
            report.cells.iter().flat_map(|cell| &cell.rows).map(|row| row.seeds.len()).sum();
        report.facts.push(("runs".into(), format!("{tuning_runs} of tuning, {measured} of measuring")));
        self.only_what_ran(&mut report);
        self.keep(&cells)?;
        Ok(report)
    }

    /// The cells that are measured, and those that policies are tuned in.
    fn cells(&self) -> Result<Vec<Cell>, Failure> {
        let raw = &self.league.raw;
        let measured = |pool, regime| (0..raw.variants.len()).any(|v| self.only.has(pool, regime, v));
        // A policy is tuned over all regimes of a pool, whichever of them are then measured.
        let tuned =
            |pool| self.asked.reference.is_none() && (0..raw.regimes.len()).any(|r| measured(pool, r));
        let places: Vec<(usize, usize)> = (0..raw.pools.len())
            .flat_map(|pool| (0..raw.regimes.len()).map(move |regime| (pool, regime)))
            .filter(|&(pool, regime)| measured(pool, regime) || tuned(pool))
            .collect();
        let cells = parallel::map(&places, self.threads, self.stop, |&(pool, regime)| {
            self.league.cells(pool, regime, self.stop)
        });
        let cells = cells.map_err(Failure::BadInput)?; // A cell that is none, or whose target serves nobody.
        Ok(self.all(cells)?.into_iter().flatten().collect())
    }

    /// All of a report but its cells.
    fn around_the_table(&self, cells: &[Cell], tuned: &Tuned, entrants: &[Entrant]) -> LeagueReport {
        let raw = &self.league.raw;
        let (tuning, measured) = (self.tuning_seeds(), self.report_seeds());
        let requests = || cells.iter().map(|cell| cell.scenario.workload.size().requests);
        let requests = match (requests().min(), requests().max()) {
            (Some(least), Some(most)) if least < most => format!("{least} to {most}"),
            (least, _) => least.unwrap_or(0).to_string(),
        };
        let mut notes = Vec::new();
        if let Some(most) = self.asked.seeds.filter(|&most| most < raw.tuning.count.max(raw.report.count)) {
            notes.push(format!(
                "A quick look: of the {} seeds of tuning and the {} of measuring that the league has, at most {most} each.",
                raw.tuning.count, raw.report.count
            ));
        }
        if !self.asked.only.is_empty() {
            notes.push(format!("Only these cells: {}.", self.asked.only.join("; ")));
        }
        let left_out = tuned.left_out(entrants);
        if !left_out.is_empty() {
            notes.push(format!("Left out, for the reference does not know them: {}.", left_out.join(", ")));
        }
        let told = |seeds: &[u64]| match seeds {
            [first, .., last] => format!("seeds {first} to {last}"),
            [one] => format!("seed {one}"),
            [] => String::new(),
        };
        let tuned_on = match self.asked.reference {
            Some(file) => format!("as in {}", file.display()),
            None => told(&tuning),
        };
        let facts = [
            ("cells", cells.len().to_string()),
            ("tuned on", tuned_on),
            ("measured on", told(&measured)),
            ("requests in a run", requests),
        ];
        let signals = cells.iter().find_map(|cell| match &cell.scenario.raw.acceptance {
            Some(AcceptanceConfig::Heterogeneous(config)) => Some(config.signal_correlation.get()),
            _ => None,
        });
        LeagueReport {
            title: Path::new(&self.league.name)
                .file_stem()
                .map_or_else(|| self.league.name.clone(), |stem| stem.to_string_lossy().into_owned()),
            description: self.league.description.clone(),
            facts: facts.into_iter().map(|(what, value)| (what.to_owned(), value)).collect(),
            notes,
            regimes: raw.regimes.iter().map(|regime| (regime.name.clone(), regime.about.clone())).collect(),
            pools: raw.pools.iter().map(|pool| pool.name.clone()).collect(),
            variants: raw.variants.iter().map(|variant| variant.name.clone()).collect(),
            written: Some(self.league.written()),
            tuning_seeds: if self.asked.reference.is_some() { Vec::new() } else { tuning },
            report_seeds: measured,
            signals,
            chosen: tuned.chosen(self.league, cells, entrants),
            ..LeagueReport::default()
        }
    }

    /// Takes out the names of regimes, pools and variants that were not run.
    fn only_what_ran(&self, report: &mut LeagueReport) {
        let raw = &self.league.raw;
        let kept = |count: usize, of: fn(&CellReport) -> usize| -> Vec<usize> {
            (0..count).filter(|&index| report.cells.iter().any(|cell| of(cell) == index)).collect()
        };
        let pools = kept(raw.pools.len(), |cell| cell.pool);
        let regimes = kept(raw.regimes.len(), |cell| cell.regime);
        let variants = kept(raw.variants.len(), |cell| cell.variant);
        let new = |kept: &[usize], old: usize| kept.iter().position(|&index| index == old).unwrap_or(0);
        for cell in &mut report.cells {
            cell.pool = new(&pools, cell.pool);
            cell.regime = new(&regimes, cell.regime);
            cell.variant = new(&variants, cell.variant);
        }
        report.written = variants.iter().position(|&index| index == self.league.written());
        report.pools = pools.iter().map(|&index| report.pools[index].clone()).collect();
        report.regimes = regimes.iter().map(|&index| report.regimes[index].clone()).collect();
        report.variants = variants.iter().map(|&index| report.variants[index].clone()).collect();
    }

    /// Every cell as a scenario that `specrouter run` takes.
    fn keep(&self, cells: &[Cell]) -> Result<(), Failure> {
        let folder = self.out.join("cells");
        // A folder holds one league: the cells of the one before go.
        if folder.exists() && self.out.join("league.json").exists() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("cannot clear {}", folder.display()))?;
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for cell in cells {
            let names = [&self.league.raw.pools[cell.pool].name, &self.league.raw.regimes[cell.regime].name];
            let variant = &self.league.raw.variants[cell.variant].name;
            let name =
                format!("{}, {}, {variant}", names[0], names[1]).replace(|c: char| !c.is_alphanumeric(), "-");
            files::put(&folder.join(format!("{name}.yaml")), &cell.scenario.resolved_text()?)?;
        }
        Ok(())
    }

    fn tuning_seeds(&self) -> Vec<u64> {
        self.league.raw.tuning.up_to(self.asked.seeds)
    }

    pub(super) fn report_seeds(&self) -> Vec<u64> {
        self.league.raw.report.up_to(self.asked.seeds)
    }

    pub(super) fn say(&self, line: &str) {
        if !self.quiet {
            progress::say(line);
        }
    }

    /// What came of all jobs, or that they were interrupted.
    fn all<R>(&self, results: Vec<Option<R>>) -> Result<Vec<R>, Failure> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Failure::Interrupted("half a league has no standings: nothing was kept".into()));
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// What each run came to, in the order of jobs.
    pub(super) fn scores(&self, jobs: &[Job<'_>]) -> Result<Vec<Score>, Failure> {
        let requests = jobs.iter().map(|job| job.scenario.workload.size().requests).sum();
        let bar = progress::bar(requests, jobs.len(), self.quiet);
        let scores = parallel::map(jobs, self.threads, self.stop, |job| {
            let summary = once(job.scenario, job.arm, &job.scenario.workload, job.seed, self.stop)?;
            bar.job_done(job.scenario.workload.size().requests);
            Ok((!self.stop.load(Ordering::Relaxed)).then(|| Score::of(&summary.summary)))
        });
        bar.finish();
        self.all(scores?)
    }

    /// Every candidate in every regime as written, on the tuning seeds; and how many runs that took.
    fn tune(&self, cells: &[Cell], entrants: &[Entrant]) -> Result<(Tuned, usize), Failure> {
        let seeds = self.tuning_seeds();
        let cells: Vec<&Cell> = cells.iter().filter(|cell| cell.variant == self.league.written()).collect();
        let mut jobs = Vec::new();
        for cell in &cells {
            for arm in &cell.scenario.arms {
                jobs.extend(seeds.iter().map(|&seed| Job { scenario: &cell.scenario, arm, seed }));
            }
        }
        self.say(&format!("tuning: {} runs", jobs.len()));
        let scores = self.scores(&jobs)?;
        Ok((Tuned::found(self.league, &cells, entrants, &scores, seeds.len()), jobs.len()))
    }
}
