//! Every entrant and both references in every cell, on the report seeds.

use specrouter_reports::league::{CellReport, Role, Row};

use super::run::{Around, Job};
use super::tuned::Tuned;
use super::{Cell, Entrant};
use crate::failure::Failure;
use crate::references::clairvoyant_arm;
use crate::scenario::{Arm, Scenario};

/// The reference that knows the regime: its best static plan on the tuning seeds.
pub const HINDSIGHT: &str = "hindsight";
/// The reference that knows each request's own future.
pub const CLAIRVOYANT: &str = "clairvoyant";

/// Cells as written with signals of another quality: index of the cell, correlation, scenario.
type Other = Vec<(usize, f64, Scenario)>;

impl Around<'_> {
    /// Every entrant as it was tuned, and the references, in every cell on the report seeds.
    pub fn measure(
        &self,
        cells: &[Cell],
        entrants: &[Entrant],
        tuned: &Tuned,
    ) -> Result<Vec<CellReport>, Failure> {
        let seeds = self.report_seeds();
        let other = self.other_signals(cells, entrants)?;
        let clairvoyants: Vec<Arm> = cells.iter().map(|cell| clairvoyant_arm(&cell.scenario)).collect();
        let (mut jobs, mut rows) = (Vec::new(), Vec::new());
        for (index, cell) in cells.iter().enumerate() {
            let arms = &cell.scenario.arms;
            let mut add = |name: &str, role: Role, scenario, arm| {
                rows.push((index, name.to_owned(), role));
                jobs.extend(seeds.iter().map(|&seed| Job { scenario, arm, seed }));
            };
            for (number, entrant) in entrants.iter().enumerate() {
                let Some(arm) = tuned.arm(cell.pool, number) else { continue };
                add(&entrant.name, Role::Policy, &cell.scenario, &arms[arm]);
                for &correlation in &entrant.signals {
                    let here =
                        |o: &&(usize, f64, Scenario)| o.0 == index && o.1.total_cmp(&correlation).is_eq();
                    let Some((_, _, scenario)) = other.iter().find(here) else { continue };
                    let role = Role::Signals { of: entrant.name.clone(), correlation };
                    let name = format!("{}, signals at {correlation}", entrant.name);
                    add(&name, role, scenario, &arms[arm]);
                }
            }
            add(HINDSIGHT, Role::Reference, &cell.scenario, &arms[tuned.hindsight(cell)]);
            add(CLAIRVOYANT, Role::Reference, &cell.scenario, &clairvoyants[index]);
        }
        self.say(&format!("measuring: {} runs", jobs.len()));
        let scores = self.scores(&jobs)?;
        let report = |cell: &Cell| CellReport {
            pool: cell.pool,
            regime: cell.regime,
            variant: cell.variant,
            hindsight: cell.scenario.arms[tuned.hindsight(cell)].name.clone(),
            rows: Vec::new(),
        };
        let mut reports: Vec<CellReport> = cells.iter().map(report).collect();
        for ((index, name, role), scores) in rows.into_iter().zip(scores.chunks(seeds.len())) {
            reports[index].rows.push(Row { name, role, seeds: scores.to_vec() });
        }
        Ok(reports)
    }

    /// The cells as written under every other quality of signals that an entrant asks for, each made once.
    fn other_signals(&self, cells: &[Cell], entrants: &[Entrant]) -> anyhow::Result<Other> {
        let mut wanted: Vec<f64> = entrants.iter().flat_map(|e| e.signals.iter().copied()).collect();
        wanted.sort_by(f64::total_cmp);
        wanted.dedup_by(|a, b| a.total_cmp(b).is_eq());
        let mut other = Vec::new();
        let written = self.league.written();
        for (index, cell) in cells.iter().enumerate().filter(|(_, cell)| cell.variant == written) {
            for &correlation in &wanted {
                other.push((index, correlation, cell.with_signals(correlation)?));
            }
        }
        Ok(other)
    }
}
