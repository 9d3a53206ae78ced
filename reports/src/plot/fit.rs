//! Plots of fits: panels of curves with their intervals.

use super::axes::{Axis, Panel, Unit, grid};
use super::theme::{Dash, Drawn, Key, Paint, draw, legend, legend_height};
use crate::ReportError;
use crate::fit::{FitAxis, FitCurve, FitPlot, Look, Scale};

const HEIGHT: f64 = 300.0;

/// Draws a plot.
pub(crate) fn svg(plot: &FitPlot) -> Result<String, ReportError> {
    let keys = keys(plot);
    let (frames, foot) = grid(plot.panels.len(), 2, legend_height(&keys), HEIGHT);
    draw("fit", foot.max(1.0), |canvas| {
        legend(canvas, &keys)?;
        for (panel, frame) in plot.panels.iter().zip(frames) {
            let points = || panel.curves.iter().flat_map(|curve| &curve.points);
            let ends = || points().flat_map(|p| p.interval).flat_map(|(low, high)| [low, high]);
            let xs: Vec<f64> = points().map(|p| p.x).collect();
            let ys: Vec<f64> = points().map(|p| p.y).chain(ends()).collect();
            // On the diagonal both axes say the same, so they show the same.
            let both: Vec<f64> = xs.iter().chain(&ys).copied().collect();
            let shown = if panel.diagonal { [&both, &both] } else { [&xs, &ys] };
            let drawn =
                Panel::new(canvas, frame, &panel.title, axis(&panel.x, shown[0]), axis(&panel.y, shown[1]))?;
            if panel.diagonal {
                let low = both.iter().copied().filter(|v| *v > 0.0).fold(f64::INFINITY, f64::min);
                let high = both.iter().copied().fold(0.0, f64::max);
                if low < high {
                    drawn.line(&[(low, low), (high, high)], Paint::Muted, Dash::Short)?;
                }
            }
            panel.curves.iter().try_for_each(|curve| one(&drawn, curve))?;
        }
        Ok(())
    })
}

fn one(panel: &Panel<'_, '_>, curve: &FitCurve) -> Drawn {
    let paint = Paint::Series(curve.color);
    let points: Vec<(f64, f64)> = curve.points.iter().map(|p| (p.x, p.y)).collect();
    for point in &curve.points {
        if let Some((low, high)) = point.interval {
            panel.whisker((point.x, low), (point.x, high), paint)?;
        }
    }
    match curve.look {
        Look::Dots => points.iter().try_for_each(|&at| panel.dot(at, 1.8, paint)),
        Look::Dotted => panel.dotted(&points, paint, Dash::Solid),
        Look::Line => panel.line(&points, paint, Dash::Solid),
        Look::Dashed => panel.line(&points, paint, Dash::Long),
        Look::Stairs => panel.stairs(&points, paint, Dash::Solid),
    }
}

fn axis(axis: &FitAxis, values: &[f64]) -> Axis {
    let all = values.iter().copied();
    match axis.scale {
        Scale::Log => Axis::log(all, Unit::Number, &axis.label),
        Scale::Seconds => Axis::log(all, Unit::Seconds, &axis.label),
        Scale::Unit => Axis::between(0.0, 1.0, Unit::Number, &axis.label),
        Scale::Plain => {
            let finite = || all.clone().filter(|v| v.is_finite());
            let (low, high) =
                (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
            let spare = 0.04 * (high - low);
            if low < high {
                Axis::between(low - spare, high + spare, Unit::Number, &axis.label)
            } else {
                Axis::from_zero(all, Unit::Number, &axis.label)
            }
        }
    }
}

/// One key per name.
fn keys(plot: &FitPlot) -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::new();
    for curve in plot.panels.iter().flat_map(|panel| &panel.curves) {
        if !curve.name.is_empty() && keys.iter().all(|key| key.text != curve.name) {
            let dash = if curve.look == Look::Dashed { Dash::Long } else { Dash::Solid };
            keys.push(Key { paint: Paint::Series(curve.color), fill: None, dash, text: curve.name.clone() });
        }
    }
    keys
}
