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
    let gain = bound - plain;
    (gain.abs() > 1e-9 * plain.abs()).then(|| (own - plain) / gain)
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
            row.push(share.map_or_else(|| "-".into(), |share| format!("{:.0} %", 100.0 * share)));
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
