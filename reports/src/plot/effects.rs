//! Changes against the baseline, with their intervals.

use super::axes::{Axis, Panel, Unit, grid};
use super::theme::{draw, legend_height};
use super::{Figure, View};
use crate::ReportError;
use crate::compare::{Comparison, Metric};

/// Changes beyond this are drawn at the edge.
const EDGE: f64 = 3.0;

pub(crate) fn figure(view: &View<'_>) -> Result<Option<Figure>, ReportError> {
    let all = view.report.comparisons();
    let own: Vec<&Comparison> = all.iter().filter(|c| c.load == view.load && c.relative).collect();
    let metrics: Vec<Metric> =
        Metric::ALL.into_iter().filter(|m| own.iter().any(|c| c.metric == *m)).collect();
    let arms: Vec<_> = view.arms.iter().filter(|s| own.iter().any(|c| c.policy == s.arm.policy)).collect();
    let Some(first) = own.first().filter(|_| !arms.is_empty()) else { return Ok(None) };
    let height = 76.0 + 22.0 * arms.len() as f64;
    let (frames, height) = grid(metrics.len(), 2, legend_height(&[]), height);
    let svg = draw("effects", height, |canvas| {
        for (metric, frame) in metrics.iter().zip(frames) {
            let of = |policy: &str| own.iter().find(|c| c.metric == *metric && c.policy == policy);
            let ends = own.iter().filter(|c| c.metric == *metric).flat_map(|c| {
                let (low, high) = c.interval.map_or((c.effect, c.effect), |i| (i.low, i.high));
                [low, high, c.effect]
            });
            let (low, high) = ends.fold((-0.01f64, 0.01f64), |(l, h), v| (l.min(v), h.max(v.min(EDGE))));
            let spare = (high - low) * 0.06;
            let x = Axis::between(low - spare, high + spare, Unit::Change, "change");
            let rows = Axis::rows(arms.iter().map(|s| s.arm.policy.clone()));
            let better = if metric.less_is_better() { "left is better" } else { "right is better" };
            let panel = Panel::new(canvas, frame, &format!("{}: {better}", metric.name()), x, rows)?;
            panel.upright(0.0)?;
            for (index, shown) in arms.iter().enumerate() {
                let Some(c) = of(&shown.arm.policy) else { continue };
                let y = panel.y.row(index);
                if let Some(i) = c.interval {
                    panel.whisker((i.low, y), (i.high, y), shown.paint)?;
                }
                panel.dot((c.effect, y), 4.5, shown.paint)?;
            }
        }
        Ok(())
    })?;
    let caption = format!(
        "Dot: mean change against {} over paired seeds; line: 95 % interval. A line that crosses 0 shows no difference.{}",
        first.baseline,
        view.at_load()
    );
    Ok(Some(Figure { stem: "effects", title: "Change against the baseline", caption, svg }))
}
