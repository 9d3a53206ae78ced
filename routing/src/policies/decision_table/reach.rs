//! Which rules can never decide: what a rule takes is a box, and a rule whose box those before it cover
//! together is never reached.

use super::rule::{COUNTS, Rule};

/// Most pieces that a box is cut into; past them a rule counts as reached. (Cutting a box by another
/// leaves two pieces an axis at most, and tables that people write leave few.)
const MOST_PIECES: usize = 256;

/// Whole numbers from, to, on every axis: class, counts, then the acceptance of every pair that rules
/// ask about (as its bits, which have the order of the number).
type Area = Vec<(u64, u64)>;

/// The first rule that the rules before it leave nothing to.
pub(super) fn shadowed(rules: &[Rule], classes: usize, pairs: usize) -> Option<usize> {
    let areas: Vec<Area> = rules.iter().map(|rule| area(Some(rule), classes, pairs)).collect();
    (0..areas.len()).find(|&index| covered(&areas[index], &areas[..index]))
}

/// Do the rules take every sequence?
pub(super) fn complete(rules: &[Rule], classes: usize, pairs: usize) -> bool {
    let areas: Vec<Area> = rules.iter().map(|rule| area(Some(rule), classes, pairs)).collect();
    covered(&area(None, classes, pairs), &areas)
}

/// What a rule takes; what there is, without one.
fn area(rule: Option<&Rule>, classes: usize, pairs: usize) -> Area {
    let class = rule.and_then(|rule| rule.class);
    let mut area: Area =
        vec![class.map_or((0, classes.max(1) as u64 - 1), |class| (u64::from(class.0), u64::from(class.0)))];
    area.extend(COUNTS.iter().enumerate().map(|(axis, &(_, _, least))| {
        // Past the end, a conversion gives the last number there is.
        rule.map_or((u64::from(least), u64::MAX), |r| {
            (r.counts[axis].least as u64, r.counts[axis].most as u64)
        })
    }));
    area.extend((0..pairs).map(|pair| match rule.and_then(|rule| rule.acceptance) {
        Some((own, bounds)) if own == pair => (bits(bounds.least), bits(bounds.most)),
        _ => (bits(0.0), bits(1.0)),
    }));
    area
}

/// The bits of a number that is not below 0; of both zeros the same.
fn bits(value: f64) -> u64 {
    value.abs().to_bits()
}

fn covered(area: &Area, by: &[Area]) -> bool {
    let mut left = vec![area.clone()];
    for cut in by {
        left = left.iter().flat_map(|piece| without(piece, cut)).collect();
        if left.len() > MOST_PIECES {
            return false;
        }
    }
    left.is_empty()
}

/// What of `piece` lies outside `cut`, in pieces that do not overlap.
fn without(piece: &Area, cut: &Area) -> Vec<Area> {
    if piece.iter().zip(cut).any(|(own, cut)| own.1 < cut.0 || cut.1 < own.0) {
        return vec![piece.clone()];
    }
    let (mut rest, mut pieces) = (piece.clone(), Vec::new());
    for (axis, &(from, to)) in cut.iter().enumerate() {
        let own = rest[axis];
        if own.0 < from {
            let mut below = rest.clone();
            below[axis] = (own.0, from - 1);
            pieces.push(below);
        }
        if to < own.1 {
            let mut above = rest.clone();
            above[axis] = (to + 1, own.1);
            pieces.push(above);
        }
        rest[axis] = (own.0.max(from), own.1.min(to));
    }
    pieces
}
