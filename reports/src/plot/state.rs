//! Waiting requests, running requests and KV memory over time.

use specrouter_routing::tally::Stretch;

use super::axes::{Axis, Panel, Unit, grid};
use super::theme::{draw, legend, legend_height};
use super::{Figure, View};
use crate::ReportError;
use crate::summary::SeedSummary;

type Kind = (&'static str, &'static str, Unit, fn(&Stretch, f64) -> f64);

pub(crate) fn figure(view: &View<'_>) -> Result<Option<Figure>, ReportError> {
    let kinds: [Kind; 3] = [
        ("Queue", "requests waiting per replica", Unit::Number, |s, _| s.queued),
        ("Batch", "requests running per replica", Unit::Number, |s, _| s.running),
        ("KV memory", "share of blocks in use", Unit::Share, |s, blocks| {
            if blocks > 0.0 { s.kv_blocks / blocks } else { 0.0 }
        }),
    ];
    let keys = view.legend(&view.arms);
    let (frames, height) = grid(kinds.len(), 3, legend_height(&keys), 270.0);
    let svg = draw("state", height, |canvas| {
        legend(canvas, &keys)?;
        for ((title, label, unit, value), frame) in kinds.into_iter().zip(frames) {
            let first = |s: &super::Shown<'_>| {
                s.arm.seeds.first().map(|seed| over_time(seed, value)).unwrap_or_default()
            };
            let curves: Vec<Vec<(f64, f64)>> = view.arms.iter().map(first).collect();
            let x = Axis::from_zero(curves.iter().flatten().map(|p| p.0), Unit::Seconds, "time");
            let y = Axis::from_zero(curves.iter().flatten().map(|p| p.1), unit, label);
            let panel = Panel::new(canvas, frame, title, x, y)?;
            for (shown, curve) in view.arms.iter().zip(&curves) {
                panel.line(curve, shown.paint, shown.dash)?;
            }
        }
        Ok(())
    })?;
    let caption = format!(
        "Means over stretches of time. A queue that keeps rising is overload: its latencies would be longer in a longer run.{}{}",
        view.at_load(),
        view.of_first_seed()
    );
    Ok(Some(Figure { stem: "state", title: "Queue, batch and KV memory over time", caption, svg }))
}

/// `(middle of the stretch in seconds, mean per replica)`.
fn over_time(seed: &SeedSummary, value: fn(&Stretch, f64) -> f64) -> Vec<(f64, f64)> {
    let (series, end) = (&seed.tally.series, seed.summary.end_s);
    let width = series.width().seconds();
    let replicas = f64::from(seed.replicas.max(1));
    let blocks = seed.kv_blocks_total as f64 / replicas;
    let point = |(index, stretch): (usize, &Stretch)| {
        let from = index as f64 * width;
        // The last one is cut by the run's end.
        let covered = (end - from).min(width);
        (covered > width * 0.05)
            .then(|| (from + covered / 2.0, value(stretch, blocks) * 1e-9 / (covered * replicas)))
    };
    series.stretches().iter().enumerate().filter_map(point).collect()
}
