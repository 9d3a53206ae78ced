//! The folder of a run: the resolved scenario, the report, the summary, the plots.

use std::path::{Path, PathBuf};

use anyhow::Context;
use specrouter_reports::Report;

/// Makes the folder and writes the resolved `scenario`, before anything runs: a folder that cannot
/// be written is known at once.
///
/// # Errors
/// Whatever the disk says, with the path.
pub fn prepare(out: &Path, scenario: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    let resolved = out.join("scenario.resolved.yaml");
    let arms = out.join("arms");
    // A run's folder holds one run: the tables of the one before go.
    if resolved.exists() && arms.exists() {
        std::fs::remove_dir_all(&arms).with_context(|| format!("cannot clear {}", arms.display()))?;
    }
    put(&resolved, scenario)
}

/// Writes the report.
///
/// # Errors
/// Whatever the disk says, with the path; a plot that cannot be drawn.
pub fn write(out: &Path, report: &Report) -> anyhow::Result<()> {
    put(&out.join("summary.json"), &report.to_json())?;
    put(&out.join("report.html"), &report.html()?)?;
    let plots = out.join("plots");
    std::fs::create_dir_all(&plots).with_context(|| format!("cannot make the folder {}", plots.display()))?;
    for (stem, svg) in report.plots()? {
        put(&plots.join(format!("{stem}.svg")), &svg)?;
    }
    Ok(())
}

/// `out/NAME` for a scenario of the catalog or a file.
pub fn default_folder(scenario: &str) -> PathBuf {
    let stem = Path::new(scenario)
        .file_stem()
        .map_or_else(|| "run".into(), |stem| stem.to_string_lossy().into_owned());
    Path::new("out").join(stem)
}

/// Writes beside and renames: a file of this name is whole or the old one.
///
/// # Errors
/// Whatever the disk says, with the path.
pub fn put(path: &Path, text: &str) -> anyhow::Result<()> {
    let beside = path.with_extension("tmp");
    std::fs::write(&beside, text)
        .and_then(|()| std::fs::rename(&beside, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The digest of a model folder's weights: its safetensors files, by name.
///
/// # Errors
/// Whatever the disk says, with the path.
#[cfg(feature = "engine")]
pub fn weights_digest(folder: &Path) -> anyhow::Result<String> {
    let list = || -> std::io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            paths.push(entry?.path());
        }
        Ok(paths)
    };
    let mut paths = list().with_context(|| format!("cannot list {}", folder.display()))?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    paths.sort();
    Ok(specrouter_traces::file_digest(&paths)?)
}
