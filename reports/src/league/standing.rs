//! Regret and rank.

use super::{CellReport, LeagueReport, Role, Row};
use crate::compare::mean;

/// A policy over all cells.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Who.
    pub name: String,
    /// Ranked or not.
    pub role: Role,
    /// Mean regret over cells, as a relative change: of logarithms, so a geometric mean.
    pub mean: f64,
    /// Its largest regret.
    pub worst: f64,
    /// Index of the cell where it is largest; the first of equals.
    pub worst_cell: usize,
    /// Mean over cells of its rank among the ranked policies, by mean latency per token; equals share their mean rank.
    /// `None` for what is not ranked.
    pub mean_rank: Option<f64>,
    /// By regime: mean regret over its pools and variants. NaN where it did not run, here and below.
    pub regimes: Vec<f64>,
    /// By pool: mean regret over regimes and variants.
    pub pools: Vec<f64>,
    /// By variant: mean regret over regimes and pools.
    pub variants: Vec<f64>,
    /// Cells of all.
    pub cells: usize,
}

impl CellReport {
    /// ln of latency per token by seed, for the better of the two references.
    ///
    /// The better is known from the seeds that are reported, so it is a little better than the better of the two really
    /// is: every regret of the cell is a little too large, by the same for all, and ranks do not feel it.
    fn reference(&self) -> Vec<f64> {
        let logs = ["clairvoyant", "hindsight"].iter().filter_map(|name| Some(self.row(name)?.logs()));
        logs.min_by(|a, b| a.iter().sum::<f64>().total_cmp(&b.iter().sum())).unwrap_or_default()
    }

    /// Mean over seeds of ln(row / reference).
    pub(super) fn regret(&self, row: &Row) -> f64 {
        let differences: Vec<f64> =
            row.logs().iter().zip(self.reference()).map(|(own, best)| own - best).collect();
        mean(&differences).unwrap_or(f64::NAN)
    }

    /// Name, mean log of latency and rank of every ranked policy; equals share their mean rank.
    fn ranks(&self) -> Vec<(&str, f64)> {
        let means: Vec<(&str, f64)> = self
            .rows
            .iter()
            .filter(|row| row.role == Role::Policy)
            .map(|row| (row.name.as_str(), mean(&row.logs()).unwrap_or(f64::NAN)))
            .collect();
        let rank = |own: f64| {
            let below = means.iter().filter(|(_, other)| other.total_cmp(&own).is_lt()).count();
            let equal = means.iter().filter(|(_, other)| other.total_cmp(&own).is_eq()).count();
            below as f64 + (equal as f64 + 1.0) / 2.0
        };
        means.iter().map(|&(name, own)| (name, rank(own))).collect()
    }
}

impl LeagueReport {
    /// Every row by mean regret: the ranked policies, then the references, then the rows of other signals.
    pub fn standings(&self) -> Vec<Standing> {
        let ranks: Vec<Vec<(&str, f64)>> = self.cells.iter().map(CellReport::ranks).collect();
        let mut all: Vec<Standing> =
            self.names().into_iter().map(|(name, role)| self.standing(name, role, &ranks)).collect();
        all.sort_by(|a, b| a.role.group().cmp(&b.role.group()).then(a.mean.total_cmp(&b.mean)));
        all
    }

    fn standing(&self, name: &str, role: &Role, ranks: &[Vec<(&str, f64)>]) -> Standing {
        let regrets: Vec<(usize, f64)> = self
            .cells
            .iter()
            .enumerate()
            .filter_map(|(index, cell)| Some((index, cell.regret(cell.row(name)?))))
            .collect();
        let over = |kept: &dyn Fn(&CellReport) -> bool| {
            let own: Vec<f64> = regrets.iter().filter(|r| kept(&self.cells[r.0])).map(|r| r.1).collect();
            mean(&own).map_or(f64::NAN, f64::exp_m1)
        };
        let worst = regrets.iter().rev().max_by(|a, b| a.1.total_cmp(&b.1)).copied().unwrap_or((0, f64::NAN));
        let own: Vec<f64> = ranks.iter().flatten().filter(|rank| rank.0 == name).map(|rank| rank.1).collect();
        Standing {
            name: name.to_owned(),
            role: role.clone(),
            mean: over(&|_| true),
            worst: worst.1.exp_m1(),
            worst_cell: worst.0,
            mean_rank: mean(&own),
            regimes: (0..self.regimes.len()).map(|regime| over(&|cell| cell.regime == regime)).collect(),
            pools: (0..self.pools.len()).map(|pool| over(&|cell| cell.pool == pool)).collect(),
            variants: (0..self.variants.len()).map(|v| over(&|cell| cell.variant == v)).collect(),
            cells: regrets.len(),
        }
    }
}
