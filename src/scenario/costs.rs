//! Where pass times come from: the catalog, a measured table, linear terms; and what policies know.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use specrouter_routing::luck::Luck;
use specrouter_routing::profile::{
    DataSheet, DeviceSheet, Linear, LinearTerms, ModelSpec, PassCosts, Table, TableRow,
};
use specrouter_sim::cost::{CostError, CostModel, HardwareSpec};

use super::profile::Read;
use super::raw::CostsRef;
use super::{Paths, ScenarioError};
use crate::catalog;
use crate::yaml::Document;

/// Most bytes of a cost table.
const MOST_BYTES: u64 = 64 << 20;
/// Seconds that a pass may take: less is no time on the clock, more is no pass.
const SECONDS: std::ops::RangeInclusive<f64> = 1e-9..=1e4;
const COLUMNS: [&str; 5] = ["model", "rows", "new_tokens", "context_tokens", "seconds"];

/// What passes cost, or what is believed of it.
#[derive(Clone, Debug)]
pub enum Costs {
    /// A device of the catalog: prices are what it achieves, beliefs its data sheet.
    Device(Box<HardwareSpec>),
    /// Measured passes.
    Table(Vec<TableRow>),
    /// Terms for each model of the scenario's pool.
    Linear(Vec<LinearTerms>),
}

impl Costs {
    /// The simulator's prices of the pool's models at `members` (indices into `pool`).
    ///
    /// # Errors
    /// [`CostError`]; [`super::resolve`] has met it before for the whole pool.
    pub fn model(
        &self,
        pool: &[ModelSpec],
        members: &[usize],
        tensor_parallel: u32,
        luck: Luck,
    ) -> Result<CostModel, CostError> {
        let models: Vec<ModelSpec> = members.iter().map(|&index| pool[index].clone()).collect();
        Ok(match self {
            Self::Device(hardware) => CostModel::roofline(&models, hardware, tensor_parallel, luck)?,
            Self::Table(rows) => {
                CostModel::table(Table::new(&models, rows).expect("resolve() has built this table"))
            }
            Self::Linear(terms) => {
                CostModel::linear(Linear::new(members.iter().map(|&index| terms[index]).collect()))
            }
        })
    }

    /// The belief that policies start from, about the pool's models at `members`.
    pub fn belief(&self, pool: &[ModelSpec], members: &[usize], tensor_parallel: u32) -> Arc<dyn PassCosts> {
        let models: Vec<ModelSpec> = members.iter().map(|&index| pool[index].clone()).collect();
        match self {
            Self::Device(hardware) => Arc::new(DataSheet::new(&models, &hardware.sheet, tensor_parallel)),
            Self::Table(rows) => Arc::new(Table::new(&models, rows).expect("resolve() has built this table")),
            Self::Linear(terms) => Arc::new(Linear::new(members.iter().map(|&index| terms[index]).collect())),
        }
    }

    /// The device's data sheet, where there is a device.
    pub fn sheet(&self) -> Option<&DeviceSheet> {
        match self {
            Self::Device(hardware) => Some(&hardware.sheet),
            Self::Table(_) | Self::Linear(_) => None,
        }
    }

    /// One line for people.
    pub fn label(&self) -> String {
        match self {
            Self::Device(hardware) => hardware.name.clone(),
            Self::Table(rows) => format!("measured table of {} passes", rows.len()),
            Self::Linear(_) => "linear terms".into(),
        }
    }
}

/// Resolves `hardware:`.
///
/// # Errors
/// Unknown names, unreadable files, tables that do not cover the pool, terms that do not match it.
pub(super) fn hardware(
    costs: &CostsRef,
    pool: &[ModelSpec],
    document: &Document,
    paths: &Paths<'_>,
) -> Result<Costs, ScenarioError> {
    match costs {
        CostsRef::Named(name) if catalog::is_path(name) => {
            let path = paths.resolve("hardware", Path::new(name));
            let spec = catalog::hardware_file(&path).map_err(|e| document.error("hardware", e))?;
            Ok(Costs::Device(Box::new(spec)))
        }
        CostsRef::Named(name) => {
            Ok(Costs::Device(Box::new(catalog::hardware(name).map_err(|e| document.error("hardware", e))?)))
        }
        CostsRef::Device { device, pass_us, row_us } => {
            let mut spec = catalog::hardware(device).map_err(|e| document.error("hardware.device", e))?;
            if pass_us.is_some() || row_us.is_some() {
                spec.name += " behind another host";
            }
            spec.achieved.pass_us = pass_us.unwrap_or(spec.achieved.pass_us);
            spec.achieved.row_us = row_us.unwrap_or(spec.achieved.row_us);
            Ok(Costs::Device(Box::new(spec)))
        }
        other => measured("hardware", other, pool, document, paths),
    }
}

/// Resolves `profile:`; `None` is the hardware's data sheet.
///
/// # Errors
/// As [`hardware`]; and no profile where the hardware has no data sheet, since policies never see the
/// simulator's own prices.
pub(super) fn profile(
    costs: Option<&CostsRef>,
    hardware: &Costs,
    pool: &[ModelSpec],
    document: &Document,
    paths: &Paths<'_>,
) -> Result<Costs, ScenarioError> {
    match (costs, hardware) {
        (None, Costs::Device(spec)) => Ok(Costs::Device(spec.clone())),
        (None, _) => Err(document.error("profile", "hardware given as a table or linear terms has no data sheet: say what policies know, e.g. the same again").into()),
        (Some(costs), _) => known("profile", costs, pool, document, paths),
    }
}

/// Resolves a profile that is written: a profile file, a catalog device's data sheet, a table, linear terms.
///
/// # Errors
/// As [`hardware`].
pub(super) fn known(
    place: &str,
    costs: &CostsRef,
    pool: &[ModelSpec],
    document: &Document,
    paths: &Paths<'_>,
) -> Result<Costs, ScenarioError> {
    match costs {
        CostsRef::Named(name) if catalog::is_path(name) => {
            let path = paths.resolve(place, Path::new(name));
            let source = catalog::file("profile", &path).map_err(|e| document.error(place, e))?;
            let inner = source.document()?;
            let folder = source.folder.clone();
            if let Some(profile) = Read::of(&inner, folder.as_deref())? {
                return profile.costs(pool);
            }
            let inner_paths = Paths { document: &inner, folder: folder.as_deref() };
            match inner.read::<CostsRef>()? {
                CostsRef::Named(_) | CostsRef::Device { .. } => {
                    Err(inner.error("", "expected {table: FILE} or {linear: [...]}, got a name").into())
                }
                other => measured("", &other, pool, &inner, &inner_paths),
            }
        }
        CostsRef::Named(name) | CostsRef::Device { device: name, .. } => {
            let spec = catalog::hardware(name).map_err(|e| document.error(place, e))?;
            Ok(Costs::Device(Box::new(spec)))
        }
        other => measured(place, other, pool, document, paths),
    }
}

/// Resolves a table or linear terms, written at `place`.
///
/// # Errors
/// As [`hardware`].
pub(super) fn measured(
    place: &str,
    costs: &CostsRef,
    pool: &[ModelSpec],
    document: &Document,
    paths: &Paths<'_>,
) -> Result<Costs, ScenarioError> {
    let inside = |field: &str| if place.is_empty() { field.to_owned() } else { format!("{place}.{field}") };
    match costs {
        CostsRef::Named(name) | CostsRef::Device { device: name, .. } => {
            Err(document.error(place, format_args!("expected a table or linear terms, got `{name}`")).into())
        }
        CostsRef::Table { table } => {
            let path = paths.resolve(&inside("table"), Path::new(table));
            let rows = read_table(&path).map_err(|e| document.error(&inside("table"), e))?;
            Table::new(pool, &rows)
                .map_err(|e| document.error(&inside("table"), format_args!("{}: {e}", path.display())))?;
            Ok(Costs::Table(rows))
        }
        CostsRef::Linear { linear } => {
            if linear.len() != pool.len() {
                let message = format!(
                    "expected terms for each of the pool's {} models, in its order, got {}",
                    pool.len(),
                    linear.len()
                );
                return Err(document.error(&inside("linear"), message).into());
            }
            if let Some(odd) = linear.iter().position(|terms| !SECONDS.contains(&terms.pass_s.get())) {
                let message =
                    format!("expected 1e-9 to 1e4 seconds a pass, got {}", linear[odd].pass_s.get());
                return Err(document.error(&inside(&format!("linear[{odd}].pass_s")), message).into());
            }
            Ok(Costs::Linear(linear.clone()))
        }
    }
}

/// Reads measured passes: a heading and rows of model, rows, new_tokens, context_tokens, seconds.
///
/// # Errors
/// [`ScenarioError::File`], naming the line and the column.
pub fn read_table(path: &PathBuf) -> Result<Vec<TableRow>, ScenarioError> {
    let refuse = |reason: String| ScenarioError::File { path: path.clone(), reason };
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MOST_BYTES + 1).read_to_string(&mut text))
        .map_err(|e| refuse(e.to_string()))?;
    if text.len() as u64 > MOST_BYTES {
        return Err(refuse(format!("a cost table has at most {MOST_BYTES} bytes")));
    }
    let mut lines = text.strip_prefix('\u{feff}').unwrap_or(&text).lines().enumerate();
    let heading = lines.next().map_or("", |(_, line)| line);
    if heading.split(',').map(str::trim).ne(COLUMNS) {
        return Err(refuse(format!("line 1: expected the heading {}, got `{heading}`", COLUMNS.join(","))));
    }
    let mut rows = Vec::new();
    for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        let &[model, row_count, new_tokens, context_tokens, seconds] = cells.as_slice() else {
            return Err(refuse(format!(
                "line {}: expected {} columns, got {}",
                index + 1,
                COLUMNS.len(),
                cells.len()
            )));
        };
        let wrong = |column: &str, expected: &str, got: &str| {
            refuse(format!("line {}: {column}: expected {expected}, got `{got}`", index + 1))
        };
        let whole =
            |column: &str, cell: &str| cell.parse::<u32>().map_err(|_| wrong(column, "a whole number", cell));
        let number =
            |column: &str, cell: &str| cell.parse::<f64>().map_err(|_| wrong(column, "a number", cell));
        rows.push(TableRow {
            model: model.to_owned(),
            rows: whole("rows", row_count)?,
            new_tokens: whole("new_tokens", new_tokens)?,
            context_tokens: number("context_tokens", context_tokens)?,
            seconds: number("seconds", seconds)?,
        });
    }
    Ok(rows)
}

/// Tokens of KV cache that each model of the pool's `members` has.
///
/// # Errors
/// [`CostError::TooLarge`] when the weights leave no room; with [`Costs::Table`] and [`Costs::Linear`] there is no memory
/// to size, and `None` comes.
pub(super) fn kv_tokens(
    costs: &Costs,
    models: &[ModelSpec],
    tensor_parallel: u32,
    fraction: specrouter_routing::units::Probability,
) -> Result<Option<u64>, CostError> {
    match costs {
        Costs::Device(hardware) => {
            CostModel::kv_tokens(models, hardware, tensor_parallel, fraction).map(Some)
        }
        _ => Ok(None),
    }
}
