//! Pass times: a sum of terms and a measured table, judged on blocks of time that neither has seen.
//!
//! A pass costs what passed until the next one of its replica began, while requests were running: the
//! host's work between passes is part of its price. A gap of more than [`MOST_GAP`] times the pass is not that
//! work (a stall, a pause of the whole process) and is left out, as is the wait for the next arrival.

use std::collections::BTreeMap;

use serde::Serialize;
use specrouter_routing::backend::After;
use specrouter_routing::ids::ModelId;
use specrouter_routing::profile::{LinearTerms, PassShape, Table, TableRow};
use specrouter_routing::record::PassRecord;

use super::monotone::{Cell, monotone};
use super::squares::non_negative;
use super::{Fitted, enough};

/// Passes of a model below which its times are not fitted.
pub const LEAST_PASSES: usize = 50;
/// Rows of a measured table below which a model's times are not fitted.
pub const LEAST_ROWS: usize = 10;
/// Passes below which a cell of the table is left open.
const LEAST_IN_CELL: usize = 8;
/// A gap before the next pass counts up to this many times the pass.
pub const MOST_GAP: u64 = 10;
/// Parts of the data, each held out once.
pub const FOLDS: usize = 5;
/// Blocks of time, dealt to the folds in turn.
const BLOCKS: usize = 20;
/// Most points kept for a plot.
const POINTS: usize = 500;
/// The least a pass is said to take: shorter is no time on the clock.
const LEAST_SECONDS: f64 = 1e-9;

/// A pass as a cost model sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The model that ran.
    pub model: ModelId,
    /// What the device did just before.
    pub after: After,
    /// Its rows and tokens.
    pub shape: PassShape,
    /// What it cost, the host's work after it included.
    pub seconds: f64,
}

/// What each of `passes` cost, in order of time.
pub fn samples(passes: &[PassRecord]) -> Vec<Sample> {
    let mut order: Vec<&PassRecord> = passes.iter().filter(|p| p.shape.new_tokens > 0).collect();
    order.sort_by_key(|p| (p.replica, p.tick));
    let mut priced: Vec<(u64, Sample)> = Vec::with_capacity(order.len());
    for (index, pass) in order.iter().enumerate() {
        let next = order.get(index + 1).filter(|next| next.replica == pass.replica && pass.running > 0);
        let own = pass.duration.nanos();
        let nanos = next
            .and_then(|next| next.start.since(pass.start))
            .map(|until| until.nanos().max(own))
            .filter(|&until| until - own <= own.saturating_mul(MOST_GAP))
            .unwrap_or(own);
        if nanos > 0 {
            let (model, after, shape) = (pass.model, pass.after, pass.shape);
            let sample = Sample { model, after, shape, seconds: nanos as f64 * 1e-9 };
            priced.push((pass.start.nanos(), sample));
        }
    }
    priced.sort_by_key(|(start, _)| *start);
    priced.into_iter().map(|(_, sample)| sample).collect()
}

/// Relative errors |predicted − observed| / observed on passes that a fit has not seen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HeldOut {
    /// Passes judged.
    pub passes: usize,
    /// Half of the errors are below it.
    pub median: f64,
    /// 95 % of the errors are below it.
    pub p95: f64,
    /// Σ |predicted − observed| / Σ observed: the fit with the smaller one is the better. (A mean of relative errors would
    /// be the small models' alone, whose passes are many and take no time.)
    pub absolute: f64,
    /// Σ observed, in seconds.
    pub seconds: f64,
    /// Σ predicted / Σ observed: what the fit makes of the whole time.
    pub total: f64,
}

impl HeldOut {
    /// Of `(predicted, observed)` seconds; `None` without any.
    fn of(pairs: &[(f64, f64)]) -> Option<Self> {
        let mut errors: Vec<f64> = pairs.iter().map(|(p, o)| (p - o).abs() / o).collect();
        errors.sort_by(f64::total_cmp);
        let (predicted, observed) = pairs.iter().fold((0.0, 0.0), |(p, o), pair| (p + pair.0, o + pair.1));
        let at = |share: f64| errors.get((errors.len() as f64 * share) as usize).copied();
        Some(Self {
            passes: errors.len(),
            median: at(0.5)?,
            p95: at(0.95)?,
            absolute: pairs.iter().map(|(p, o)| (p - o).abs()).sum::<f64>() / observed,
            seconds: observed,
            total: predicted / observed,
        })
    }
}

/// What one model's passes cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelCosts {
    /// The model's name.
    pub model: String,
    /// Passes behind the fits.
    pub passes: usize,
    /// A sum of terms, of a pass after another of the same model.
    pub linear: LinearTerms,
    /// Seconds more after a pass of another model: its weights have left the caches.
    pub after_other_s: f64,
    /// Seconds more after the device had nothing to do.
    pub after_idle_s: f64,
    /// Its error.
    pub linear_error: HeldOut,
    /// One row for each cell, empty where no cell had enough passes.
    pub table: Vec<TableRow>,
    /// Its error; `None` without a table in every fold.
    pub table_error: Option<HeldOut>,
    /// `(predicted, observed)` seconds of held-out passes by the better fit, at most 500.
    pub points: Vec<(f64, f64)>,
}

impl ModelCosts {
    /// Does the table foretell held-out passes better than the terms.
    pub fn table_is_better(&self) -> bool {
        self.table_error.is_some_and(|table| table.absolute < self.linear_error.absolute)
    }
}

/// One fit for all models, since a scenario names one: the table, if it is less time off over all held-out passes.
pub fn table_is_better<'a>(costs: impl IntoIterator<Item = &'a ModelCosts>) -> bool {
    let (mut linear, mut table, mut whole) = (0.0, 0.0, true);
    for costs in costs {
        linear += costs.linear_error.absolute * costs.linear_error.seconds;
        table += costs.table_error.map_or(0.0, |error| error.absolute * error.seconds);
        whole &= costs.table_error.is_some();
    }
    whole && table < linear
}

/// Fits the times of `model` from its samples, in order of time.
///
/// # Errors
/// [`super::Shortage`] below [`LEAST_PASSES`].
pub fn fit(model: &str, samples: &[Sample]) -> Fitted<ModelCosts> {
    enough("passes", samples.len(), LEAST_PASSES)?;
    Ok(fit_with(model, samples, table))
}

/// Fits the times of `model` from a table that was measured on purpose: every row is a cell of its own, and
/// the table is judged by the rows that are left out of it.
///
/// # Errors
/// [`super::Shortage`] below [`LEAST_ROWS`].
pub fn fit_table(model: &str, rows: &[Sample]) -> Fitted<ModelCosts> {
    enough("rows", rows.len(), LEAST_ROWS)?;
    Ok(fit_with(model, rows, as_measured))
}

fn fit_with(
    model: &str,
    samples: &[Sample],
    table: impl Fn(&str, &[Sample], &Terms) -> Vec<TableRow>,
) -> ModelCosts {
    let block = samples.len().div_ceil(BLOCKS);
    let fold_of = |index: usize| index / block % FOLDS;
    let (mut by_terms, mut by_table) = (Vec::new(), Vec::new());
    for fold in 0..FOLDS {
        let part = |held: bool| -> Vec<Sample> {
            let chosen = samples.iter().enumerate().filter(|(i, _)| (fold_of(*i) == fold) == held);
            chosen.map(|(_, sample)| *sample).collect()
        };
        let (seen, held) = (part(false), part(true));
        let terms = linear(&seen);
        let grid = Table::of_one(model, &table(model, &seen, &terms)).ok();
        for sample in &held {
            let more = terms.more(sample.after);
            by_terms.push((terms.warm.seconds(&sample.shape) + more, sample.seconds));
            if let Some(grid) = &grid {
                by_table.push((grid.seconds_checked(ModelId(0), &sample.shape).0 + more, sample.seconds));
            }
        }
    }
    let terms = linear(samples);
    let linear_error = HeldOut::of(&by_terms);
    let linear_error = linear_error.expect("every block of the samples, which are not few, was held out");
    let mut costs = ModelCosts {
        model: model.to_owned(),
        passes: samples.len(),
        linear: terms.warm,
        after_other_s: terms.other,
        after_idle_s: terms.idle,
        linear_error,
        table: table(model, samples, &terms),
        table_error: HeldOut::of(&by_table).filter(|error| error.passes == by_terms.len()),
        points: Vec::new(),
    };
    let points = if costs.table_is_better() { by_table } else { by_terms };
    costs.points = points.iter().step_by(points.len().div_ceil(POINTS)).copied().collect();
    costs
}

/// Terms of a pass: of one after another of the same model, and what is added where it is not.
struct Terms {
    warm: LinearTerms,
    other: f64,
    idle: f64,
}

impl Terms {
    fn more(&self, after: After) -> f64 {
        match after {
            After::Same => 0.0,
            After::Other => self.other,
            After::Idle => self.idle,
        }
    }
}

/// Number of terms.
const TERMS: usize = 7;

/// What each term is multiplied with: those of [`LinearTerms`] in order, then after another model and after idling;
/// what the samples never were without (`always`) is no term of its own.
fn terms_of(Sample { shape, after, .. }: &Sample, always: After) -> [f64; TERMS] {
    let when = |is: After| if *after == is && is != always { 1.0 } else { 0.0 };
    [
        1.0,
        f64::from(shape.rows),
        f64::from(shape.new_tokens),
        shape.context_tokens as f64,
        shape.attention_pairs as f64,
        when(After::Other),
        when(After::Idle),
    ]
}

/// Non-negative least squares of relative errors, weighed down past Huber's bound, so that a stalled pass
/// does not price the others.
///
/// Errors are relative to the prediction of the round before: relative to the observation, slow passes
/// would weigh least and every price would come out low.
fn linear(samples: &[Sample]) -> Terms {
    const ROUNDS: usize = 12;
    const HUBER: f64 = 1.345;
    let mut weights: Vec<f64> = samples.iter().map(|s| 1.0 / (s.seconds * s.seconds)).collect();
    let seen = |after: &After| samples.iter().any(|sample| sample.after == *after);
    let always = [After::Same, After::Other].into_iter().find(seen).unwrap_or(After::Idle);
    let mut found = [0.0; TERMS];
    for _ in 0..ROUNDS {
        let (mut gram, mut right) = ([[0.0; TERMS]; TERMS], [0.0; TERMS]);
        for (sample, &weight) in samples.iter().zip(&weights) {
            let x = terms_of(sample, always);
            for i in 0..TERMS {
                right[i] += weight * x[i] * sample.seconds;
                for j in 0..TERMS {
                    gram[i][j] += weight * x[i] * x[j];
                }
            }
        }
        found = non_negative(&gram, &right);
        let predict = |sample: &Sample| {
            terms_of(sample, always).iter().zip(&found).map(|(x, f)| x * f).sum::<f64>().max(LEAST_SECONDS)
        };
        let residuals: Vec<f64> =
            samples.iter().map(|s| ((s.seconds - predict(s)) / predict(s)).abs()).collect();
        let mut sorted = residuals.clone();
        sorted.sort_by(f64::total_cmp);
        let bound = HUBER * 1.4826 * sorted[sorted.len() / 2] + 1e-9;
        for ((weight, residual), sample) in weights.iter_mut().zip(residuals).zip(samples) {
            let predicted = predict(sample);
            *weight = (bound / residual.max(bound)) / (predicted * predicted);
        }
    }
    found[0] = found[0].max(LEAST_SECONDS);
    let [pass, row, token, context, pair, other, idle] = found;
    let warm = LinearTerms::new(pass, row, token, context, pair)
        .expect("the squares of finite times are finite, and no coefficient is negative");
    Terms { warm, other, idle }
}

/// Trimmed means over cells of half-octaves in rows, new tokens per row and context. A pass is brought to
/// its cell's corner by the ratio of the terms, so that a cell's width does not blur it.
///
/// What is added after another model or after idling is taken off first: the table is of warm passes.
/// Not medians: a simulation needs what passes take together.
fn table(model: &str, samples: &[Sample], terms: &Terms) -> Vec<TableRow> {
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

/// The mean of ascending values without 2.5 % of them at either end, at least one: stalls go.
fn trimmed_mean(ascending: &[f64]) -> f64 {
    let cut = ascending.len().div_ceil(40).min((ascending.len() - 1) / 2);
    let kept = &ascending[cut..ascending.len() - cut];
    kept.iter().sum::<f64>() / kept.len() as f64
}

/// The median of each shape that was measured.
fn as_measured(model: &str, samples: &[Sample], _: &Terms) -> Vec<TableRow> {
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
#[path = "cost_tests.rs"]
mod tests;
