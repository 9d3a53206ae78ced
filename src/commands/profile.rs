//! `specrouter profile`: measured pass times, as a cost table that scenarios name.

use std::path::Path;

use anyhow::{Context, anyhow};
use specrouter_engine::cores::OwnCore;
use specrouter_engine::load::Checkpoint;
use specrouter_engine::pool;
use specrouter_engine::profile::{Grid, measure};
use specrouter_engine::settings::{Device, EngineConfig, Mode};
use specrouter_engine::stopwatch::Stopwatch;
use specrouter_routing::profile::{ModelSpec, TableRow};

use super::run::progress;
use crate::args::ProfileArgs;
use crate::catalog;
use crate::failure::Failure;
use crate::files;

/// Measures every model of the pool and writes one table.
///
/// # Errors
/// [`Failure::BadInput`] for a model that cannot be opened or a grid that measures nothing,
/// [`Failure::Failed`] for a pass that failed or a file that cannot be written.
pub fn run(args: &ProfileArgs) -> Result<(), Failure> {
    let grid = Grid {
        rows: args.rows.clone(),
        new_tokens: args.new_tokens.clone(),
        context_tokens: args.context_tokens.clone(),
        repeats: args.repeats,
    };
    check(&grid).map_err(Failure::BadInput)?;
    let mode = if args.device == Device::Cpu { Mode::Exact } else { Mode::Fast };
    let settings = EngineConfig { device: args.device, dtype: args.dtype, mode, ..EngineConfig::default() };
    let threads = pool::share_work(None);
    let most = |list: &[u32]| u64::from(list.iter().copied().max().unwrap_or(1));
    // A page more for each row, since pages are whole.
    let kv_tokens = most(&grid.rows) * (most(&grid.context_tokens) + most(&grid.new_tokens) + 16);
    let mut rows: Vec<TableRow> = Vec::new();
    for name in &args.pool {
        progress::say(&format!("measuring {name}"));
        let (spec, mut model) = if args.dummy {
            let spec = match catalog::is_path(name) {
                true => catalog::model_file(Path::new(name)),
                false => catalog::model(name),
            };
            let spec = spec.map_err(Failure::input)?;
            let model = pool::dummy(&spec, &settings, kv_tokens).map_err(Failure::input)?;
            (spec, model)
        } else {
            let folder = Path::new(name);
            let spec = spec_of(folder).map_err(Failure::BadInput)?;
            let model = pool::open(folder, &spec.name, &settings, kv_tokens).map_err(Failure::input)?;
            (spec, model)
        };
        let grid = within(&grid, spec.context);
        let _own = OwnCore::take(threads);
        let own = measure(&mut model, &grid, Stopwatch::start(), &mut || true).map_err(anyhow::Error::new)?;
        if own.is_empty() {
            return Err(Failure::input(anyhow!(
                "{}: no pass of the grid fits its context of {} tokens",
                spec.name,
                spec.context
            )));
        }
        rows.extend(own);
    }
    let mut text = String::from("model,rows,new_tokens,context_tokens,seconds\n");
    for row in &rows {
        text += &format!(
            "{},{},{},{},{:.9}\n",
            row.model, row.rows, row.new_tokens, row.context_tokens, row.seconds
        );
    }
    match &args.out {
        Some(path) => Ok(files::put(path, &text)?),
        None => super::print(&text),
    }
}

fn check(grid: &Grid) -> anyhow::Result<()> {
    let lists = [
        ("--rows", &grid.rows, 1024),
        ("--new-tokens", &grid.new_tokens, 4096),
        ("--context-tokens", &grid.context_tokens, 1 << 20),
    ];
    for (name, list, most) in lists {
        if let Some(odd) = list.iter().find(|&&value| value == 0 || value > most) {
            return Err(anyhow!("{name}: expected 1 to {most}, got {odd}"));
        }
        if !list.is_sorted_by(|a, b| a < b) {
            return Err(anyhow!("{name}: expected rising numbers, got {list:?}"));
        }
    }
    if grid.repeats == 0 || grid.repeats > 10_000 {
        return Err(anyhow!("--repeats: expected 1 to 10000, got {}", grid.repeats));
    }
    Ok(())
}

/// The contexts that a model can have with the grid's new tokens behind them.
fn within(grid: &Grid, context: u32) -> Grid {
    let mut grid = grid.clone();
    let new = grid.new_tokens.iter().copied().max().unwrap_or(1);
    grid.context_tokens.retain(|&c| c + new <= context);
    grid
}

fn spec_of(folder: &Path) -> anyhow::Result<ModelSpec> {
    let name =
        folder.file_name().with_context(|| format!("{}: expected a model folder", folder.display()))?;
    Ok(Checkpoint::open(folder, &name.to_string_lossy())?.config().spec.clone())
}
