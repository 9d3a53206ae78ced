//! The measures of a run, in the order in which tables show them.

use super::{CellReport, LeagueReport, Row, Score};
use crate::compare::mean;

/// A number of a [`Score`] as it is shown and written.
pub(super) struct Measure {
    /// Its name in JSON.
    pub key: &'static str,
    /// Its name in tables.
    pub name: &'static str,
    /// Its unit in both.
    pub unit: &'static str,
    /// False where more is better.
    pub less_is_better: bool,
    /// Its value in that unit.
    pub of: fn(&Score) -> f64,
}

/// The policy that measures are shown relative to.
pub(super) const BASE: &str = "target_only";

/// All of them; the first is what policies are ranked by.
pub(super) const MEASURES: [Measure; 8] = [
    Measure {
        key: "latency_ms_per_token",
        name: "latency per token",
        unit: "ms",
        less_is_better: true,
        of: |score| score.latency_s * 1e3,
    },
    Measure {
        key: "ttft_ms_mean",
        name: "TTFT mean",
        unit: "ms",
        less_is_better: true,
        of: |score| score.ttft_s * 1e3,
    },
    Measure {
        key: "ttft_ms_p99",
        name: "TTFT p99",
        unit: "ms",
        less_is_better: true,
        of: |score| score.ttft_p99_s * 1e3,
    },
    Measure {
        key: "tpot_ms_mean",
        name: "TPOT mean",
        unit: "ms",
        less_is_better: true,
        of: |score| score.tpot_s * 1e3,
    },
    Measure {
        key: "tpot_ms_p99",
        name: "TPOT p99",
        unit: "ms",
        less_is_better: true,
        of: |score| score.tpot_p99_s * 1e3,
    },
    Measure {
        key: "goodput_per_s",
        name: "goodput",
        unit: "req/s",
        less_is_better: false,
        of: |score| score.goodput_per_s,
    },
    Measure {
        key: "output_tokens_per_s",
        name: "throughput",
        unit: "tokens/s",
        less_is_better: false,
        of: |score| score.tokens_per_s,
    },
    Measure {
        key: "dollars_per_million",
        name: "price",
        unit: "$/M tokens",
        less_is_better: true,
        of: |score| score.dollars,
    },
];

impl Row {
    /// Mean over its first `most` seeds; NaN where a seed has no value.
    pub(super) fn mean(&self, measure: &Measure, most: usize) -> f64 {
        let values: Vec<f64> = self.seeds.iter().take(most).map(measure.of).collect();
        mean(&values).unwrap_or(f64::NAN)
    }
}

impl LeagueReport {
    /// A row's measure relative to `base`: of means over seeds, the geometric mean of ratios over the cells that hold both
    /// and that `kept` keeps. `None` where a ratio of any of them is none.
    pub(super) fn relative(
        &self,
        measure: &Measure,
        name: &str,
        base: &str,
        kept: impl Fn(&CellReport) -> bool,
    ) -> Option<f64> {
        let ratios: Vec<f64> = self
            .cells
            .iter()
            .filter(|cell| kept(cell))
            .filter_map(|cell| Some((cell.row(name)?, cell.row(base)?)))
            .map(|(own, base)| (own.mean(measure, usize::MAX) / base.mean(measure, usize::MAX)).ln())
            .collect();
        mean(&ratios).map(f64::exp_m1).filter(|change| change.is_finite())
    }
}
