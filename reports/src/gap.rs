//! What was measured beside what was foretold: the gap between the twins, as a number.

use serde::Serialize;

use crate::SeedSummary;
use crate::compare::{mean, t_interval};
use crate::fit::{FitSection, FitTable};
use crate::numbers::number;
use crate::summary::Summary;

/// A quantity that is measured and foretold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Tokens committed per round.
    Accepted,
    /// Mean time to first token.
    TtftMean,
    /// Median time per output token.
    TpotMedian,
    /// Mean time per output token.
    TpotMean,
    /// 95th percentile of the time per output token.
    TpotP95,
    /// 99th percentile, from [`LEAST_FOR_P99`] requests.
    TpotP99,
    /// Output tokens per second.
    Throughput,
    /// Share of pass time on tokens that were kept.
    Useful,
    /// Share of pass time on tokens that were rejected.
    Wasted,
    /// Share of pass time on prompts, catch-up and probes.
    CatchUp,
}

/// Requests below which a 99th percentile is noise.
pub const LEAST_FOR_P99: u64 = 2000;

impl Quantity {
    /// All, in the order of tables.
    pub const ALL: [Self; 10] = [
        Self::Accepted,
        Self::TtftMean,
        Self::TpotMedian,
        Self::TpotMean,
        Self::TpotP95,
        Self::TpotP99,
        Self::Throughput,
        Self::Useful,
        Self::Wasted,
        Self::CatchUp,
    ];

    /// Its name and unit.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted, tokens/round",
            Self::TtftMean => "TTFT mean, ms",
            Self::TpotMedian => "TPOT median, ms",
            Self::TpotMean => "TPOT mean, ms",
            Self::TpotP95 => "TPOT P95, ms",
            Self::TpotP99 => "TPOT P99, ms",
            Self::Throughput => "throughput, tokens/s",
            Self::Useful => "useful, % of pass time",
            Self::Wasted => "wasted, % of pass time",
            Self::CatchUp => "catch-up, % of pass time",
        }
    }

    /// A share: errors are differences in points, not ratios.
    const fn is_share(self) -> bool {
        matches!(self, Self::Useful | Self::Wasted | Self::CatchUp)
    }

    /// Its value in a run, in the unit of [`Quantity::name`].
    pub fn of(self, run: &Summary) -> Option<f64> {
        let tpot = |of: fn(&crate::Stats) -> f64| run.tpot_s.as_ref().map(|stats| 1e3 * of(stats));
        let share = |of: fn(&crate::summary::ModelSummary) -> f64| {
            let all: f64 = run.models.iter().map(|m| m.useful + m.wasted + m.catch_up).sum();
            (all > 0.0).then(|| 100.0 * run.models.iter().map(of).sum::<f64>() / all)
        };
        match self {
            Self::Accepted => run.accepted_length,
            Self::TtftMean => run.ttft_s.as_ref().map(|stats| 1e3 * stats.mean),
            Self::TpotMedian => tpot(|stats| stats.p50),
            Self::TpotMean => tpot(|stats| stats.mean),
            Self::TpotP95 => tpot(|stats| stats.p95),
            Self::TpotP99 => tpot(|stats| stats.p99)
                .filter(|_| run.tpot_s.as_ref().is_some_and(|stats| stats.count >= LEAST_FOR_P99)),
            Self::Throughput => Some(run.output_tokens_per_s),
            Self::Useful => share(|model| model.useful),
            Self::Wasted => share(|model| model.wasted),
            Self::CatchUp => share(|model| model.catch_up),
        }
    }
}

/// One policy, measured and foretold.
#[derive(Clone, Debug)]
pub struct GapArm {
    /// The policy.
    pub policy: String,
    /// Real runs, one for each seed.
    pub measured: Vec<SeedSummary>,
    /// By way of foretelling, in the order of [`Gap::ways`]; the same seeds, or one run for all.
    pub foretold: Vec<Vec<SeedSummary>>,
}

/// All policies.
#[derive(Clone, Debug)]
pub struct Gap {
    /// How it was foretold: `replayed`, `simulated`.
    pub ways: Vec<String>,
    /// In the scenario's order.
    pub arms: Vec<GapArm>,
}

/// A foretold value and how far off it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Foretold {
    /// Mean over seeds.
    pub value: f64,
    /// (foretold − measured) / measured in percent, mean over seeds; of a share the difference in points.
    pub error: f64,
    /// 95 % interval of the error, Student's t over seeds; `None` for one seed.
    pub interval: Option<(f64, f64)>,
}

/// One line of the comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GapRow {
    /// The policy.
    pub policy: String,
    /// What is compared.
    pub quantity: Quantity,
    /// Mean over seeds.
    pub measured: f64,
    /// By way; `None` where it says nothing.
    pub foretold: Vec<Option<Foretold>>,
}

/// The order of policies by mean TPOT, the quickest first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ranking {
    /// `measured`, or a way of foretelling.
    pub by: String,
    /// Policies.
    pub order: Vec<String>,
    /// Of the pairs that differ by more than the way's error on either, those in the measured order.
    pub in_order: usize,
    /// All such pairs.
    pub pairs: usize,
}

impl Gap {
    /// Every line that has a measured value.
    pub fn rows(&self) -> Vec<GapRow> {
        let mut rows = Vec::new();
        for arm in &self.arms {
            for quantity in Quantity::ALL {
                let measured: Vec<f64> =
                    arm.measured.iter().filter_map(|seed| quantity.of(&seed.summary)).collect();
                let Some(middle) = mean(&measured).filter(|_| measured.len() == arm.measured.len()) else {
                    continue;
                };
                let foretold = arm.foretold.iter().map(|runs| foretold(quantity, &measured, runs)).collect();
                rows.push(GapRow { policy: arm.policy.clone(), quantity, measured: middle, foretold });
            }
        }
        rows
    }

    /// The measured order, then each way's.
    pub fn rankings(&self) -> Vec<Ranking> {
        let rows: Vec<GapRow> =
            self.rows().into_iter().filter(|row| row.quantity == Quantity::TpotMean).collect();
        let ranked = |by: &str, values: Vec<Option<f64>>, counts: (usize, usize)| {
            let mut order: Vec<(f64, &str)> = rows
                .iter()
                .zip(values)
                .filter_map(|(row, value)| Some((value?, row.policy.as_str())))
                .collect();
            order.sort_by(|a, b| a.0.total_cmp(&b.0));
            let order = order.into_iter().map(|(_, policy)| policy.to_owned()).collect();
            Ranking { by: by.to_owned(), order, in_order: counts.0, pairs: counts.1 }
        };
        let mut all = vec![ranked("measured", rows.iter().map(|row| Some(row.measured)).collect(), (0, 0))];
        for (way, name) in self.ways.iter().enumerate() {
            let value = |row: &GapRow| row.foretold.get(way).copied().flatten();
            let (mut in_order, mut pairs) = (0, 0);
            for (index, a) in rows.iter().enumerate() {
                for b in &rows[index + 1..] {
                    let (Some(fa), Some(fb)) = (value(a), value(b)) else { continue };
                    let apart = (a.measured - b.measured).abs() / a.measured.min(b.measured);
                    if 100.0 * apart > fa.error.abs().max(fb.error.abs()) {
                        pairs += 1;
                        in_order += usize::from((a.measured < b.measured) == (fa.value < fb.value));
                    }
                }
            }
            all.push(ranked(
                name,
                rows.iter().map(|row| value(row).map(|f| f.value)).collect(),
                (in_order, pairs),
            ));
        }
        all
    }

    /// The comparison and the rankings as sections of a page.
    pub fn sections(&self) -> Vec<FitSection> {
        let mut head = vec!["policy".to_owned(), "quantity".to_owned(), "measured".to_owned()];
        for way in &self.ways {
            head.extend([way.clone(), "error".to_owned()]);
        }
        let cells = |row: GapRow| {
            let mut cells = vec![row.policy, row.quantity.name().to_owned(), number(row.measured)];
            for foretold in row.foretold {
                cells.extend(match foretold {
                    Some(f) => [number(f.value), error_text(row.quantity, &f)],
                    None => ["-".to_owned(), "-".to_owned()],
                });
            }
            cells
        };
        let rows = self.rows().into_iter().map(cells).collect();
        let table = FitTable { head, rows, words: 2 };
        let ranking = FitTable {
            head: ["by", "order by mean TPOT", "pairs in order"].map(str::to_owned).to_vec(),
            rows: self
                .rankings()
                .into_iter()
                .map(|r| {
                    let pairs = match r.by.as_str() {
                        "measured" => String::new(),
                        _ => format!("{} of {}", r.in_order, r.pairs),
                    };
                    vec![r.by, r.order.join(" < "), pairs]
                })
                .collect(),
            words: 3,
        };
        let section = |title: &str, words: &str, table| FitSection {
            title: title.to_owned(),
            words: words.to_owned(),
            tables: vec![table],
            plots: Vec::new(),
        };
        vec![
            section(
                "Measured and foretold",
                "Errors are (foretold - measured) / measured, of shares the difference in points; intervals are 95 %, over seeds.",
                table,
            ),
            section(
                "Ranking",
                "Pairs are counted where the measured difference is larger than the error on either of the two.",
                ranking,
            ),
        ]
    }
}

/// Per seed where seeds match, against the mean where one run stands for all.
fn foretold(quantity: Quantity, measured: &[f64], runs: &[SeedSummary]) -> Option<Foretold> {
    let values: Vec<f64> = runs.iter().filter_map(|seed| quantity.of(&seed.summary)).collect();
    let value = mean(&values)?;
    let own = |index: usize| if values.len() == measured.len() { values[index] } else { value };
    let errors: Vec<f64> = measured
        .iter()
        .enumerate()
        .map(|(index, &real)| match quantity.is_share() {
            true => own(index) - real,
            false => 100.0 * (own(index) - real) / real,
        })
        .collect();
    let interval = t_interval(&errors).map(|interval| (interval.low, interval.high));
    Some(Foretold { value, error: mean(&errors)?, interval })
}

fn error_text(quantity: Quantity, f: &Foretold) -> String {
    let unit = if quantity.is_share() { "points" } else { "%" };
    match f.interval {
        Some((low, high)) => format!("{:+.1} {unit} ({low:+.1}, {high:+.1})", f.error),
        None => format!("{:+.1} {unit}", f.error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::{request, result};
    use crate::{Facts, SeedSummary};

    /// A run whose requests of ten tokens took so many milliseconds each after the first token.
    fn run(tpot_ms: &[u64]) -> SeedSummary {
        let requests: Vec<_> =
            tpot_ms.iter().enumerate().map(|(id, ms)| request(id as u64, 0, 100, 100 + 9 * ms, 10)).collect();
        let facts = Facts { pool: vec!["m".into()], classes: vec!["all".into()] };
        result(&requests, Default::default()).reduce(&facts)
    }

    fn gap() -> Gap {
        let arm = |policy: &str, real: [u64; 2], told: [u64; 2]| GapArm {
            policy: policy.into(),
            measured: real.iter().map(|&ms| run(&[ms])).collect(),
            foretold: vec![told.iter().map(|&ms| run(&[ms])).collect()],
        };
        Gap {
            ways: vec!["replayed".into()],
            arms: vec![
                arm("a", [10, 20], [11, 20]),
                arm("b", [30, 30], [30, 36]),
                arm("c", [32, 32], [24, 24]),
            ],
        }
    }

    #[test]
    fn errors_are_paired_by_seed() {
        let rows = gap().rows();
        let row = rows.iter().find(|r| r.policy == "a" && r.quantity == Quantity::TpotMedian).unwrap();
        assert!((row.measured - 15.0).abs() < 1e-4);
        let told = row.foretold[0].unwrap();
        assert!((told.error - 5.0).abs() < 1e-4, "10 % and 0 %: {}", told.error);
        // t with one degree of freedom: 12.706 standard errors of 5.
        let (low, high) = told.interval.unwrap();
        assert!((high - 5.0 - 63.53).abs() < 0.01 && (5.0 - low - 63.53).abs() < 0.01);
        assert!(rows.iter().all(|r| r.quantity != Quantity::TpotP99), "two requests have no P99");
    }

    #[test]
    fn rankings_judge_pairs_that_differ_by_more_than_the_error() {
        let rankings = gap().rankings();
        assert_eq!(rankings[0].order, ["a", "b", "c"]);
        assert_eq!(rankings[1].order, ["a", "c", "b"]);
        // b and c are 6.7 % apart and c is foretold 25 % off: that pair does not count.
        assert_eq!((rankings[1].in_order, rankings[1].pairs), (2, 2));
    }
}
