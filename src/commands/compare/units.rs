//! What is simulated: every source at every load, seed by seed, on all cores.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};

use specrouter_reports::{ArmResult, BoundReport, Keep, Kind, StudyArm};
use specrouter_routing::workload::Workload;
use specrouter_sim::drive::Ended;

use super::sources::{Runs, Source, What};
use crate::args::CompareArgs;
use crate::commands::run::arms::{Kept, kept, on_threads};
use crate::commands::run::{cores, progress};
use crate::failure::Failure;
use crate::references;
use crate::scenario::{Arm, Scenario};

/// Seeds of a pilot lie above those of any run, and apart from those that `hindsight` is chosen on.
const PILOT: u64 = 1 << 41;

/// One source at one load.
struct Unit<'a> {
    /// Index of the source.
    source: usize,
    typed: &'a str,
    runs: &'a Runs,
    /// The scenario with the seeds of this unit, and the references among its arms.
    scenario: Scenario,
    /// Arms from here on are references.
    own: usize,
    load: Option<f64>,
    workload: Workload,
    group: String,
    /// By arm and seed, in the order of both.
    done: Vec<Vec<Option<Kept>>>,
    bound: Option<BoundReport>,
}

/// All of them.
pub struct Units<'a>(Vec<Unit<'a>>);

impl<'a> Units<'a> {
    /// Every source's loads, with references where they are asked for.
    ///
    /// # Errors
    /// Loads that cannot be found, or Ctrl-C while they are.
    pub fn new(sources: &'a [Source], args: &CompareArgs, stop: &AtomicBool) -> Result<Self, Failure> {
        let mut units = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            let What::Run(runs) = &source.what else { continue };
            // The same scenario under another policy is simulated beside it, its references once.
            let again = sources[..index].iter().any(|other| other.typed == source.typed);
            for (load, workload, group) in runs.workloads(stop)? {
                let mut scenario = runs.scenario.clone();
                let own = scenario.arms.len();
                if args.references && !again {
                    let best = references::hindsight_arm(&scenario, &workload, stop)?;
                    scenario.arms.push(references::clairvoyant_arm(&scenario));
                    scenario.arms.extend(best);
                }
                if stop.load(Ordering::Relaxed) {
                    return Err(Failure::Interrupted("no run had begun".into()));
                }
                let done = scenario.arms.iter().map(|_| Vec::new()).collect();
                let typed = &source.typed;
                units.push(Unit {
                    source: index,
                    typed,
                    runs,
                    scenario,
                    own,
                    load,
                    workload,
                    group,
                    done,
                    bound: None,
                });
            }
        }
        Ok(Self(units))
    }

    /// The most seeds of a source that has luck.
    pub fn seeds(&self) -> usize {
        let lucky = self.0.iter().filter(|unit| unit.runs.kind != Kind::Fact);
        lucky.map(|unit| unit.scenario.seeds.len()).max().unwrap_or(1)
    }

    /// Policies of a source, in its order.
    pub fn policies(&self, source: usize) -> Vec<String> {
        let unit = self.0.iter().find(|unit| unit.source == source);
        unit.map(|unit| unit.scenario.arms[..unit.own].iter().map(|arm| arm.name.clone()).collect())
            .unwrap_or_default()
    }

    /// Takes other seeds in place of the scenarios' own.
    pub fn pilot(&mut self, seeds: u32) {
        for unit in self.0.iter_mut().filter(|unit| unit.runs.kind != Kind::Fact) {
            let first = unit.scenario.raw.seed ^ PILOT;
            unit.scenario.seeds = (0..u64::from(seeds)).map(|n| first.wrapping_add(n)).collect();
        }
    }

    /// Simulates what is not there yet: the scenarios' seeds, or the first `count` counted up from theirs.
    ///
    /// # Errors
    /// A policy's bad answer.
    pub fn run(
        &mut self,
        count: Option<usize>,
        jobs: Option<NonZeroUsize>,
        quiet: bool,
        stop: &AtomicBool,
    ) -> Result<(), Failure> {
        for unit in &mut self.0 {
            if let Some(count) = count.filter(|_| unit.runs.kind != Kind::Fact) {
                let first = unit.scenario.raw.seed;
                unit.scenario.seeds = (0..count as u64).map(|n| first.wrapping_add(n)).collect();
            }
        }
        // Seed by seed, so that an interrupted comparison has whole ones.
        let most = self.0.iter().map(|unit| unit.scenario.seeds.len()).max().unwrap_or(0);
        let mut todo = Vec::new();
        for seed in 0..most {
            for (index, unit) in self.0.iter().enumerate() {
                let arms = (0..unit.scenario.arms.len()).filter(|&arm| unit.done[arm].len() <= seed);
                todo.extend(arms.filter(|_| seed < unit.scenario.seeds.len()).map(|arm| (index, arm, seed)));
            }
        }
        let units = &self.0;
        let requests = todo.iter().map(|&(unit, _, _)| units[unit].workload.size().requests).sum();
        let bar = progress::bar(requests, todo.len(), quiet);
        let threads = jobs.map_or_else(cores, NonZeroUsize::get).min(todo.len().max(1));
        let done = on_threads(todo.len(), threads, stop, &|index| {
            let (unit, arm, seed) = todo[index];
            units[unit].one(arm, seed, &bar, stop)
        });
        bar.finish();
        for ((unit, arm, _), done) in todo.into_iter().zip(done?) {
            self.0[unit].done[arm].push(done);
        }
        Ok(())
    }

    /// Computes what no policy can beat, under the seeds that have run.
    ///
    /// # Errors
    /// Hardware that cannot be priced.
    pub fn bounds(&mut self, stop: &AtomicBool) -> Result<(), Failure> {
        for index in 0..self.0.len() {
            // Arms of one group have one bound if their models and devices are the same: computed for each source.
            let unit = &self.0[index];
            self.0[index].bound = references::bound(&unit.scenario, &unit.workload, stop)?;
        }
        Ok(())
    }

    /// What has finished of a source, load by load, under the names of its policies.
    pub fn results(&self, source: usize) -> Vec<StudyArm> {
        self.0.iter().filter(|unit| unit.source == source).flat_map(Unit::results).collect()
    }

    /// What a reader must know of the runs.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for unit in &self.0 {
            for (arm, done) in unit.scenario.arms.iter().zip(&unit.done) {
                let off: u64 = done.iter().flatten().map(|kept| kept.extrapolations).sum();
                if off > 0 {
                    let name = format!("{}#{}", unit.typed, arm.name);
                    notes.push(format!("{name}: {off} passes were priced beyond the measured table"));
                }
            }
        }
        notes
    }
}

impl Unit<'_> {
    fn one(
        &self,
        arm: usize,
        seed: usize,
        bar: &progress::Bar,
        stop: &AtomicBool,
    ) -> anyhow::Result<Option<Kept>> {
        let keep = if self.runs.kind == Kind::Fact { Keep::Requests } else { Keep::Summary };
        let mut told = 0;
        let watch = &mut |now: specrouter_sim::drive::Progress| {
            bar.advance(now.ended - told, now.events);
            told = now.ended;
            !stop.load(Ordering::Relaxed)
        };
        let seed = self.scenario.seeds[seed].into();
        let done = kept(&self.scenario, &self.scenario.arms[arm], &self.workload, seed, keep, watch)?;
        bar.job_done(self.workload.size().requests.saturating_sub(told));
        Ok((done.ended != Ended::Interrupted).then_some(done))
    }

    fn results(&self) -> Vec<StudyArm> {
        let result = |(index, arm): (usize, &Arm)| {
            let done = || self.done[index].iter().flatten();
            let result = ArmResult {
                policy: arm.name.clone(),
                label: arm.label.into(),
                other_output: arm.other_output,
                load: self.load,
                pool: arm.members.iter().map(|&index| self.scenario.pool[index].name.clone()).collect(),
                seeds: done().map(|kept| kept.summary.clone()).collect(),
            };
            StudyArm {
                arm: result,
                source: self.typed.to_owned(),
                kind: self.runs.kind,
                group: self.group.clone(),
                reference: index >= self.own,
                requests: done().next().map(|kept| kept.requests.clone()).unwrap_or_default(),
                bound: self.bound.clone(),
            }
        };
        self.scenario.arms.iter().enumerate().map(result).collect()
    }
}
