//! The bound beside the policies: what nothing can beat, and how much of what there is to gain each policy has.

use serde::Serialize;

use crate::compare::{Across, Metric};
use crate::numbers::number;
use crate::table::aligned;
use crate::{ArmResult, Report};

/// Plain decoding, from which gains are counted.
const PLAIN: &str = "target_only";

/// What no policy can beat, by metric, in the metric's unit; the mean over seeds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BoundReport {
    /// Metrics in the order of tables.
    pub lines: Vec<(Metric, f64)>,
}

/// (policy − plain) / (bound − plain) of a metric; `None` where the bound leaves nothing to gain, or a value is missing.
pub fn share(metric: Metric, bound: f64, plain: &ArmResult, arm: &ArmResult) -> Option<f64> {
    let (plain, own) = (Across::of(metric, plain)?.mean, Across::of(metric, arm)?.mean);
    let sign = if metric.less_is_better() { -1.0 } else { 1.0 };
    let gain = sign * (bound - plain);
    // Latencies are kept as f32: a smaller gain is none.
    (gain > 1e-6 * plain.abs()).then(|| sign * (own - plain) / gain)
}

/// The rows of the table: a heading, the bound, then each policy's share of its gain over plain decoding.
pub(crate) fn rows(report: &Report) -> Option<Vec<Vec<String>>> {
    let bound = report.bound.as_ref()?;
    let plain = report.arms.iter().find(|arm| arm.policy == PLAIN);
    let mut rows = vec![vec![String::from("policy")], vec![String::from("bound")]];
    for (metric, value) in &bound.lines {
        rows[0].push(metric.name().into());
        rows[1].push(format!("{} {}", number(*value), metric.unit()));
    }
    let Some(plain) = plain else { return Some(rows) };
    for arm in report.arms.iter().filter(|arm| arm.policy != PLAIN && !arm.other_output) {
        let mut row = vec![arm.policy.clone()];
        for (metric, value) in &bound.lines {
            let share = share(*metric, *value, plain, arm);
            // Adding 0 makes a -0 of rounding a 0.
            let percent = share.map(|share| (100.0 * share).round() + 0.0);
            row.push(percent.map_or_else(|| "-".into(), |percent| format!("{percent} %")));
        }
        rows.push(row);
    }
    Some(rows)
}

/// What the table says.
pub(crate) const HEADING: &str = "share of the bound's gain over target_only; no policy can beat the bound";

pub(crate) fn text(report: &Report) -> Option<String> {
    Some(format!("{HEADING}\n{}", aligned(&rows(report)?, &[0])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::{request, result};
    use crate::{Facts, SeedSummary};

    /// A run of one request of eleven tokens, each after the first so many milliseconds later.
    fn run(tpot_ms: u64) -> SeedSummary {
        let facts = Facts { pool: vec!["m".into()], classes: vec!["all".into()] };
        result(&[request(0, 0, 100, 100 + 10 * tpot_ms, 11)], Default::default()).reduce(&facts)
    }

    fn report() -> Report {
        let arm = |policy: &str, tpot_ms| ArmResult {
            policy: policy.into(),
            label: String::new(),
            other_output: false,
            load: None,
            pool: vec!["m".into()],
            seeds: vec![run(tpot_ms)],
        };
        Report {
            arms: vec![arm(PLAIN, 50), arm("quick", 20), arm("slow", 60)],
            bound: Some(BoundReport { lines: vec![(Metric::TtftMean, 100.0), (Metric::TpotMean, 10.0)] }),
            ..Report::default()
        }
    }

    #[test]
    fn a_share_is_of_what_there_is_to_gain() {
        insta::assert_snapshot!(text(&report()).unwrap(), @r"
        share of the bound's gain over target_only; no policy can beat the bound
        policy  TTFT mean  TPOT mean
        bound      100 ms    10.0 ms
        quick           -       75 %
        slow            -      -25 %
        ");
        assert!(text(&Report { bound: None, ..report() }).is_none());
        let page = report().html().unwrap();
        assert!(page.contains("<h2>The bound</h2>") && page.contains("<td>75 %</td>"));
    }
}
