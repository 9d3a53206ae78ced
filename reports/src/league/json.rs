//! The league for machines, small enough to be committed: means over seeds in five digits, a table for each measure.

use serde_json::{Value, json};

use super::measures::{MEASURES, Measure};
use super::{CellReport, LeagueReport, Role};

/// Version of `league.json`; a renamed or removed field raises it.
const SCHEMA: u32 = 1;
/// Seeds of the sample, at most.
const SAMPLE_SEEDS: usize = 3;

impl LeagueReport {
    /// Everything but single seeds.
    ///
    /// `means` holds a table for each measure, `[cells, rows]` in the order of `cells` and `rows`, null where a row did
    /// not run or has no value; nulls at the end of a line are left out. `sample` holds the same over the first few seeds for some cells that between them have
    /// every regime, pool and variant, so that they can be run again in seconds and compared.
    pub fn to_json(&self) -> String {
        let names = self.names();
        let rows: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        let all: Vec<usize> = (0..self.cells.len()).collect();
        let sample = self.sample();
        let seeds = self.report_seeds.len().min(SAMPLE_SEEDS);
        let fields: Vec<(&str, Value)> = vec![
            ("schema", json!(SCHEMA)),
            ("title", json!(self.title)),
            ("command", json!(self.command)),
            ("facts", json!(self.facts)),
            ("notes", json!(self.notes)),
            ("seeds", json!({ "tuning": self.tuning_seeds, "report": self.report_seeds })),
            ("signals", json!(self.signals)),
            ("regimes", json!(self.regimes)),
            ("pools", json!(self.pools)),
            ("variants", json!(self.variants)),
            ("tuned", self.tuned()),
            ("standings", self.standings_json()),
            ("against_best", self.against_json()),
            ("cells", self.cells.iter().map(|cell| self.cell_json(cell)).collect()),
            ("rows", names.iter().map(|(name, role)| row_json(name, role)).collect()),
            ("regret", self.table(&all, &rows, |cell, name| Some(cell.regret(cell.row(name)?).exp_m1()))),
            ("means", self.means(&all, &rows, usize::MAX)),
            (
                "sample",
                json!({ "seeds": seeds, "cells": sample, "means": self.means(&sample, &rows, seeds) }),
            ),
        ];
        // A line for each field keeps the file readable and its changes visible, at no cost.
        let lines: Vec<String> =
            fields.iter().map(|(name, value)| format!("{}: {value}", json!(name))).collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }

    fn tuned(&self) -> Value {
        let one = |chosen: &super::Chosen| {
            json!({
                "pool": chosen.pool, "policy": chosen.entrant, "to": chosen.policy,
                "candidate": chosen.index, "of": chosen.candidates
            })
        };
        self.chosen.iter().map(one).collect()
    }

    fn standings_json(&self) -> Value {
        let list = |values: &[f64]| values.iter().map(|&v| five(v)).collect::<Value>();
        let one = |s: super::Standing| {
            json!({
                "policy": s.name, "ranked": s.role == Role::Policy, "cells": s.cells,
                "regret": five(s.mean), "mean_rank": s.mean_rank.map(five),
                "worst": five(s.worst), "worst_cell": s.worst_cell,
                "by_regime": list(&s.regimes), "by_pool": list(&s.pools), "by_variant": list(&s.variants)
            })
        };
        self.standings().into_iter().map(one).collect()
    }

    /// The leader's.
    fn against_json(&self) -> Value {
        let standings = self.standings();
        let Some(leader) = standings.first().filter(|s| s.role == Role::Policy) else { return Value::Null };
        let one = |a: super::Against| {
            json!({
                "regime": self.regimes[a.regime].0, "best": a.best, "more": five(a.more),
                "limit": a.limit.map(five), "limit_to": a.limit.map(|_| a.rival), "p_holm": a.p_holm.map(five),
                "within": super::text::word(a.verdict)
            })
        };
        let regimes: Value = self.against_best(&leader.name).into_iter().map(one).collect();
        json!({ "policy": leader.name, "margin": super::MARGIN, "regimes": regimes })
    }

    fn cell_json(&self, cell: &CellReport) -> Value {
        json!([
            self.regimes[cell.regime].0,
            self.pools[cell.pool],
            self.variants[cell.variant],
            cell.hindsight
        ])
    }

    /// The first of each regime with the pool and the variant of the same number, counted around.
    fn sample(&self) -> Vec<usize> {
        let wanted = |regime: usize| {
            let (pool, variant) = (regime % self.pools.len(), regime % self.variants.len());
            let fits = |cell: &CellReport| (cell.regime, cell.pool, cell.variant) == (regime, pool, variant);
            self.cells.iter().position(fits).or_else(|| self.cells.iter().position(|c| c.regime == regime))
        };
        (0..self.regimes.len()).filter_map(wanted).collect()
    }

    fn means(&self, cells: &[usize], rows: &[&str], seeds: usize) -> Value {
        let of = |measure: &Measure| {
            self.table(cells, rows, |cell, name| Some(cell.row(name)?.mean(measure, seeds)))
        };
        MEASURES.iter().map(|measure| (measure.key.to_owned(), of(measure))).collect()
    }

    /// `[cells, rows]`.
    fn table(
        &self,
        cells: &[usize],
        rows: &[&str],
        value: impl Fn(&CellReport, &str) -> Option<f64>,
    ) -> Value {
        let line = |&cell: &usize| -> Value {
            let mut line: Vec<Value> =
                rows.iter().map(|row| value(&self.cells[cell], row).map_or(Value::Null, five)).collect();
            // Rows of other signals come last and run in few cells.
            line.truncate(line.iter().rposition(|value| !value.is_null()).map_or(0, |last| last + 1));
            line.into()
        };
        cells.iter().map(line).collect()
    }
}

fn row_json(name: &str, role: &Role) -> Value {
    match role {
        Role::Policy => json!({ "name": name, "role": "policy" }),
        Role::Reference => json!({ "name": name, "role": "reference" }),
        Role::Signals { of, correlation } => {
            json!({ "name": name, "role": "signals", "of": of, "signals": correlation })
        }
    }
}

/// Five significant digits; null for what is no number.
fn five(value: f64) -> Value {
    // A number written with digits is read back as it was written.
    let rounded = format!("{value:.4e}").parse::<f64>();
    rounded.ok().filter(|v| v.is_finite()).map_or(Value::Null, Value::from)
}
