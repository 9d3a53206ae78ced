//! Latency, throughput and goodput against load.

use super::axes::{Axis, Panel, Unit, grid};
use super::theme::{draw, legend, legend_height};
use super::{Figure, Shown, View};
use crate::ReportError;
use crate::compare::{Across, Metric};

pub(crate) fn figure(view: &View<'_>) -> Result<Option<Figure>, ReportError> {
    let loads = view.report.loads.as_deref().unwrap_or_default();
    if loads.len() < 2 {
        return Ok(None);
    }
    let shown = [Metric::TpotMean, Metric::TtftP99, Metric::OutputTokens, Metric::Goodput];
    let has = |m: &Metric| view.everywhere.iter().any(|s| Across::of(*m, s.arm).is_some());
    let metrics: Vec<Metric> = shown.into_iter().filter(has).collect();
    let keys = view.legend(&view.everywhere);
    let (frames, height) = grid(metrics.len(), 2, legend_height(&keys), 290.0);
    let svg = draw("loads", height, |canvas| {
        legend(canvas, &keys)?;
        for (&metric, frame) in metrics.iter().zip(frames) {
            let curves: Vec<Vec<(f64, Across)>> =
                keys.iter().map(|key| curve(view, &key.text, metric)).collect();
            let seconds = metric.unit() == "ms";
            let scale = if seconds { 1e-3 } else { 1.0 };
            let tops = |a: Across| [a.mean, a.interval.map_or(a.mean, |i| i.high)];
            let values = || curves.iter().flatten().flat_map(move |c| tops(c.1)).map(move |v| v * scale);
            let (x, y) = (
                Axis::from_zero(
                    loads.iter().copied(),
                    Unit::Number,
                    &format!("load, {}", view.report.load_unit),
                ),
                if seconds {
                    Axis::log(values(), Unit::Seconds, metric.name())
                } else {
                    Axis::from_zero(values(), Unit::Number, metric.unit())
                },
            );
            let better = if metric.less_is_better() { "lower is better" } else { "higher is better" };
            let panel = Panel::new(canvas, frame, &format!("{}: {better}", metric.name()), x, y)?;
            for (key, curve) in keys.iter().zip(&curves) {
                for (load, across) in curve {
                    if let Some(i) = across.interval {
                        panel.whisker((*load, i.low * scale), (*load, i.high * scale), key.paint)?;
                    }
                }
                let points: Vec<(f64, f64)> = curve.iter().map(|(l, a)| (*l, a.mean * scale)).collect();
                panel.dotted(&points, key.paint, key.dash)?;
            }
        }
        Ok(())
    })?;
    let caption = "Each dot is the mean over seeds at one load, its line the 95 % interval. Past the load at which throughput \
                   flattens, queues grow and latencies depend on the length of the run.";
    Ok(Some(Figure {
        stem: "loads",
        title: "Latency, throughput and goodput against load",
        caption: caption.into(),
        svg,
    }))
}

fn curve(view: &View<'_>, name: &str, metric: Metric) -> Vec<(f64, Across)> {
    let own = view.everywhere.iter().filter(|s| super::name(s.arm) == name);
    let point = |s: &Shown<'_>| s.arm.load.zip(Across::of(metric, s.arm));
    let mut points: Vec<(f64, Across)> = own.filter_map(point).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}
