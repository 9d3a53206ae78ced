//! Acceptance by pair of models and position in the block.

use std::collections::BTreeMap;

use super::axes::{Axis, Panel, Unit, grid};
use super::theme::{draw, legend, legend_height};
use super::{Figure, Shown, View};
use crate::{ArmResult, ReportError};

/// Verifications below which a position says nothing.
const LEAST: u64 = 30;
/// Pairs shown at most.
const MOST: usize = 6;

type Pair = (String, String);
/// `(tried, kept)` by position, for every pair.
type Positions = BTreeMap<Pair, Vec<(u64, u64)>>;

pub(crate) fn figure(view: &View<'_>) -> Result<Option<Figure>, ReportError> {
    let by_arm: Vec<(&Shown<'_>, Positions)> =
        view.arms.iter().map(|shown| (shown, positions(shown.arm))).collect();
    let mut pairs: BTreeMap<&Pair, u64> = BTreeMap::new();
    for (pair, at) in by_arm.iter().flat_map(|(_, own)| own) {
        *pairs.entry(pair).or_default() += at.first().map_or(0, |p| p.0);
    }
    pairs.retain(|_, tried| *tried >= LEAST);
    // The pairs that verified most.
    let mut shown: Vec<(&Pair, u64)> = pairs.into_iter().collect();
    shown.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    shown.truncate(MOST);
    if shown.is_empty() {
        return Ok(None);
    }
    let arms: Vec<Shown<'_>> = by_arm.iter().filter(|(_, own)| !own.is_empty()).map(|(s, _)| **s).collect();
    let keys = view.legend(&arms);
    let (frames, height) = grid(shown.len(), 3, legend_height(&keys), 260.0);
    let svg = draw("acceptance", height, |canvas| {
        legend(canvas, &keys)?;
        for ((pair, _), frame) in shown.iter().zip(frames) {
            let curves: Vec<(&Shown<'_>, Vec<(f64, f64)>)> =
                by_arm.iter().filter_map(|(s, own)| Some((*s, curve(own.get(*pair)?)))).collect();
            let most = curves.iter().map(|c| c.1.len()).max().unwrap_or(1);
            let x = Axis::between(0.5, most.max(2) as f64 + 0.5, Unit::Number, "position in the block");
            let y = Axis::between(0.0, 1.0, Unit::Share, "kept, of those reached");
            let panel = Panel::new(canvas, frame, &format!("{} by {}", pair.0, pair.1), x, y)?;
            for (shown, curve) in &curves {
                panel.dotted(curve, shown.paint, shown.dash)?;
            }
        }
        Ok(())
    })?;
    let caption = format!(
        "For each drafter and the model that verifies it: of the blocks whose first tokens were all kept, the share that kept the \
         next one too. Flat means that acceptance does not depend on depth. Positions with under {LEAST} verifications are left out.{}",
        view.at_load()
    );
    Ok(Some(Figure { stem: "acceptance", title: "Acceptance by level and position", caption, svg }))
}

/// `(tried, kept)` by pair and position, Σ over seeds.
fn positions(arm: &ArmResult) -> Positions {
    let name = |i: usize| arm.pool.get(i).cloned().unwrap_or_else(|| i.to_string());
    let mut out: Positions = BTreeMap::new();
    for ((drafter, verifier), pair) in arm.seeds.iter().flat_map(|seed| seed.tally.pairs()) {
        let at = pair.by_position();
        let sum = out.entry((name(drafter.index()), name(verifier.index()))).or_default();
        if sum.len() < at.len() {
            sum.resize(at.len(), (0, 0));
        }
        sum.iter_mut().zip(at).for_each(|(sum, n)| *sum = (sum.0 + n.0, sum.1 + n.1));
    }
    out
}

fn curve(at: &[(u64, u64)]) -> Vec<(f64, f64)> {
    let enough = at.iter().enumerate().filter(|(_, n)| n.0 >= LEAST);
    enough.map(|(i, &(tried, kept))| (i as f64 + 1.0, kept as f64 / tried as f64)).collect()
}
