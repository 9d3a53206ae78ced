//! `specrouter calibrate`: from traces to a profile that scenarios name, and a page that says how well it fits.

mod fits;
mod gather;
mod page;
mod rounds;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use specrouter_reports::fit::FitReport;

use super::run::progress;
use crate::args::{CalibrateArgs, Format};
use crate::failure::Failure;
use crate::files;
use crate::scenario::CostsRef;
use crate::scenario::profile::Profile;
use crate::yaml;
use fits::Fits;
use gather::Gathered;

/// The profile's file.
pub const PROFILE: &str = "profile.yaml";
/// The table beside it.
const COSTS: &str = "costs.csv";

/// Fits and writes the profile, the table and the page.
///
/// # Errors
/// [`Failure::BadInput`] for what is no trace and no file of measurements, [`Failure::Failed`] for what cannot
/// be written.
pub fn run(args: &CalibrateArgs) -> Result<(), Failure> {
    let (fits, report, out) = make(args)?;
    match args.format {
        Format::Table => super::print(&report.text())?,
        Format::Json => super::print_json(&fits)?,
    }
    if !args.quiet {
        progress::say(&format!("profile: {}", out.join(PROFILE).display()));
        progress::say(&format!("report: {}", out.join("fit.html").display()));
    }
    Ok(())
}

/// Fits and writes; answers with the fits, their page and the folder.
///
/// # Errors
/// As [`run`].
pub fn make(args: &CalibrateArgs) -> Result<(Fits, FitReport, PathBuf), Failure> {
    let gathered = gather(args).map_err(Failure::BadInput)?;
    let fits = Fits::of(&gathered);
    let (mut profile, mut notes) = fits.profile(&gathered, COSTS);
    profile.measured.table = args.from_table.as_deref().map(shown);
    profile.measured.rounds = args.from_rounds.as_deref().map(shown);
    notes.splice(0..0, gathered.notes.iter().cloned());
    let report = page::page(&gathered, &fits, &profile, notes, &command(args));

    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("out/profile"));
    let plots = out.join("plots");
    std::fs::create_dir_all(&plots).with_context(|| format!("cannot make the folder {}", plots.display()))?;
    if !fits.table().is_empty() {
        files::put(&out.join(COSTS), &table(&fits))?;
    }
    files::put(&out.join(PROFILE), &text(&profile, !gathered.evidence.texts.is_empty())?)?;
    files::put(&out.join("fit.html"), &report.html().map_err(anyhow::Error::new)?)?;
    let json = serde_json::to_string_pretty(&fits).map_err(anyhow::Error::new)?;
    files::put(&out.join("fit.json"), &(json + "\n"))?;
    for (stem, svg) in report.plots().map_err(anyhow::Error::new)? {
        files::put(&plots.join(format!("{stem}.svg")), &svg)?;
    }
    Ok((fits, report, out))
}

fn gather(args: &CalibrateArgs) -> anyhow::Result<Gathered> {
    let mut gathered = gather::traces(&args.traces)?;
    if let Some(path) = &args.from_table {
        gathered.add_table(path)?;
    }
    if let Some(path) = &args.from_rounds {
        gathered.add_rounds(path)?;
    }
    Ok(gathered)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn command(args: &CalibrateArgs) -> String {
    let mut text = "specrouter calibrate".to_owned();
    args.traces.iter().for_each(|trace| text += &format!(" {}", trace.display()));
    let named =
        [("--from-table", &args.from_table), ("--from-rounds", &args.from_rounds), ("--out", &args.out)];
    for (name, path) in named {
        if let Some(path) = path {
            text += &format!(" {name} {}", path.display());
        }
    }
    text
}

/// The table as a scenario's `hardware: {table: ...}` reads it.
fn table(fits: &Fits) -> String {
    let mut text = String::from("model,rows,new_tokens,context_tokens,seconds\n");
    for row in fits.table() {
        // Writing to a text cannot fail.
        let _ = writeln!(
            text,
            "{},{},{},{},{:.9}",
            row.model, row.rows, row.new_tokens, row.context_tokens, row.seconds
        );
    }
    text
}

/// The profile as YAML, under a heading for people.
fn text(profile: &Profile, scored: bool) -> anyhow::Result<String> {
    let source = match &profile.measured.device {
        Some(device) => format!("Measured on {device}."),
        None => "From measurements of another tool.".into(),
    };
    let costs = match &profile.costs {
        Some(CostsRef::Table { table }) => format!("the table {table}"),
        Some(_) => "a sum of terms for each model, in the pool's order".into(),
        None => "none".into(),
    };
    let acceptance = match &profile.acceptance {
        Some(_) if scored => "means over committed positions",
        Some(_) => "of judged blocks, low where it varies",
        None => "none",
    };
    let mut text = format!(
        "# {source}\n# Costs: {costs}. Acceptance: {acceptance}.\n\
         # In a scenario: `profile: {PROFILE}`; without `hardware` and `acceptance` it stands for them too.\n"
    );
    for (model, errors) in &profile.fit.costs {
        let _ = writeln!(
            text,
            "# {model}: held-out error of a pass {:.1} % (median), {:.1} % (p95) by terms, from {} passes.",
            100.0 * errors.linear_median,
            100.0 * errors.linear_p95,
            errors.passes
        );
    }
    Ok(text + &yaml::to_text(profile)?)
}
