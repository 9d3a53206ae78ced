//! Pass times as a table of cells.

use std::collections::BTreeMap;

use specrouter_routing::profile::{PassShape, TableRow};

use super::monotone::{Cell, monotone};
use super::terms::Terms;
use super::{Sample, trimmed};

/// Passes below which a cell of the table is left open.
const LEAST_IN_CELL: usize = 8;

/// Trimmed means over cells of half-octaves in rows, new tokens per row and context. A pass is brought to
/// its cell's corner by the ratio of the terms, so that a cell's width does not blur it.
///
/// What is added after another model or after idling is taken off first: the table is of warm passes.
/// Not medians: a simulation needs what passes take together.
pub(super) fn table(model: &str, samples: &[Sample], terms: &Terms) -> Vec<TableRow> {
    let mut cells: BTreeMap<(u32, u32, u32), Vec<f64>> = BTreeMap::new();
    for sample in samples {
        let shape = &sample.shape;
        let rows = f64::from(shape.rows.max(1));
        let cell = (
            corner(rows),
            corner(f64::from(shape.new_tokens) / rows),
            context_corner(shape.context_tokens as f64 / rows),
        );
        let warm = terms.warm.seconds(shape);
        // By the ratio of the whole: a pass that had luck has it in both parts.
        cells.entry(cell).or_default().push(sample.seconds / (warm + terms.more(sample.after)));
    }
    let mut cells: Vec<Cell> = cells
        .into_iter()
        .filter(|(_, ratios)| ratios.len() >= LEAST_IN_CELL)
        .map(|(at, mut ratios)| {
            ratios.sort_by(f64::total_cmp);
            let corner = PassShape::uniform(at.0, at.1, u64::from(at.2));
            let seconds = trimmed_mean(&ratios) * terms.warm.seconds(&corner);
            Cell { at: [at.0, at.1, at.2], weight: ratios.len() as f64, seconds }
        })
        .collect();
    monotone(&mut cells);
    let row = |cell: Cell| {
        let [rows, new, context] = cell.at;
        TableRow {
            model: model.to_owned(),
            rows,
            new_tokens: rows * new,
            context_tokens: f64::from(context),
            seconds: cell.seconds,
        }
    };
    cells.into_iter().map(row).collect()
}

/// The mean of ascending values that are left when they are [`trimmed`].
fn trimmed_mean(ascending: &[f64]) -> f64 {
    let kept = trimmed(ascending);
    kept.iter().sum::<f64>() / kept.len() as f64
}

/// The median of each shape that was measured.
pub(super) fn as_measured(model: &str, samples: &[Sample], _: &Terms) -> Vec<TableRow> {
    let mut cells: BTreeMap<(u32, u32, u64), Vec<f64>> = BTreeMap::new();
    for Sample { shape, seconds, .. } in samples {
        cells.entry((shape.rows, shape.new_tokens, shape.context_tokens)).or_default().push(*seconds);
    }
    cells
        .into_iter()
        .map(|((rows, new_tokens, context), mut seconds)| {
            seconds.sort_by(f64::total_cmp);
            TableRow {
                model: model.to_owned(),
                rows,
                new_tokens,
                context_tokens: context as f64 / f64::from(rows),
                seconds: seconds[seconds.len() / 2],
            }
        })
        .collect()
}

/// Whole numbers to 8, where kernels have their steps, then half-octaves.
fn corner(value: f64) -> u32 {
    if value < 8.5 { value.round().max(1.0) as u32 } else { half_octave(value) }
}

/// The nearest of 1, 2, 3, 4, 6, 8, 12, … by ratio.
fn half_octave(value: f64) -> u32 {
    let value = value.clamp(1.0, f64::from(1u32 << 24));
    let below = value.log2().floor().exp2();
    let corners = [below, 1.5 * below, 2.0 * below].into_iter().filter(|c| c.fract() == 0.0);
    let far = |corner: &f64| (corner / value).ln().abs();
    corners.min_by(|a, b| far(a).total_cmp(&far(b))).unwrap_or(1.0) as u32
}

/// The same for contexts; those of a few tokens count as none.
fn context_corner(value: f64) -> u32 {
    if value < 8.0 { 0 } else { half_octave(value.max(16.0)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corners_are_the_nearest_half_octaves() {
        let corners = [0.5, 1.0, 1.4, 1.5, 2.4, 2.5, 5.0, 7.0, 100.0, 120.0].map(half_octave);
        assert_eq!(corners, [1, 1, 1, 2, 2, 3, 6, 8, 96, 128]);
        assert_eq!([0.0, 7.9, 8.0, 30.0].map(context_corner), [0, 0, 16, 32]);
    }
}
