//! What a trace itself says of pass times.

use std::path::{Path, PathBuf};

use anyhow::bail;
use specrouter_routing::profile::ModelSpec;
use specrouter_routing::units::NonNegative;
use specrouter_sim::cost::Interference;
use specrouter_traces::Trace;
use specrouter_traces::calibrate::cost::{self, ModelCosts, Sample};

use crate::scenario::Costs;
use crate::trace;

/// Prices fitted to the passes of `given`, and a line that says on what and how well. Where it is an arm of a run, the
/// run's other arms tell of the models that it used little.
///
/// # Errors
/// Passes that cannot be read, and a model with too few of them.
pub fn of_trace(given: &Trace, pool: &[ModelSpec]) -> anyhow::Result<(Costs, Vec<Interference>, String)> {
    let folders = match run_folder(given.folder()) {
        Some(run) => trace::find(&run)?,
        None => vec![given.folder().to_path_buf()],
    };
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); pool.len()];
    let mut traces = 0;
    for folder in folders {
        let trace = if folder == given.folder() { given.clone() } else { Trace::open(&folder)? };
        let (run, own) = (trace.run(), given.run());
        if run.device != own.device
            || run.models != own.models
            || !trace.has(specrouter_traces::Table::Passes)
        {
            continue;
        }
        traces += 1;
        for sample in cost::samples(&trace.passes()?) {
            samples[sample.model.index()].push(sample);
        }
    }
    let mut fits: Vec<ModelCosts> = Vec::new();
    for (model, samples) in pool.iter().zip(&samples) {
        match cost::fit(&model.name, samples) {
            Ok(fit) => fits.push(fit),
            Err(shortage) => bail!(
                "{}: what a pass of {} costs cannot be told: {shortage}; name a profile (`specrouter calibrate`) with --profile, or hardware with --hardware",
                given.folder().display(),
                model.name
            ),
        }
    }
    let table = cost::table_is_better(&fits);
    let passes: usize = fits.iter().map(|fit| fit.passes).sum();
    let errors: Vec<String> = fits
        .iter()
        .map(|fit| {
            let error = fit.table_error.filter(|_| table).unwrap_or(fit.linear_error);
            format!("{} {:.1} %", fit.model, 100.0 * error.median)
        })
        .collect();
    let said = format!(
        "pass times are those of {passes} recorded passes in {traces} traces, as {}; median error of a pass not seen by the fit: {}",
        if table { "a table of means" } else { "linear terms" },
        errors.join(", ")
    );
    let interference = fits.iter().map(interference).collect();
    let costs = match table {
        true => Costs::Table(fits.into_iter().flat_map(|fit| fit.table).collect()),
        false => Costs::Linear(fits.into_iter().map(|fit| fit.linear).collect()),
    };
    Ok((costs, interference, said))
}

/// What a model costs after another, as fitted.
pub fn interference(fit: &ModelCosts) -> Interference {
    let seconds = |seconds: f64| NonNegative::new(seconds).expect("no fitted coefficient is negative");
    Interference { after_other_s: seconds(fit.after_other_s), after_idle_s: seconds(fit.after_idle_s) }
}

/// The run's folder of an arm: `RUN` of `RUN/arms/POLICY/seed-N`.
fn run_folder(trace: &Path) -> Option<PathBuf> {
    let arms = trace.ancestors().find(|folder| folder.file_name().is_some_and(|name| name == "arms"))?;
    arms.parent().map(Path::to_path_buf)
}
