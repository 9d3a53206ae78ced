//! The measures of a run, in the order in which tables show them.

use super::text::bare;
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
    /// How cells are put together.
    pub together: Together,
    /// Its value in that unit.
    pub of: fn(&Score) -> f64,
}

/// The policy that measures are shown relative to.
pub(super) const BASE: &str = "target_only";

/// How a measure of several cells is shown in one number.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Together {
    /// Relative to [`BASE`], in the geometric mean.
    Relative,
    /// In the mean, for shares: a share may be 0, and nothing is relative to that.
    Mean,
    /// Not at all.
    Never,
}

/// All of them; the first is what policies are ranked by.
pub(super) const MEASURES: [Measure; 9] = [
    Measure {
        key: "latency_ms_per_token",
        name: "latency per token",
        unit: "ms",
        less_is_better: true,
        together: Together::Relative,
        of: |score| score.latency_s * 1e3,
    },
    Measure {
        key: "ttft_ms_mean",
        name: "TTFT mean",
        unit: "ms",
        less_is_better: true,
        together: Together::Relative,
        of: |score| score.ttft_s * 1e3,
    },
    Measure {
        key: "ttft_ms_p99",
        name: "TTFT p99",
        unit: "ms",
        less_is_better: true,
        together: Together::Relative,
        of: |score| score.ttft_p99_s * 1e3,
    },
    Measure {
        key: "tpot_ms_mean",
        name: "TPOT mean",
        unit: "ms",
        less_is_better: true,
        together: Together::Relative,
        of: |score| score.tpot_s * 1e3,
    },
    Measure {
        key: "tpot_ms_p99",
        name: "TPOT p99",
        unit: "ms",
        less_is_better: true,
        together: Together::Relative,
        of: |score| score.tpot_p99_s * 1e3,
    },
    Measure {
        key: "goodput_per_s",
        name: "goodput",
        unit: "req/s",
        less_is_better: false,
        together: Together::Never,
        of: |score| score.goodput_per_s,
    },
    Measure {
        key: "goodput_percent",
        name: "goodput",
        unit: "% of requests",
        less_is_better: false,
        together: Together::Mean,
        of: |score| score.goodput_share * 100.0,
    },
    Measure {
        key: "output_tokens_per_s",
        name: "throughput",
        unit: "tokens/s",
        less_is_better: false,
        together: Together::Relative,
        of: |score| score.tokens_per_s,
    },
    Measure {
        key: "dollars_per_million",
        name: "price",
        unit: "$/M tokens",
        less_is_better: true,
        together: Together::Relative,
        of: |score| score.dollars,
    },
];

/// The measures that are shown of several cells in one number.
pub(super) fn together() -> impl Iterator<Item = &'static Measure> {
    MEASURES.iter().filter(|measure| measure.together != Together::Never)
}

impl Row {
    /// Mean over its first `most` seeds; NaN where a seed has no value.
    pub(super) fn mean(&self, measure: &Measure, most: usize) -> f64 {
        let values: Vec<f64> = self.seeds.iter().take(most).map(measure.of).collect();
        mean(&values).unwrap_or(f64::NAN)
    }
}

impl LeagueReport {
    /// A row's measure over the cells that `kept` keeps and that hold it and [`BASE`], from means over seeds, in percent.
    /// `None` where a cell has no value.
    fn together(&self, measure: &Measure, name: &str, kept: impl Fn(&CellReport) -> bool) -> Option<f64> {
        let cells = self.cells.iter().filter(|cell| kept(cell));
        let rows = cells.filter_map(|cell| Some((cell.row(name)?, cell.row(BASE)?)));
        let value = |row: &Row| row.mean(measure, usize::MAX);
        let together = match measure.together {
            Together::Never => None,
            Together::Mean => mean(&rows.map(|(own, _)| value(own)).collect::<Vec<_>>()),
            Together::Relative => {
                let ratios: Vec<f64> = rows.map(|(own, base)| (value(own) / value(base)).ln()).collect();
                mean(&ratios).map(|mean| 100.0 * mean.exp_m1())
            }
        };
        together.filter(|value| value.is_finite())
    }

    /// The columns of a row over the cells that `kept` keeps, those of [`together`], as text; a dash where there is none.
    pub(super) fn columns(&self, name: &str, kept: impl Fn(&CellReport) -> bool) -> Vec<String> {
        let shown = |measure: &Measure| match self.together(measure, name, &kept) {
            None => "-".into(),
            Some(share) if measure.together == Together::Mean => format!("{share:.1}"),
            Some(percent) => bare(percent / 100.0),
        };
        together().map(shown).collect()
    }
}
