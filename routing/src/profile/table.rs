//! Measured pass times, interpolated without ever falling, extrapolated only out loud.
//!
//! The axes are rows, new tokens per row, and mean cached context per row: the sweep of a
//! profiler (batch × window × context) is a grid in them, and a pass is priced jointly at its
//! mean row. Between grid points time is linear on every axis (measured passes are piecewise
//! linear in tokens: a memory-bound floor, then a compute slope).
//!
//! Real tables are staircases with dips (a kernel chosen for a rounder size). A running maximum
//! over every axis takes the dips out, so more work never looks cheaper and a policy cannot chase
//! one. Grid points that were not measured are filled along the token axis, then along the
//! context axis; whatever touches one that lies outside its line counts as extrapolated. Past the
//! grid's far end every axis goes on at the steepest slope measured at that end; before its near
//! end the first value stands.

use std::sync::atomic::{AtomicU64, Ordering};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DataSheet, ModelKind, ModelSpec, PassCosts, PassShape};
use crate::ids::ModelId;

/// Grid points of one model at most: a profile has hundreds, scattered points would cube.
const MOST_CELLS: usize = 1 << 20;

/// One measured pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableRow {
    /// Catalog name of the model that ran.
    pub model: String,
    /// Sequences in the pass.
    pub rows: u32,
    /// Tokens run through the model, over all rows.
    pub new_tokens: u32,
    /// Cached tokens per row, the mean over the rows.
    pub context_tokens: f64,
    /// Duration of the pass.
    pub seconds: f64,
}

/// Why rows are no table. The profile's author is at fault.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TableError {
    /// A number that no pass has.
    #[error("cost table, row {row}: {field} must be {expected}, got {value}")]
    Value {
        /// Index of the row, 0 the first.
        row: usize,
        /// The field.
        field: &'static str,
        /// The range, in words.
        expected: &'static str,
        /// What came.
        value: f64,
    },
    /// A model of the pool was never measured.
    #[error("cost table: no rows for model {model}; it has rows for {}", if known.is_empty() { "none".into() } else { known.join(", ") })]
    Missing {
        /// The model.
        model: String,
        /// The models that were.
        known: Vec<String>,
    },
    /// One shape, measured twice.
    #[error(
        "cost table, row {row}: {model} at {rows} rows, {new_tokens} new tokens, context {context_tokens} is there already, in row {first}"
    )]
    Duplicate {
        /// Index of the later row.
        row: usize,
        /// Index of the earlier row.
        first: usize,
        /// The model.
        model: String,
        /// Its sequences.
        rows: u32,
        /// Its new tokens.
        new_tokens: u32,
        /// Its mean context.
        context_tokens: f64,
    },
    /// Scattered points instead of a grid.
    #[error(
        "cost table: model {model} spans a grid of {cells} points from {rows} rows; at most {MOST_CELLS}: measure on a grid of rows, new tokens per row and context"
    )]
    Scattered {
        /// The model.
        model: String,
        /// Points of the grid.
        cells: usize,
        /// Rows that were given.
        rows: usize,
    },
}

/// Measured pass times of a pool.
#[derive(Debug)]
pub struct Table {
    /// Per pool model; `None` for a look-up, which is not measured.
    grids: Vec<Option<Grid>>,
    extrapolations: AtomicU64,
}

impl Clone for Table {
    /// The same prices; the copy has extrapolated nothing yet.
    fn clone(&self) -> Self {
        Self { grids: self.grids.clone(), extrapolations: AtomicU64::new(0) }
    }
}

impl Table {
    /// The table of `models`, in pool order, from `rows` in any order. Rows of other models are
    /// left aside: one file may hold a whole catalog.
    ///
    /// # Errors
    /// [`TableError`] for numbers no pass has, a shape measured twice, a model without rows.
    pub fn new(models: &[ModelSpec], rows: &[TableRow]) -> Result<Self, TableError> {
        Self::check(rows)?;
        let grids = models
            .iter()
            .map(|model| {
                if model.kind == ModelKind::Ngram { Ok(None) } else { Grid::new(&model.name, rows).map(Some) }
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { grids, extrapolations: AtomicU64::new(0) })
    }

    /// The table of one model, known by its name.
    ///
    /// # Errors
    /// As [`Table::new`].
    pub fn of_one(model: &str, rows: &[TableRow]) -> Result<Self, TableError> {
        Self::check(rows)?;
        Ok(Self { grids: vec![Some(Grid::new(model, rows)?)], extrapolations: AtomicU64::new(0) })
    }

    fn check(rows: &[TableRow]) -> Result<(), TableError> {
        for (row, r) in rows.iter().enumerate() {
            let wrong = |field, expected, value| Err(TableError::Value { row, field, expected, value });
            if r.rows == 0 {
                return wrong("rows", "1 or more", 0.0);
            }
            if r.new_tokens < r.rows {
                return wrong("new_tokens", "at least one per row", f64::from(r.new_tokens));
            }
            if !(r.context_tokens >= 0.0 && r.context_tokens.is_finite()) {
                return wrong("context_tokens", "a finite number, 0 or above", r.context_tokens);
            }
            if !(r.seconds > 0.0 && r.seconds.is_finite()) {
                return wrong("seconds", "a finite number above 0", r.seconds);
            }
        }
        Ok(())
    }

    /// Seconds of a pass, and whether they lie outside what was measured.
    pub fn seconds_checked(&self, model: ModelId, shape: &PassShape) -> (f64, bool) {
        match &self.grids[model.index()] {
            Some(grid) => grid.seconds(shape),
            None => (DataSheet::NGRAM_SECONDS, false),
        }
    }

    /// How many prices since it was made lay outside what was measured; for the log.
    pub fn extrapolations(&self) -> u64 {
        self.extrapolations.load(Ordering::Relaxed)
    }

    /// Number of models that are priced.
    pub const fn models(&self) -> usize {
        self.grids.len()
    }
}

impl PassCosts for Table {
    fn seconds(&self, model: ModelId, shape: &PassShape) -> f64 {
        let (seconds, extrapolated) = self.seconds_checked(model, shape);
        if extrapolated {
            self.extrapolations.fetch_add(1, Ordering::Relaxed);
        }
        seconds
    }
}

/// One model's times over (rows, context, new tokens per row), the last the fastest.
#[derive(Clone, Debug)]
struct Grid {
    /// Rows, contexts, new tokens per row: each ascending.
    axes: [Vec<f64>; 3],
    seconds: Vec<f64>,
    /// True where a point was not measured and does not lie between measured ones.
    guessed: Vec<bool>,
    /// Seconds per row past the last, `[context][tokens]`, not falling in either.
    row_slopes: Vec<f64>,
    /// Seconds per context token and row past the last, `[rows][tokens]`, not falling in either.
    context_slopes: Vec<f64>,
    /// Seconds per new token past the last: the steepest measured there. One number, since the
    /// slope of a short batch is that of its memory-bound floor and would price a prefill at it.
    token_slope: f64,
}

/// Where a coordinate falls on its axis: below `index + 1` by `1 − weight` of a cell, and past
/// the end by `excess`.
#[derive(Clone, Copy)]
struct Place {
    index: usize,
    weight: f64,
    excess: f64,
    outside: bool,
}

impl Grid {
    fn new(model: &str, rows: &[TableRow]) -> Result<Self, TableError> {
        let mine: Vec<(usize, &TableRow)> =
            rows.iter().enumerate().filter(|(_, r)| r.model == model).collect();
        if mine.is_empty() {
            let mut known: Vec<String> = rows.iter().map(|r| r.model.clone()).collect();
            known.sort_unstable();
            known.dedup();
            return Err(TableError::Missing { model: model.into(), known });
        }
        let point =
            |r: &TableRow| [f64::from(r.rows), r.context_tokens, f64::from(r.new_tokens) / f64::from(r.rows)];
        let axes: [Vec<f64>; 3] = std::array::from_fn(|axis| {
            let mut values: Vec<f64> = mine.iter().map(|(_, r)| point(r)[axis]).collect();
            values.sort_unstable_by(f64::total_cmp);
            values.dedup();
            values
        });
        let cells = axes.iter().map(Vec::len).fold(1usize, usize::saturating_mul);
        if cells > MOST_CELLS {
            return Err(TableError::Scattered { model: model.into(), cells, rows: mine.len() });
        }
        let (contexts, tokens) = (axes[1].len(), axes[2].len());
        let mut measured: Vec<Option<(f64, usize)>> = vec![None; cells];
        for &(row, r) in &mine {
            let at = point(r);
            let [i, j, k] = std::array::from_fn(|axis| axes[axis].partition_point(|&v| v < at[axis]));
            let cell = &mut measured[(i * contexts + j) * tokens + k];
            if let Some((_, first)) = *cell {
                let TableRow { model, rows, new_tokens, context_tokens, .. } = r.clone();
                return Err(TableError::Duplicate { row, first, model, rows, new_tokens, context_tokens });
            }
            *cell = Some((r.seconds, row));
        }
        let mut filled: Vec<Option<(f64, bool)>> =
            measured.iter().map(|m| m.map(|(s, _)| (s, false))).collect();
        // Along the tokens of every (rows, context), then along the contexts of every (rows,
        // tokens). Each value of `rows` was measured somewhere, so nothing is left after these.
        for start in (0..cells).step_by(tokens) {
            fill_line(&mut filled, start, 1, &axes[2]);
        }
        for i in 0..axes[0].len() {
            for k in 0..tokens {
                fill_line(&mut filled, i * contexts * tokens + k, tokens, &axes[1]);
            }
        }
        let (mut seconds, guessed): (Vec<f64>, Vec<bool>) = filled
            .into_iter()
            .map(|cell| cell.expect("every value of `rows` has a measured point, so its plane is filled"))
            .unzip();
        // What was filled in stays below what was measured of more work, so the running maximum
        // moves a measured point only by another measured one.
        let shape = [axes[0].len(), contexts, tokens];
        let mut most: Vec<f64> = measured.iter().map(|m| m.map_or(f64::INFINITY, |(s, _)| s)).collect();
        running_minimum_from_the_end(&mut most, shape);
        for ((seconds, most), measured) in seconds.iter_mut().zip(most).zip(&measured) {
            if measured.is_none() {
                *seconds = seconds.min(most);
            }
        }
        running_maximum(&mut seconds, shape);
        Ok(Self::with_slopes(axes, seconds, guessed))
    }

    /// Adds the slopes past the far end of each axis.
    fn with_slopes(axes: [Vec<f64>; 3], seconds: Vec<f64>, guessed: Vec<bool>) -> Self {
        let [rows, contexts, tokens] = [axes[0].len(), axes[1].len(), axes[2].len()];
        let at = |i: usize, j: usize, k: usize| seconds[(i * contexts + j) * tokens + k];
        let last_cell =
            |axis: usize| axes[axis].len().checked_sub(2).map(|a| (a, axes[axis][a + 1] - axes[axis][a]));
        let mut row_slopes = vec![0.0; contexts * tokens];
        if let Some((i, width)) = last_cell(0) {
            for j in 0..contexts {
                for k in 0..tokens {
                    row_slopes[j * tokens + k] = (at(i + 1, j, k) - at(i, j, k)) / width;
                }
            }
            running_maximum(&mut row_slopes, [1, contexts, tokens]);
        }
        let mut context_slopes = vec![0.0; rows * tokens];
        if let Some((j, width)) = last_cell(1) {
            for i in 0..rows {
                for k in 0..tokens {
                    context_slopes[i * tokens + k] = (at(i, j + 1, k) - at(i, j, k)) / width;
                }
            }
            running_maximum(&mut context_slopes, [1, rows, tokens]);
        }
        let mut token_slope = 0.0f64;
        if let Some((k, width)) = last_cell(2) {
            for (i, &row_count) in axes[0].iter().enumerate() {
                for j in 0..contexts {
                    token_slope = token_slope.max((at(i, j, k + 1) - at(i, j, k)) / (width * row_count));
                }
            }
        }
        Self { axes, seconds, guessed, row_slopes, context_slopes, token_slope }
    }

    fn seconds(&self, shape: &PassShape) -> (f64, bool) {
        let rows = f64::from(shape.rows.max(1));
        let r = place(&self.axes[0], rows);
        let c = place(&self.axes[1], shape.context_tokens as f64 / rows);
        let n = place(&self.axes[2], f64::from(shape.new_tokens) / rows);
        let (contexts, tokens) = (self.axes[1].len(), self.axes[2].len());
        let mut seconds = 0.0;
        let mut outside = r.outside || c.outside || n.outside;
        for (i, wi) in r.ends() {
            for (j, wj) in c.ends() {
                for (k, wk) in n.ends() {
                    let (cell, weight) = ((i * contexts + j) * tokens + k, wi * wj * wk);
                    if weight > 0.0 {
                        seconds += weight * self.seconds[cell];
                        outside |= self.guessed[cell];
                    }
                }
            }
        }
        if r.excess > 0.0 {
            seconds += r.excess * plane(&self.row_slopes, tokens, c, n);
        }
        if c.excess > 0.0 {
            seconds += c.excess * plane(&self.context_slopes, tokens, r, n);
        }
        (seconds + n.excess * rows * self.token_slope, outside)
    }
}

impl Place {
    /// Both ends of the cell and their weights. On a grid point the second has weight 0.
    fn ends(self) -> [(usize, f64); 2] {
        [(self.index, 1.0 - self.weight), (self.index + 1, self.weight)]
    }
}

fn place(axis: &[f64], value: f64) -> Place {
    let last = axis.len() - 1;
    if value <= axis[0] {
        return Place { index: 0, weight: 0.0, excess: 0.0, outside: value < axis[0] };
    }
    if value >= axis[last] {
        let excess = value - axis[last];
        return Place { index: last, weight: 0.0, excess, outside: excess > 0.0 };
    }
    let index = axis.partition_point(|&v| v <= value) - 1;
    Place {
        index,
        weight: (value - axis[index]) / (axis[index + 1] - axis[index]),
        excess: 0.0,
        outside: false,
    }
}

/// Bilinear value of `values`, `[a][b]` with `width` columns.
fn plane(values: &[f64], width: usize, a: Place, b: Place) -> f64 {
    let mut sum = 0.0;
    for (i, wi) in a.ends() {
        for (j, wj) in b.ends() {
            if wi * wj > 0.0 {
                sum += wi * wj * values[i * width + j];
            }
        }
    }
    sum
}

/// Fills the holes of one line from its known points: between two, linear; outside, at the slope
/// of the two nearest (never falling), or at the nearest where there is one only.
fn fill_line(cells: &mut [Option<(f64, bool)>], start: usize, stride: usize, axis: &[f64]) {
    let known: Vec<(f64, f64, bool)> = axis
        .iter()
        .enumerate()
        .filter_map(|(i, &x)| cells[start + i * stride].map(|(s, guessed)| (x, s, guessed)))
        .collect();
    let (Some(&first), Some(&last)) = (known.first(), known.last()) else { return };
    for (i, &x) in axis.iter().enumerate() {
        let cell = &mut cells[start + i * stride];
        if cell.is_some() {
            continue;
        }
        *cell = Some(if x < first.0 {
            (first.1, true)
        } else if x > last.0 {
            let slope = match known[..] {
                [.., a, b] => ((b.1 - a.1) / (b.0 - a.0)).max(0.0),
                _ => 0.0,
            };
            (last.1 + slope * (x - last.0), true)
        } else {
            let after = known.partition_point(|k| k.0 < x);
            let (a, b) = (known[after - 1], known[after]);
            (a.1 + (b.1 - a.1) * (x - a.0) / (b.0 - a.0), a.2 || b.2)
        });
    }
}

/// Makes `values`, `[shape[0]][shape[1]][shape[2]]`, not fall along any axis.
fn running_maximum(values: &mut [f64], shape: [usize; 3]) {
    for (axis, &len) in shape.iter().enumerate() {
        let stride: usize = shape[axis + 1..].iter().product();
        for cell in 0..values.len() {
            if !(cell / stride).is_multiple_of(len) {
                values[cell] = values[cell].max(values[cell - stride]);
            }
        }
    }
}

/// Makes each of `values` the least of itself and all that lie further along any axis.
fn running_minimum_from_the_end(values: &mut [f64], shape: [usize; 3]) {
    for (axis, &len) in shape.iter().enumerate() {
        let stride: usize = shape[axis + 1..].iter().product();
        for cell in (0..values.len()).rev() {
            if (cell / stride) % len + 1 < len {
                values[cell] = values[cell].min(values[cell + stride]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spec(name: &str, kind: ModelKind) -> ModelSpec {
        ModelSpec {
            name: name.into(),
            source: "test".into(),
            kind,
            family: "test".into(),
            layers: 1,
            hidden: 64,
            heads: 1,
            kv_heads: 1,
            head_dim: 64,
            intermediate: 64,
            vocab: 64,
            tied_embeddings: true,
            context: 64,
            precision: crate::profile::Precision::Bf16,
            kv_bytes: 2,
        }
    }

    fn row(rows: u32, new_tokens: u32, context_tokens: f64, seconds: f64) -> TableRow {
        TableRow { model: "m".into(), rows, new_tokens, context_tokens, seconds }
    }

    fn table(rows: &[TableRow]) -> Result<Table, TableError> {
        Table::new(&[spec("m", ModelKind::Model)], rows)
    }

    fn shape(rows: u32, new_tokens: u32, context: u64) -> PassShape {
        PassShape { rows, new_tokens, context_tokens: u64::from(rows) * context, ..PassShape::default() }
    }

    #[track_caller]
    fn check(table: &Table, at: PassShape, seconds: f64, extrapolated: bool) {
        let (got, flag) = table.seconds_checked(ModelId(0), &at);
        assert!(
            (got - seconds).abs() < 1e-12 && flag == extrapolated,
            "{got} {flag}, expected {seconds} {extrapolated}"
        );
    }

    /// Rows 1, 4; tokens per row 1, 5; contexts 0, 1000.
    fn grid() -> Vec<TableRow> {
        let mut rows = Vec::new();
        for r in [1, 4] {
            for n in [1, 5] {
                for c in [0.0, 1000.0] {
                    rows.push(row(r, r * n, c, 0.01 + 0.001 * f64::from(r * n) + 1e-6 * c * f64::from(r)));
                }
            }
        }
        rows
    }

    #[test]
    fn measured_points_come_back_and_between_them_time_is_linear() {
        let table = table(&grid()).unwrap();
        for r in grid() {
            check(&table, shape(r.rows, r.new_tokens, r.context_tokens as u64), r.seconds, false);
        }
        check(&table, shape(1, 3, 500), 0.01 + 0.003 + 0.0005, false);
        check(&table, shape(2, 6, 0), 0.01 + 0.006, false);
        assert_eq!(table.extrapolations(), 0);
    }

    #[test]
    fn what_lies_outside_goes_on_at_the_last_slope_and_is_counted() {
        let table = table(&grid()).unwrap();
        check(&table, shape(1, 2000, 0), 0.01 + 0.001 * 2000.0, true);
        check(&table, shape(4, 4, 3000), 0.01 + 0.004 + 4.0 * 0.003, true);
        check(&table, shape(8, 8, 0), 0.01 + 0.008, true);
        table.seconds(ModelId(0), &shape(1, 2000, 0));
        table.seconds(ModelId(0), &shape(1, 1, 0));
        assert_eq!((table.extrapolations(), table.clone().extrapolations()), (1, 0));
    }

    #[test]
    fn a_staircase_with_dips_is_flattened() {
        // Verification of V4-Flash on B300, ms by tokens; algorithms.md section 4.
        let steps = [(128, 9.43), (160, 11.3), (192, 10.5), (224, 11.0), (256, 11.3), (304, 13.9)];
        let rows: Vec<TableRow> = steps.iter().map(|&(t, ms)| row(1, t, 8192.0, ms * 1e-3)).collect();
        let table = table(&rows).unwrap();
        check(&table, shape(1, 192, 8192), 11.3e-3, false);
        check(&table, shape(1, 304, 8192), 13.9e-3, false);
    }

    #[test]
    fn holes_inside_a_line_are_interpolated_and_outside_it_flagged() {
        let mut rows = grid();
        rows.push(row(1, 3, 0.0, 0.013)); // Not measured at four rows, nor at context 1000.
        rows.retain(|r| !(r.rows == 4 && r.new_tokens == 20 && r.context_tokens > 0.0));
        let table = table(&rows).unwrap();
        check(&table, shape(4, 12, 0), 0.022, false);
        assert!(table.seconds_checked(ModelId(0), &shape(4, 20, 1000)).1);
    }

    #[test]
    fn what_is_no_table_is_named() {
        let err = |rows: &[TableRow]| table(rows).unwrap_err();
        insta::assert_snapshot!(err(&[]), @"cost table: no rows for model m; it has rows for none");
        insta::assert_snapshot!(err(&[TableRow { model: "other".into(), ..row(1, 1, 0.0, 1.0) }]), @"cost table: no rows for model m; it has rows for other");
        insta::assert_snapshot!(err(&[row(1, 1, 0.0, f64::NAN)]), @"cost table, row 0: seconds must be a finite number above 0, got NaN");
        insta::assert_snapshot!(err(&[row(1, 1, 0.0, 1.0), row(1, 1, -1.0, 1.0)]), @"cost table, row 1: context_tokens must be a finite number, 0 or above, got -1");
        insta::assert_snapshot!(err(&[row(0, 1, 0.0, 1.0)]), @"cost table, row 0: rows must be 1 or more, got 0");
        insta::assert_snapshot!(err(&[row(2, 1, 0.0, 1.0)]), @"cost table, row 0: new_tokens must be at least one per row, got 1");
        insta::assert_snapshot!(err(&[row(2, 2, 0.0, 1.0), row(2, 2, 0.0, 2.0)]), @"cost table, row 1: m at 2 rows, 2 new tokens, context 0 is there already, in row 0");
        let scattered: Vec<TableRow> = (1..=120).map(|i| row(i, i * i, f64::from(i), 1.0)).collect();
        insta::assert_snapshot!(err(&scattered), @"cost table: model m spans a grid of 1728000 points from 120 rows; at most 1048576: measure on a grid of rows, new tokens per row and context");
    }

    #[test]
    fn a_look_up_needs_no_rows() {
        let pool = [spec("ngram", ModelKind::Ngram), spec("m", ModelKind::Model)];
        let table = Table::new(&pool, &grid()).unwrap();
        assert_eq!(table.seconds_checked(ModelId(0), &shape(4, 20, 9000)), (DataSheet::NGRAM_SECONDS, false));
    }

    proptest! {
        /// Whatever was measured, and wherever holes are, more work is never cheaper.
        #[test]
        fn more_tokens_rows_or_context_never_cost_less(
            cells in prop::collection::btree_map((0usize..4, 0usize..4, 0usize..4), 0.1f64..10.0, 1..40),
            (rows, per_row, context) in (1u32..80, 1u32..80, 0u64..6000),
            (more_rows, more_tokens, more_context) in (0u32..80, 0u32..80, 0u64..6000),
        ) {
            let rows_of: Vec<TableRow> = cells.iter().map(|(&(i, j, k), &s)| {
                let r = [1, 3, 8, 40][i];
                row(r, r * [1, 2, 9, 30][k], [0.0, 128.0, 1000.0, 4000.0][j], s)
            }).collect();
            let table = table(&rows_of).unwrap();
            // A measured point is lifted only by another one of no more work.
            for r in &rows_of {
                let more = |m: &&TableRow| m.rows <= r.rows && m.context_tokens <= r.context_tokens && m.new_tokens * r.rows <= r.new_tokens * m.rows;
                let expected = rows_of.iter().filter(more).map(|m| m.seconds).fold(0.0, f64::max);
                let (got, extrapolated) = table.seconds_checked(ModelId(0), &shape(r.rows, r.new_tokens, r.context_tokens as u64));
                prop_assert!((got - expected).abs() < 1e-9 && !extrapolated, "{got} {expected}");
            }
            let price = |r: u32, t: u32, c: u64| table.seconds(ModelId(0), &shape(r, t, c));
            let base = price(rows, rows * per_row, context);
            prop_assert!(base > 0.0 && base.is_finite());
            let slack = base * (1.0 - 1e-12);
            prop_assert!(price(rows, rows * per_row + more_tokens, context) >= slack);
            prop_assert!(price(rows, rows * per_row, context + more_context) >= slack);
            let r = rows + more_rows;
            prop_assert!(price(r, r * per_row, context) >= slack);
        }
    }
}
