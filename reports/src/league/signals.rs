//! Policies that live on confidence signals, by how good the signals are.

use super::{CellReport, LeagueReport, Role};
use crate::compare::mean;

/// A policy under signals of one quality, over the regimes as written.
pub(super) struct UnderSignals<'a> {
    /// The policy.
    pub of: &'a str,
    /// The row that holds it: its own, or one of other signals.
    pub row: &'a str,
    /// Rank correlation of the signals with the acceptance behind them.
    pub correlation: f64,
    /// Mean regret over those cells, as a relative change.
    pub regret: f64,
    /// The largest.
    pub worst: f64,
}

impl LeagueReport {
    /// Every policy that is shown under other signals, under those and under the cells' own, in the order of names and
    /// then of signals.
    pub(super) fn under_signals(&self) -> Vec<UnderSignals<'_>> {
        let names = self.names();
        let other = |role: &Role| matches!(role, Role::Signals { .. });
        let mut all = Vec::new();
        for &(name, _) in names.iter().filter(|(_, role)| !other(role)) {
            let mut rows: Vec<(&str, f64)> = names
                .iter()
                .filter_map(|&(row, role)| match role {
                    Role::Signals { of, correlation } if of == name => Some((row, *correlation)),
                    _ => None,
                })
                .collect();
            if rows.is_empty() {
                continue;
            }
            let own = self.signals.filter(|own| rows.iter().all(|row| row.1.total_cmp(own).is_ne()));
            rows.extend(own.map(|own| (name, own)));
            rows.sort_by(|a, b| a.1.total_cmp(&b.1));
            all.extend(rows.into_iter().map(|(row, correlation)| {
                let (regret, worst) = self.regret_as_written(row);
                UnderSignals { of: name, row, correlation, regret, worst }
            }));
        }
        all
    }

    /// Mean and largest regret of a row over the cells as written.
    fn regret_as_written(&self, name: &str) -> (f64, f64) {
        let cells = self.cells.iter().filter(|cell| self.as_written(cell));
        let regrets: Vec<f64> = cells.filter_map(|cell| Some(cell.regret(cell.row(name)?))).collect();
        let worst = regrets.iter().copied().max_by(f64::total_cmp).unwrap_or(f64::NAN);
        (mean(&regrets).map_or(f64::NAN, f64::exp_m1), worst.exp_m1())
    }

    /// Is this the regime as it was written?
    pub(super) fn as_written(&self, cell: &CellReport) -> bool {
        Some(cell.variant) == self.written
    }
}
