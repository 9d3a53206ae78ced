//! Pass times: a sum of terms and a measured table, judged on blocks of time that neither has seen.
//!
//! A pass costs what passed until the next one of its replica began, while requests were running: the
//! host's work between passes is part of its price. A gap of more than [`MOST_GAP`] times the pass is not that
//! work (a stall, a pause of the whole process) and is left out, as is the wait for the next arrival.

mod cells;
mod monotone;
mod terms;

use serde::Serialize;
use specrouter_routing::backend::After;
use specrouter_routing::ids::ModelId;
use specrouter_routing::profile::{LinearTerms, PassShape, Table, TableRow};
use specrouter_routing::record::PassRecord;

use super::{Fitted, enough};
use terms::Terms;

/// Passes of a model below which its times are not fitted.
pub const LEAST_PASSES: usize = 50;
/// Rows of a measured table below which a model's times are not fitted.
pub const LEAST_ROWS: usize = 10;
/// A gap before the next pass counts up to this many times the pass.
pub const MOST_GAP: u64 = 10;
/// Parts of the data, each held out once.
pub const FOLDS: usize = 5;
/// Blocks of time, dealt to the folds in turn.
const BLOCKS: usize = 20;
/// Most points kept for a plot.
const POINTS: usize = 500;
/// Share of a table's time off against the terms' above which the terms are taken: they are steadier where
/// little was measured.
const MUCH_BETTER: f64 = 0.9;

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
    /// Does the table foretell held-out passes much better than the terms.
    pub fn table_is_better(&self) -> bool {
        self.table_error.is_some_and(|table| table.absolute < self.linear_error.absolute * MUCH_BETTER)
    }
}

/// One fit for all models, since a scenario names one: the table, if it is much less time off over all held-out
/// passes.
pub fn table_is_better<'a>(costs: impl IntoIterator<Item = &'a ModelCosts>) -> bool {
    let (mut linear, mut table, mut whole) = (0.0, 0.0, true);
    for costs in costs {
        linear += costs.linear_error.absolute * costs.linear_error.seconds;
        table += costs.table_error.map_or(0.0, |error| error.absolute * error.seconds);
        whole &= costs.table_error.is_some();
    }
    whole && table < linear * MUCH_BETTER
}

/// Fits the times of `model` from its samples, in order of time.
///
/// # Errors
/// [`super::Shortage`] below [`LEAST_PASSES`].
pub fn fit(model: &str, samples: &[Sample]) -> Fitted<ModelCosts> {
    enough("passes", samples.len(), LEAST_PASSES)?;
    Ok(fit_with(model, samples, cells::table))
}

/// Fits the times of `model` from a table that was measured on purpose: every row is a cell of its own, and
/// the table is judged by the rows that are left out of it.
///
/// # Errors
/// [`super::Shortage`] below [`LEAST_ROWS`].
pub fn fit_table(model: &str, rows: &[Sample]) -> Fitted<ModelCosts> {
    enough("rows", rows.len(), LEAST_ROWS)?;
    Ok(fit_with(model, rows, cells::as_measured))
}

fn fit_with(
    model: &str,
    samples: &[Sample],
    table: impl Fn(&str, &[Sample], &Terms) -> Vec<TableRow>,
) -> ModelCosts {
    let block = samples.len().div_ceil(BLOCKS);
    let fold_of = |index: usize| index / block % FOLDS;
    let tile = terms::tile(samples);
    let (mut by_terms, mut by_table) = (Vec::new(), Vec::new());
    for fold in 0..FOLDS {
        let part = |held: bool| -> Vec<Sample> {
            let chosen = samples.iter().enumerate().filter(|(i, _)| (fold_of(*i) == fold) == held);
            chosen.map(|(_, sample)| *sample).collect()
        };
        let (seen, held) = (part(false), part(true));
        let terms = terms::fit(&seen, tile);
        let grid = Table::of_one(model, &table(model, &seen, &terms)).ok();
        for sample in &held {
            let more = terms.more(sample.after);
            by_terms.push((terms.warm.seconds(&sample.shape) + more, sample.seconds));
            if let Some(grid) = &grid {
                by_table.push((grid.seconds_checked(ModelId(0), &sample.shape).0 + more, sample.seconds));
            }
        }
    }
    let terms = terms::fit(samples, tile);
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

/// Ascending values without 2.5 % of them at either end, at least one: stalls go.
fn trimmed<T>(ascending: &[T]) -> &[T] {
    let cut = ascending.len().div_ceil(40).min((ascending.len() - 1) / 2);
    &ascending[cut..ascending.len() - cut]
}

#[cfg(test)]
mod tests;
