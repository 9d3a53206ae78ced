//! Tuning, measuring, reporting.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use specrouter_reports::league::{CellReport, Chosen, LeagueReport, Row, Score};

use super::{Cell, Entrant, League};
use crate::args::{Format, RunArgs};
use crate::commands::run::arms::once;
use crate::commands::run::progress;
use crate::failure::Failure;
use crate::references::{clairvoyant_arm, static_plans};
use crate::scenario::{Arm, Scenario};
use crate::{files, parallel};

/// The reference that knows the regime: its best static plan on the tuning seeds.
const HINDSIGHT: &str = "hindsight";

/// Runs a league, prints its table and writes its page.
///
/// # Errors
/// [`Failure::BadInput`] for a league that cannot be run, [`Failure::Interrupted`] after Ctrl-C, [`Failure::Failed`] for
/// the rest.
pub fn run(args: &RunArgs, stop: &AtomicBool) -> Result<(), Failure> {
    let league = League::read(&args.scenario, &args.sets).map_err(Failure::input)?;
    let out = args.out.clone().unwrap_or_else(|| files::default_folder(&args.scenario));
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let threads = args.jobs.or_else(|| std::thread::available_parallelism().ok());
    let around = Around {
        league: &league,
        threads: threads.map_or(1, NonZeroUsize::get),
        quiet: args.quiet,
        seeds: args.seeds,
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
    if !args.quiet {
        progress::say(&format!("report: {}", out.join("league.html").display()));
    }
    Ok(())
}

/// The command that makes the page again.
fn command(args: &RunArgs) -> String {
    let sets = args.sets.iter().map(|set| format!(" --set {set}")).collect::<String>();
    let seeds = args.seeds.map(|seeds| format!(" --seeds {seeds}")).unwrap_or_default();
    format!("specrouter run {}{sets}{seeds}", args.scenario)
}

/// A league that is being run.
struct Around<'a> {
    league: &'a League,
    threads: usize,
    quiet: bool,
    /// Most seeds of tuning and of the report.
    seeds: Option<u32>,
    out: &'a Path,
    stop: &'a AtomicBool,
}

/// One run: a cell's arm under a seed; `signals` in the place of the cell's own.
struct Job<'a> {
    scenario: &'a Scenario,
    cell: &'a Cell,
    arm: &'a Arm,
    seed: u64,
}

impl Around<'_> {
    fn report(&self, command: String) -> Result<LeagueReport, Failure> {
        let raw = &self.league.raw;
        let places: Vec<(usize, usize)> =
            (0..raw.pools.len()).flat_map(|pool| (0..raw.regimes.len()).map(move |r| (pool, r))).collect();
        self.say(&format!("{} cells", places.len() * raw.variants.len()));
        let cells = parallel::map(&places, self.threads, self.stop, |&(pool, regime)| {
            self.league.cells(pool, regime, self.stop)
        })?;
        let cells: Vec<Cell> = self.all(cells)?.into_iter().flatten().collect();
        let statics = cells.iter().map(|cell| static_plans(&cell.scenario).len()).max().unwrap_or(0);
        let entrants = self.league.entrants(statics);
        self.keep(&cells)?;
        let tuned = self.tune(&cells, &entrants)?;
        let chosen = tuned.chosen(self.league, &cells, &entrants);
        let reports = self.measure(&cells, &entrants, &tuned)?;
        let (tuning, measured) = (raw.tuning.up_to(self.seeds), raw.report.up_to(self.seeds));
        let range = |seeds: &[u64]| match (seeds.first(), seeds.last()) {
            (Some(first), Some(last)) => format!("{first} to {last}"),
            _ => String::new(),
        };
        let facts = vec![
            ("tuned on seeds".to_owned(), range(&tuning)),
            ("measured on seeds".to_owned(), range(&measured)),
            (
                "requests in a run".to_owned(),
                cells.first().map_or(0, |c| c.scenario.workload.size().requests).to_string(),
            ),
        ];
        Ok(LeagueReport {
            title: self.league.name.clone(),
            description: self.league.description.clone(),
            facts,
            regimes: raw.regimes.iter().map(|regime| (regime.name.clone(), regime.about.clone())).collect(),
            pools: raw.pools.iter().map(|pool| pool.name.clone()).collect(),
            variants: raw.variants.iter().map(|variant| variant.name.clone()).collect(),
            chosen,
            cells: reports,
            command,
        })
    }

    /// Every cell as a scenario that `specrouter run` takes.
    fn keep(&self, cells: &[Cell]) -> Result<(), Failure> {
        let folder = self.out.join("cells");
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

    fn say(&self, line: &str) {
        if !self.quiet {
            progress::say(line);
        }
    }

    /// What came of all jobs, or that they were interrupted.
    fn all<R>(&self, results: Vec<Option<R>>) -> Result<Vec<R>, Failure> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Failure::Interrupted("a league is a whole: nothing was written".into()));
        }
        Ok(results.into_iter().flatten().collect())
    }

    fn scores(&self, jobs: &[Job<'_>]) -> Result<Vec<Score>, Failure> {
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

    /// Every candidate in every regime as written, on the tuning seeds.
    fn tune(&self, cells: &[Cell], entrants: &[Entrant]) -> Result<Tuned, Failure> {
        let seeds = self.league.raw.tuning.up_to(self.seeds);
        let cells: Vec<&Cell> = cells.iter().filter(|cell| cell.variant == 0).collect();
        let mut jobs = Vec::new();
        for cell in &cells {
            for arm in &cell.scenario.arms {
                jobs.extend(seeds.iter().map(|&seed| Job { scenario: &cell.scenario, cell, arm, seed }));
            }
        }
        self.say(&format!("tuning: {} runs", jobs.len()));
        let scores = self.scores(&jobs)?;
        // Mean log of latency per token, by place and arm.
        let means: Vec<f64> = scores
            .chunks(seeds.len())
            .map(|seeds| seeds.iter().map(|score| score.latency_s.ln()).sum::<f64>() / seeds.len() as f64)
            .collect();
        let mut means = means.as_slice();
        let mut by_place = Vec::new();
        for cell in &cells {
            let (own, rest) = means.split_at(cell.scenario.arms.len());
            by_place.push((cell.pool, cell.regime, own.to_vec()));
            means = rest;
        }
        let pools = self.league.raw.pools.len();
        let best_of = |pool: usize, entrant: &Entrant| {
            let mean = |&arm: &usize| -> f64 {
                by_place.iter().filter(|(p, _, _)| *p == pool).map(|(_, _, means)| means[arm]).sum()
            };
            least(&entrant.candidates, mean)
        };
        let arms = (0..pools).map(|pool| entrants.iter().map(|e| best_of(pool, e)).collect()).collect();
        let written: usize = self.league.raw.policies.iter().map(|entrant| entrant.tune.len()).sum();
        let hindsight = by_place
            .iter()
            .map(|(pool, regime, means)| {
                let statics: Vec<usize> = (written..means.len()).collect();
                (*pool, *regime, least(&statics, |&arm| means[arm]))
            })
            .collect();
        Ok(Tuned { arms, hindsight })
    }

    /// Every entrant as it was tuned, and the references, in every cell on the report seeds.
    fn measure(
        &self,
        cells: &[Cell],
        entrants: &[Entrant],
        tuned: &Tuned,
    ) -> Result<Vec<CellReport>, Failure> {
        let seeds = self.league.raw.report.up_to(self.seeds);
        // Scenarios with other signals, made once.
        let mut other: Vec<(usize, f64, Scenario)> = Vec::new();
        for (index, cell) in cells.iter().enumerate().filter(|(_, cell)| cell.variant == 0) {
            let mut wanted: Vec<f64> = entrants.iter().flat_map(|e| e.signals.iter().copied()).collect();
            wanted.sort_by(f64::total_cmp);
            wanted.dedup_by(|a, b| a.total_cmp(b).is_eq());
            for correlation in wanted {
                other.push((index, correlation, cell.with_signals(correlation)?));
            }
        }
        let clairvoyants: Vec<Arm> = cells.iter().map(|cell| clairvoyant_arm(&cell.scenario)).collect();
        let (mut jobs, mut rows) = (Vec::new(), Vec::new());
        for (index, cell) in cells.iter().enumerate() {
            let arms = &cell.scenario.arms;
            let mut add = |name: String, reference: bool, scenario, arm| {
                rows.push((index, name, reference));
                jobs.extend(seeds.iter().map(|&seed| Job { scenario, cell, arm, seed }));
            };
            for (entrant, &arm) in entrants.iter().zip(&tuned.arms[cell.pool]) {
                add(entrant.name.clone(), false, &cell.scenario, &arms[arm]);
                for &correlation in &entrant.signals {
                    if let Some((_, _, scenario)) =
                        other.iter().find(|(at, c, _)| *at == index && c.total_cmp(&correlation).is_eq())
                    {
                        add(
                            format!("{}, signals at {correlation}", entrant.name),
                            true,
                            scenario,
                            &arms[arm],
                        );
                    }
                }
            }
            add(HINDSIGHT.to_owned(), true, &cell.scenario, &arms[tuned.hindsight(cell)]);
            add("clairvoyant".to_owned(), true, &cell.scenario, &clairvoyants[index]);
        }
        self.say(&format!("measuring: {} runs", jobs.len()));
        let scores = self.scores(&jobs)?;
        let mut reports: Vec<CellReport> = cells
            .iter()
            .map(|cell| CellReport {
                pool: cell.pool,
                regime: cell.regime,
                variant: cell.variant,
                hindsight: cell.scenario.arms[tuned.hindsight(cell)].name.clone(),
                rows: Vec::new(),
            })
            .collect();
        for ((index, name, reference), scores) in rows.into_iter().zip(scores.chunks(seeds.len())) {
            reports[index].rows.push(Row { name, reference, seeds: scores.to_vec() });
        }
        Ok(reports)
    }
}

/// What tuning found.
struct Tuned {
    /// By pool and entrant: the arm.
    arms: Vec<Vec<usize>>,
    /// By pool and regime: the best static arm.
    hindsight: Vec<(usize, usize, usize)>,
}

impl Tuned {
    fn hindsight(&self, cell: &Cell) -> usize {
        let own =
            self.hindsight.iter().find(|(pool, regime, _)| (*pool, *regime) == (cell.pool, cell.regime));
        own.map_or(0, |(_, _, arm)| *arm)
    }

    /// What each entrant was tuned to, for people.
    fn chosen(&self, league: &League, cells: &[Cell], entrants: &[Entrant]) -> Vec<Chosen> {
        let mut all = Vec::new();
        for (pool, arms) in self.arms.iter().enumerate() {
            let Some(cell) = cells.iter().find(|cell| cell.pool == pool) else { continue };
            for (entrant, &arm) in entrants.iter().zip(arms) {
                all.push(Chosen {
                    pool: league.raw.pools[pool].name.clone(),
                    entrant: entrant.name.clone(),
                    policy: cell.scenario.arms[arm].name.clone(),
                    candidates: entrant.candidates.len(),
                });
            }
        }
        all
    }
}

/// The candidate with the least value; the first of equals.
fn least(candidates: &[usize], value: impl Fn(&usize) -> f64) -> usize {
    candidates.iter().copied().min_by(|a, b| value(a).total_cmp(&value(b))).unwrap_or(0)
}
