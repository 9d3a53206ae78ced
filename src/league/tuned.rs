//! What policies are tuned to: found on the tuning seeds, or read from a league that was run before.

use std::path::Path;

use anyhow::Context;
use serde::Deserialize;
use specrouter_reports::league::{Chosen, Score};

use super::{Cell, Entrant, League};

/// The arms that are entered.
pub struct Tuned {
    /// By pool and entrant; `None` for pools that are not run and policies that the file does not know.
    arms: Vec<Vec<Option<usize>>>,
    /// By pool and regime: the best static arm.
    hindsight: Vec<(usize, usize, usize)>,
}

/// The parts of a `league.json` that say what was chosen.
#[derive(Deserialize)]
struct Reference {
    tuned: Vec<Choice>,
    /// Regime, pool, variant, best static plan.
    cells: Vec<(String, String, String, String)>,
}

#[derive(Deserialize)]
struct Choice {
    pool: String,
    policy: String,
    to: String,
    candidate: usize,
}

impl Tuned {
    /// The best candidate of each entrant over the regimes of each pool, and the best static plan of each regime.
    /// `scores` are of every arm of `cells`, the regimes as written, each over `seeds` seeds.
    pub fn found(
        league: &League,
        cells: &[&Cell],
        entrants: &[Entrant],
        scores: &[Score],
        seeds: usize,
    ) -> Self {
        let mean =
            |runs: &[Score]| runs.iter().map(|score| score.latency_s.ln()).sum::<f64>() / runs.len() as f64;
        let means: Vec<f64> = scores.chunks(seeds).map(mean).collect();
        let mut means = means.as_slice();
        let mut by_place: Vec<(usize, usize, &[f64])> = Vec::new();
        for cell in cells {
            let (own, rest) = means.split_at(cell.scenario.arms.len());
            by_place.push((cell.pool, cell.regime, own));
            means = rest;
        }
        let best_of = |pool: usize, entrant: &Entrant| {
            let own = || by_place.iter().filter(|place| place.0 == pool);
            let sum = |&arm: &usize| own().map(|place| place.2[arm]).sum();
            (own().count() > 0).then(|| least(&entrant.candidates, sum))
        };
        let pools = 0..league.raw.pools.len();
        let arms = pools.map(|pool| entrants.iter().map(|e| best_of(pool, e)).collect()).collect();
        let hindsight = by_place
            .iter()
            .map(|&(pool, regime, means)| {
                let statics: Vec<usize> = (league.written_arms()..means.len()).collect();
                (pool, regime, least(&statics, |&arm| means[arm]))
            })
            .collect();
        Self { arms, hindsight }
    }

    /// As `file`, a `league.json`, has them. Policies that it does not know are left out: [`Self::left_out`].
    ///
    /// # Errors
    /// A file that cannot be read, and one that does not fit: another choice stands where it chose, or a cell is not in it.
    pub fn read(file: &Path, league: &League, cells: &[Cell], entrants: &[Entrant]) -> anyhow::Result<Self> {
        let shown = file.display();
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {shown}"))?;
        let reference: Reference =
            serde_json::from_str(&text).with_context(|| format!("{shown} is no league.json"))?;
        let stale = |what: String| {
            anyhow::anyhow!(
                "{shown}: {what}; the league has changed since: make the file again with `specrouter run {}`",
                league.name
            )
        };
        let mut arms = vec![vec![None; entrants.len()]; league.raw.pools.len()];
        let mut hindsight = Vec::new();
        for cell in cells {
            let pool = &league.raw.pools[cell.pool].name;
            let name = |arm: usize| cell.scenario.arms.get(arm).map(|arm| arm.name.as_str());
            for (entrant, entered) in entrants.iter().zip(&mut arms[cell.pool]) {
                let own = reference.tuned.iter().find(|c| c.policy == entrant.name && c.pool == *pool);
                let Some(choice) = own else { continue };
                *entered = entrant.candidates.get(choice.candidate).copied();
                if entered.and_then(name) != Some(&choice.to) {
                    return Err(stale(format!(
                        "{} on {pool}: candidate {} is not {}",
                        entrant.name, choice.candidate, choice.to
                    )));
                }
            }
            let regime = &league.raw.regimes[cell.regime].name;
            let best = reference.cells.iter().find(|c| c.0 == *regime && c.1 == *pool).map(|c| c.3.as_str());
            let statics = league.written_arms()..cell.scenario.arms.len();
            let arm = best.and_then(|best| statics.clone().find(|&arm| name(arm) == Some(best)));
            let arm = arm.ok_or_else(|| stale(format!("no static plan for {regime}, {pool}")))?;
            hindsight.push((cell.pool, cell.regime, arm));
        }
        Ok(Self { arms, hindsight })
    }

    /// The arm of an entrant on a pool.
    pub fn arm(&self, pool: usize, entrant: usize) -> Option<usize> {
        self.arms[pool][entrant]
    }

    /// The best static arm of a cell's pool and regime.
    pub fn hindsight(&self, cell: &Cell) -> usize {
        let here = |place: &&(usize, usize, usize)| (place.0, place.1) == (cell.pool, cell.regime);
        self.hindsight.iter().find(here).map_or(0, |place| place.2)
    }

    /// Names of the policies that are entered nowhere.
    pub fn left_out<'a>(&self, entrants: &'a [Entrant]) -> Vec<&'a str> {
        let out = |index: &usize| self.arms.iter().all(|arms| arms[*index].is_none());
        (0..entrants.len()).filter(out).map(|index| entrants[index].name.as_str()).collect()
    }

    /// What each entrant was tuned to, for people.
    pub fn chosen(&self, league: &League, cells: &[Cell], entrants: &[Entrant]) -> Vec<Chosen> {
        let mut all = Vec::new();
        for (pool, arms) in self.arms.iter().enumerate() {
            let Some(cell) = cells.iter().find(|cell| cell.pool == pool) else { continue };
            for (entrant, arm) in entrants.iter().zip(arms) {
                let Some(arm) = arm else { continue };
                all.push(Chosen {
                    pool: league.raw.pools[pool].name.clone(),
                    entrant: entrant.name.clone(),
                    policy: cell.scenario.arms[*arm].name.clone(),
                    index: entrant.candidates.iter().position(|own| own == arm).unwrap_or(0),
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
