//! Changes against a baseline, with their intervals.

use super::axes::{Axis, Panel, Unit, grid};
use super::theme::{Paint, draw, legend_height};
use super::{Figure, View};
use crate::ReportError;
use crate::compare::{Comparison, Metric};

/// Changes beyond this are drawn at the edge.
const EDGE: f64 = 3.0;

/// A row of the plot: one policy against one baseline.
pub(crate) struct Row<'a> {
    /// What stands beside it.
    pub name: String,
    /// Its colour.
    pub paint: Paint,
    /// Its comparisons, relative ones.
    pub own: Vec<&'a Comparison>,
}

/// A panel for each metric; `None` where nothing is compared.
pub(crate) fn forest(rows: &[Row<'_>]) -> Result<Option<String>, ReportError> {
    let all = || rows.iter().flat_map(|row| &row.own);
    let metrics: Vec<Metric> = Metric::ALL.into_iter().filter(|m| all().any(|c| c.metric == *m)).collect();
    if metrics.is_empty() {
        return Ok(None);
    }
    let height = 76.0 + 22.0 * rows.len() as f64;
    let (frames, height) = grid(metrics.len(), 2, legend_height(&[]), height);
    let svg = draw("effects", height, |canvas| {
        for (metric, frame) in metrics.iter().zip(frames) {
            let ends = all().filter(|c| c.metric == *metric).flat_map(|c| {
                let (low, high) = c.interval.map_or((c.effect, c.effect), |i| (i.low, i.high));
                [low, high, c.effect]
            });
            let (low, high) = ends.fold((-0.01f64, 0.01f64), |(l, h), v| (l.min(v), h.max(v.min(EDGE))));
            let spare = (high - low) * 0.06;
            let x = Axis::between(low - spare, high + spare, Unit::Change, "change");
            let y = Axis::rows(rows.iter().map(|row| row.name.clone()));
            let better = if metric.less_is_better() { "left is better" } else { "right is better" };
            let panel = Panel::new(canvas, frame, &format!("{}: {better}", metric.name()), x, y)?;
            panel.upright(0.0)?;
            for (index, row) in rows.iter().enumerate() {
                let Some(c) = row.own.iter().find(|c| c.metric == *metric) else { continue };
                let y = panel.y.row(index);
                if let Some(i) = c.interval {
                    panel.whisker((i.low, y), (i.high, y), row.paint)?;
                }
                panel.dot((c.effect, y), 4.5, row.paint)?;
            }
        }
        Ok(())
    })?;
    Ok(Some(svg))
}

pub(crate) fn figure(view: &View<'_>) -> Result<Option<Figure>, ReportError> {
    let all = view.report.comparisons();
    let own: Vec<&Comparison> = all.iter().filter(|c| c.load == view.load && c.relative).collect();
    let row = |shown: &super::Shown<'_>| Row {
        name: shown.arm.policy.clone(),
        paint: shown.paint,
        own: own.iter().copied().filter(|c| c.policy == shown.arm.policy).collect(),
    };
    let rows: Vec<Row<'_>> = view.arms.iter().map(row).filter(|row| !row.own.is_empty()).collect();
    let (Some(first), Some(svg)) = (own.first(), forest(&rows)?) else { return Ok(None) };
    let caption = format!(
        "Dot: mean change against {} over paired seeds; line: 95 % interval. A line that crosses 0 shows no difference.{}",
        first.baseline,
        view.at_load()
    );
    Ok(Some(Figure { stem: "effects", title: "Change against the baseline", caption, svg }))
}
