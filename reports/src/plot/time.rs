//! Where the replicas' time went: by model into useful, prefill and catch-up, and wasted; and idle.

use super::axes::{Axis, Panel, Unit};
use super::theme::{Dash, Key, Paint, WIDTH, draw, legend, legend_height};
use super::{Figure, View, name};
use crate::summary::ModelSummary;
use crate::{ArmResult, ReportError};

type Part = (&'static str, f64, fn(&ModelSummary) -> f64);

const PARTS: [Part; 3] = [
    ("useful", 1.0, |m| m.useful),
    ("prefill and catch-up", 0.55, |m| m.catch_up),
    ("wasted", 0.28, |m| m.wasted),
];

pub(crate) fn figure(view: &View<'_>) -> Result<Option<Figure>, ReportError> {
    let mut models: Vec<&String> = view.report.pool.iter().collect();
    for model in view.arms.iter().flat_map(|s| &s.arm.pool) {
        if !models.contains(&model) {
            models.push(model);
        }
    }
    let mut keys = Vec::new();
    for (index, model) in models.iter().enumerate() {
        for (part, opacity, _) in PARTS {
            // What never took time has no key.
            let text = format!("{model}: {part}");
            let share = view
                .arms
                .iter()
                .map(|s| mean(s.arm, model, PARTS.iter().find(|p| p.0 == part).map_or(|_| 0.0, |p| p.2)));
            if share.fold(0.0, f64::max) > 0.0005 {
                keys.push(Key { paint: Paint::Model(index), fill: Some(opacity), dash: Dash::Solid, text });
            }
        }
    }
    keys.push(Key { paint: Paint::Grid, fill: Some(1.0), dash: Dash::Solid, text: "idle".into() });
    let top = legend_height(&keys);
    let body = 76.0 + 27.0 * view.arms.len() as f64;
    let svg = draw("time", top + body, |canvas| {
        legend(canvas, &keys)?;
        let x = Axis::between(0.0, 1.0, Unit::Share, "share of the replicas' time");
        let rows = Axis::rows(view.arms.iter().map(|s| name(s.arm)));
        let panel = Panel::new(canvas, (0.0, top, WIDTH, body), "", x, rows)?;
        for (row, shown) in view.arms.iter().enumerate() {
            let y = panel.y.row(row);
            let mut from = 0.0;
            for (index, model) in models.iter().enumerate() {
                for (_, opacity, part) in PARTS {
                    let to = from + mean(shown.arm, model, part);
                    if to > from {
                        panel.bar((from, y + 0.36), (to, y - 0.36), Paint::Model(index), opacity)?;
                    }
                    from = to;
                }
            }
            if from < 1.0 {
                panel.bar((from, y + 0.36), (1.0, y - 0.36), Paint::Grid, 1.0)?;
            }
        }
        Ok(())
    })?;
    let caption = format!(
        "One bar per policy. Useful: passes, by the share of the model's tokens that the level above kept (the target's are \
         all committed); wasted: the rest; prefill and catch-up: prompts, and committed tokens that a model had not seen yet.{}",
        view.at_load()
    );
    Ok(Some(Figure { stem: "time", title: "Time by model", caption, svg }))
}

/// Mean over seeds of a share of `model`.
fn mean(arm: &ArmResult, model: &str, part: fn(&ModelSummary) -> f64) -> f64 {
    let of = |seed: &crate::SeedSummary| {
        seed.summary.models.iter().filter(|m| m.model == model).map(part).sum::<f64>()
    };
    arm.seeds.iter().map(of).sum::<f64>() / arm.seeds.len().max(1) as f64
}
