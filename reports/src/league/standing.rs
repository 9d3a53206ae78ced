//! Regret, rank, and the one comparison that the league is read for: is a policy near the best everywhere?

use serde::Serialize;

use super::{CellReport, LeagueReport, Row};
use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::compare::{CONFIDENCE, mean};

/// A policy over all cells.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standing {
    /// Who.
    pub name: String,
    /// Not ranked.
    pub reference: bool,
    /// Mean regret over cells, as a relative change.
    pub mean: f64,
    /// Its largest regret.
    pub worst: f64,
    /// Index of the cell where it is largest.
    pub worst_cell: usize,
    /// By regime: mean regret over its pools and variants.
    pub regimes: Vec<f64>,
    /// Cells of all.
    pub cells: usize,
}

/// A policy against the best other policy of a regime.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Against {
    /// Index of the regime.
    pub regime: usize,
    /// Who was best there, among ranked policies.
    pub best: String,
    /// Latency per token relative to it: 0.01 is 1 % more.
    pub more: f64,
    /// Upper limit of that, simultaneous over regimes at 95 %.
    pub limit: f64,
}

impl CellReport {
    fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// ln of latency per token by seed, for the better of the two references.
    fn reference(&self) -> Vec<f64> {
        let logs = ["clairvoyant", "hindsight"].iter().filter_map(|name| Some(self.row(name)?.logs()));
        logs.min_by(|a, b| sum(a).total_cmp(&sum(b))).unwrap_or_default()
    }

    /// Mean over seeds of ln(row / reference).
    fn regret(&self, row: &Row) -> f64 {
        let differences: Vec<f64> =
            row.logs().iter().zip(self.reference()).map(|(own, best)| own - best).collect();
        mean(&differences).unwrap_or(f64::NAN)
    }
}

/// Upper limits of the means, all of which hold at once with confidence [`CONFIDENCE`] (Bonferroni, so at least as wide as
/// Holm's); infinite below two seeds.
fn upper_limits(all: &[Vec<f64>]) -> Vec<f64> {
    let share = (1.0 - CONFIDENCE) / all.len().max(1) as f64;
    let limit = |values: &Vec<f64>| {
        let n = values.len() as f64;
        let (Some(mean), Ok(student)) = (mean(values), StudentsT::new(0.0, 1.0, n - 1.0)) else {
            return f64::INFINITY;
        };
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
        if variance > 0.0 { mean + student.inverse_cdf(1.0 - share) * (variance / n).sqrt() } else { mean }
    };
    all.iter().map(limit).collect()
}

fn sum(values: &[f64]) -> f64 {
    values.iter().sum()
}

impl Row {
    /// ln of latency per token by seed.
    pub(super) fn logs(&self) -> Vec<f64> {
        self.seeds.iter().map(|score| score.latency_s.ln()).collect()
    }
}

impl LeagueReport {
    /// Names of the rows, in the order of the file; those that are not in every cell are left out of ranks.
    fn names(&self) -> Vec<(String, bool)> {
        let first = self.cells.first().map(|cell| cell.rows.iter().map(|r| (r.name.clone(), r.reference)));
        first.into_iter().flatten().collect()
    }

    /// Every policy, the ranked ones first, by mean regret.
    pub fn standings(&self) -> Vec<Standing> {
        let mut all: Vec<Standing> =
            self.names().into_iter().map(|(name, r)| self.standing(name, r)).collect();
        all.sort_by(|a, b| a.reference.cmp(&b.reference).then(a.mean.total_cmp(&b.mean)));
        all
    }

    fn standing(&self, name: String, reference: bool) -> Standing {
        let regrets: Vec<(usize, usize, f64)> = self
            .cells
            .iter()
            .enumerate()
            .filter_map(|(index, cell)| Some((index, cell.regime, cell.regret(cell.row(&name)?))))
            .collect();
        let logs: Vec<f64> = regrets.iter().map(|r| r.2).collect();
        let worst = regrets.iter().max_by(|a, b| a.2.total_cmp(&b.2)).copied().unwrap_or((0, 0, f64::NAN));
        let regime = |regime: usize| {
            let own: Vec<f64> = regrets.iter().filter(|r| r.1 == regime).map(|r| r.2).collect();
            mean(&own).map_or(f64::NAN, f64::exp_m1)
        };
        Standing {
            name,
            reference,
            mean: mean(&logs).map_or(f64::NAN, f64::exp_m1),
            worst: worst.2.exp_m1(),
            worst_cell: worst.0,
            regimes: (0..self.regimes.len()).map(regime).collect(),
            cells: regrets.len(),
        }
    }

    /// `name` against the best ranked policy of each regime. The unit is a seed: its mean over the regime's pools and
    /// variants, which share the seed's luck.
    pub fn against_best(&self, name: &str) -> Vec<Against> {
        let ranked: Vec<String> = self.names().into_iter().filter(|n| !n.1).map(|n| n.0).collect();
        let mut all = Vec::new();
        let mut differences = Vec::new();
        for regime in 0..self.regimes.len() {
            let Some(own) = self.by_seed(regime, name) else { continue };
            let others = ranked.iter().filter_map(|other| Some((other, self.by_seed(regime, other)?)));
            let Some((best, logs)) = others.min_by(|a, b| sum(&a.1).total_cmp(&sum(&b.1))) else { continue };
            differences.push(own.iter().zip(&logs).map(|(a, b)| a - b).collect::<Vec<f64>>());
            all.push(Against { regime, best: best.clone(), more: 0.0, limit: 0.0 });
        }
        let limits = upper_limits(&differences);
        for ((against, differences), limit) in all.iter_mut().zip(&differences).zip(limits) {
            against.more = mean(differences).map_or(f64::NAN, f64::exp_m1);
            against.limit = limit.exp_m1();
        }
        all
    }

    /// By seed: mean ln latency per token over the regime's cells.
    fn by_seed(&self, regime: usize, name: &str) -> Option<Vec<f64>> {
        let rows: Vec<Vec<f64>> = self
            .cells
            .iter()
            .filter(|c| c.regime == regime)
            .map(|c| Some(c.row(name)?.logs()))
            .collect::<Option<_>>()?;
        let seeds = rows.iter().map(Vec::len).min()?;
        Some(
            (0..seeds)
                .map(|seed| rows.iter().map(|row| row[seed]).sum::<f64>() / rows.len() as f64)
                .collect(),
        )
    }
}
