//! Trace folders as the command is given them.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use specrouter_traces::{MANIFEST_FILE, Table, Trace};

use crate::scenario::RawScenario;
use crate::yaml::Document;

/// Folders below the one that is given: `arms/POLICY/load-X/seed-N` is the deepest.
const DEPTH: usize = 4;

/// The trace folders at or below `path`, by name: a trace's own folder, or a run's with all of its arms.
///
/// # Errors
/// A folder that cannot be listed, or one without a trace.
pub fn find(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    walk(path, DEPTH, &mut found).with_context(|| format!("cannot list {}", path.display()))?;
    if found.is_empty() {
        bail!("{}: expected a trace's folder (one with a {MANIFEST_FILE}), or a run's", path.display());
    }
    found.sort();
    Ok(found)
}

fn walk(path: &Path, depth: usize, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if path.join(MANIFEST_FILE).is_file() {
        found.push(path.to_owned());
    } else if depth > 0 {
        for entry in std::fs::read_dir(path)? {
            let entry = entry?.path();
            if entry.is_dir() {
                walk(&entry, depth - 1, found)?;
            }
        }
    }
    Ok(())
}

/// The one trace at or below `path`.
///
/// # Errors
/// As [`find`]; several; a manifest that is none.
#[cfg(feature = "engine")]
pub fn open(path: &Path) -> anyhow::Result<Trace> {
    let found = find(path)?;
    match found.as_slice() {
        [one] => Ok(Trace::open(one)?),
        several => {
            let names: Vec<String> = several.iter().map(|path| path.display().to_string()).collect();
            bail!("{}: expected one trace, got {}:\n  {}", path.display(), names.len(), names.join("\n  "))
        }
    }
}

/// The trace to replay at or below `path`: of several arms of a run, the one with the most scored tokens, the first by
/// name among equals. (Whatever the policy was, the text is distributed as the target's.)
///
/// # Errors
/// As [`find`]; a manifest that is none.
pub fn open_one_of(path: &Path) -> anyhow::Result<Trace> {
    let mut best: Option<(u64, Trace)> = None;
    for folder in find(path)? {
        let trace = Trace::open(&folder)?;
        let rows = trace.manifest().rows(Table::Tokens).unwrap_or_default();
        if best.as_ref().is_none_or(|(most, _)| rows > *most) {
            best = Some((rows, trace));
        }
    }
    best.map(|(_, trace)| trace).context("no trace")
}

/// The scenario that a trace was made from, with `sets` applied.
///
/// # Errors
/// A scenario that this version cannot read, a set that leads nowhere.
pub fn scenario(trace: &Trace, sets: &[String]) -> anyhow::Result<(Document, RawScenario)> {
    let name = format!("{} (its scenario)", trace.folder().join(MANIFEST_FILE).display());
    let mut document = Document::parse(&name, trace.run().scenario.as_bytes())?;
    for set in sets {
        document.set(set)?;
    }
    let raw = document.read()?;
    Ok((document, raw))
}
