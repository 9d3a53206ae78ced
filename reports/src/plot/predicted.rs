//! How well the policies' profiles foretell pass times.

use super::axes::{Axis, Panel, Unit};
use super::theme::{WIDTH, draw};
use super::{Figure, Shown, View, name};
use crate::ReportError;

pub(crate) fn figure(view: &View<'_>) -> Result<Option<Figure>, ReportError> {
    let ratios = |s: &Shown<'_>| -> Vec<f64> {
        s.arm.seeds.iter().filter_map(|seed| seed.summary.predicted_over_observed).collect()
    };
    let arms: Vec<(&Shown<'_>, Vec<f64>)> =
        view.arms.iter().map(|s| (s, ratios(s))).filter(|(_, r)| !r.is_empty()).collect();
    if arms.is_empty() {
        return Ok(None);
    }
    let height = 76.0 + 24.0 * arms.len() as f64;
    let svg = draw("predicted", height, |canvas| {
        let ends = arms.iter().flat_map(|(_, r)| r).fold((0.9f64, 1.1f64), |(l, h), &v| (l.min(v), h.max(v)));
        let x = Axis::between(ends.0 * 0.96, ends.1 * 1.04, Unit::Number, "predicted / observed pass time");
        let rows = Axis::rows(arms.iter().map(|(s, _)| name(s.arm)));
        let panel = Panel::new(canvas, (0.0, 0.0, WIDTH, height), "", x, rows)?;
        panel.upright(1.0)?;
        for (row, (shown, ratios)) in arms.iter().enumerate() {
            let y = panel.y.row(row);
            ratios.iter().try_for_each(|&ratio| panel.dot((ratio, y), 4.0, shown.paint))?;
        }
        Ok(())
    })?;
    let caption = format!(
        "Σ predicted over Σ observed time of all passes, one dot per seed: left of 1 the policy believes passes to be cheaper than \
         they are, right of it dearer.{}",
        view.at_load()
    );
    Ok(Some(Figure { stem: "predicted", title: "Predicted and observed pass times", caption, svg }))
}
