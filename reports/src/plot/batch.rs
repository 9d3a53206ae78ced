//! Decoding speed against the number of running requests.

use std::collections::BTreeMap;

use super::axes::{Axis, Panel, Unit, grid};
use super::theme::{draw, legend, legend_height};
use super::{Figure, Shown, View};
use crate::{ArmResult, ReportError};

/// Bins of a doubling of the batch.
const PER_DOUBLING: f64 = 2.0;
/// Busy seconds below which a bin says nothing.
const LEAST_SECONDS: f64 = 0.05;

pub(crate) fn figure(view: &View<'_>) -> Result<Option<Figure>, ReportError> {
    let Some(base) = view.report.baseline_arm().map(|index| view.report.arms[index].policy.as_str()) else {
        return Ok(None);
    };
    // Tokens of another model are no faster or slower.
    let comparable: Vec<Shown<'_>> =
        view.everywhere.iter().copied().filter(|s| !s.arm.other_output).collect();
    let keys = view.legend(&comparable);
    let of = |name: &str| rates(comparable.iter().map(|s| s.arm).filter(|arm| super::name(arm) == name));
    let own = of(base);
    let curves: Vec<Vec<(f64, f64, f64)>> = keys
        .iter()
        .map(|key| {
            let points = of(&key.text).into_iter();
            points
                .map(|(bin, rate)| (center(bin), rate, own.get(&bin).map_or(f64::NAN, |b| rate / b)))
                .collect()
        })
        .collect();
    let speedups = || curves.iter().flatten().map(|p| p.2).filter(|s| s.is_finite());
    if curves.iter().all(|c| c.len() < 2) || speedups().count() == 0 {
        return Ok(None);
    }
    let (frames, height) = grid(2, 2, legend_height(&keys), 290.0);
    let svg = draw("batch", height, |canvas| {
        legend(canvas, &keys)?;
        let across = || {
            let label = "running requests per replica";
            Axis::log(curves.iter().flatten().map(|p| p.0), Unit::Number, label)
        };
        let rate =
            Axis::from_zero(curves.iter().flatten().map(|p| p.1), Unit::Number, "tokens/s per busy replica");
        let ratio = Axis::from_zero(speedups(), Unit::Number, "times the baseline");
        let panel = Panel::new(canvas, frames[0], "Output rate while busy", across(), rate)?;
        for (key, curve) in keys.iter().zip(&curves) {
            let points: Vec<(f64, f64)> = curve.iter().map(|p| (p.0, p.1)).collect();
            panel.dotted(&points, key.paint, key.dash)?;
        }
        let panel = Panel::new(canvas, frames[1], &format!("Speedup over {base}"), across(), ratio)?;
        panel.level(1.0)?;
        for (key, curve) in keys.iter().zip(&curves).filter(|(key, _)| key.text != base) {
            let points: Vec<(f64, f64)> =
                curve.iter().filter(|p| p.2.is_finite()).map(|p| (p.0, p.2)).collect();
            panel.dotted(&points, key.paint, key.dash)?;
        }
        Ok(())
    })?;
    let caption = format!(
        "Stretches of the run, grouped by how many requests ran: above the dashed line a policy commits more tokens per busy second \
         than {base} does at the same batch. Prefill of arriving prompts is part of the time.{}",
        if view.report.loads.is_some() { " All loads and seeds." } else { " All seeds." }
    );
    Ok(Some(Figure { stem: "batch", title: "Speedup against batch", caption, svg }))
}

fn center(bin: i32) -> f64 {
    (f64::from(bin) / PER_DOUBLING).exp2()
}

/// Tokens per busy second by bin of running requests.
fn rates<'a>(arms: impl Iterator<Item = &'a ArmResult>) -> BTreeMap<i32, f64> {
    let mut bins: BTreeMap<i32, (f64, f64)> = BTreeMap::new();
    let stretches = arms.flat_map(|arm| &arm.seeds).flat_map(|seed| seed.tally.series.stretches());
    for stretch in stretches.filter(|s| s.busy_nanos > 0.0 && s.running > 0.0) {
        let running = (stretch.running / stretch.busy_nanos).max(1.0);
        let bin = bins.entry((running.log2() * PER_DOUBLING).round() as i32).or_default();
        bin.0 += stretch.tokens as f64;
        bin.1 += stretch.busy_nanos * 1e-9;
    }
    bins.retain(|_, bin| bin.1 >= LEAST_SECONDS);
    bins.into_iter().map(|(bin, (tokens, seconds))| (bin, tokens / seconds)).collect()
}
