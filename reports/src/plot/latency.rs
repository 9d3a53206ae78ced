//! Distributions of TTFT, TPOT, ITL and E2E.

use super::axes::{Axis, Panel, Unit, grid};
use super::theme::{draw, legend, legend_height};
use super::{Figure, View};
use crate::summary::SeedSummary;
use crate::{ArmResult, Cdf, ReportError};

/// Points drawn of one curve.
const MOST: usize = 300;

type Kind = (&'static str, fn(&SeedSummary) -> &Cdf);

pub(crate) fn figure(view: &View<'_>) -> Result<Option<Figure>, ReportError> {
    let kinds: [Kind; 4] = [
        ("TTFT: arrival to first token", |s| &s.ttft),
        ("TPOT: per output token after the first", |s| &s.tpot),
        ("ITL: gaps between deliveries", |s| &s.itl),
        ("E2E: arrival to last token", |s| &s.e2e),
    ];
    let keys = view.legend(&view.arms);
    let (frames, height) = grid(kinds.len(), 2, legend_height(&keys), 270.0);
    let svg = draw("latency", height, |canvas| {
        legend(canvas, &keys)?;
        for ((title, column), frame) in kinds.into_iter().zip(frames) {
            let curves: Vec<Vec<(f64, f64)>> = view.arms.iter().map(|s| pooled(s.arm, column)).collect();
            let x = Axis::log(curves.iter().flatten().map(|p| p.0), Unit::Seconds, "time");
            let y = Axis::between(0.0, 1.0, Unit::Share, "share at or below");
            let panel = Panel::new(canvas, frame, title, x, y)?;
            for (shown, curve) in view.arms.iter().zip(&curves) {
                // Gaps are binned: within a bin the share rises evenly.
                if title.starts_with("ITL") {
                    panel.line(curve, shown.paint, shown.dash)?;
                } else {
                    panel.stairs(curve, shown.paint, shown.dash)?;
                }
            }
        }
        Ok(())
    })?;
    let caption = format!(
        "Further left is faster; where a curve crosses 50 % is the median, and the tail is at the top. Finished requests of all \
         seeds; ITL counts every delivery.{}",
        view.at_load()
    );
    Ok(Some(Figure { stem: "latency", title: "Latency distributions", caption, svg }))
}

/// The distribution over all seeds, each with the same weight.
fn pooled(arm: &ArmResult, column: fn(&SeedSummary) -> &Cdf) -> Vec<(f64, f64)> {
    let filled: Vec<&Cdf> = arm.seeds.iter().map(column).filter(|cdf| !cdf.0.is_empty()).collect();
    let mut steps: Vec<(f64, f64)> = Vec::new();
    for Cdf(points) in &filled {
        let mut below = 0.0;
        for &(value, share) in points {
            steps.push((value, (share - below) / filled.len() as f64));
            below = share;
        }
    }
    steps.sort_by(|a, b| a.0.total_cmp(&b.0));
    steps.dedup_by(|next, kept| {
        let same = next.0.total_cmp(&kept.0).is_eq();
        kept.1 += if same { next.1 } else { 0.0 };
        same
    });
    let mut sum = 0.0;
    let curve: Vec<(f64, f64)> = steps
        .into_iter()
        .map(|(value, step)| {
            sum += step;
            (value, sum.min(1.0))
        })
        .collect();
    let every = curve.len().div_ceil(MOST).max(1);
    let last = curve.len().saturating_sub(1);
    curve
        .into_iter()
        .enumerate()
        .filter(|(i, _)| i % every == every - 1 || *i == last)
        .map(|(_, p)| p)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::arm;

    #[test]
    fn a_pooled_curve_rises_to_one_and_gives_each_seed_its_weight() {
        let curve = pooled(&arm("a", &[1.0, 2.0]), |s| &s.ttft);
        assert_eq!(curve.len(), 2);
        assert!((curve[0].1 - 0.5).abs() < 1e-12 && (curve[1].1 - 1.0).abs() < 1e-12, "{curve:?}");
    }
}
