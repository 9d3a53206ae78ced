//! Plots as SVG texts, one file per family.

mod acceptance;
mod axes;
mod batch;
mod chains;
pub(crate) mod effects;
pub(crate) mod fit;
mod latency;
mod loads;
mod predicted;
mod state;
mod theme;
mod time;

pub(crate) use theme::{FONT, VARIABLES, standalone};

use crate::summary::Saturation;
use crate::{ArmResult, Report, ReportError, table};
pub(crate) use theme::Paint;
use theme::{Dash, Key};

/// A plot with the words that belong to it.
pub(crate) struct Figure {
    /// Name of its file, without ending.
    pub stem: &'static str,
    /// What it shows.
    pub title: &'static str,
    /// How to read it.
    pub caption: String,
    /// The drawing, colours as CSS variables.
    pub svg: String,
}

/// Every plot that the results have something to say in.
pub(crate) fn all(report: &Report) -> Result<Vec<Figure>, ReportError> {
    let view = View::new(report);
    let families = [
        effects::figure,
        loads::figure,
        latency::figure,
        batch::figure,
        chains::figure,
        acceptance::figure,
        time::figure,
        state::figure,
        predicted::figure,
    ];
    let mut figures = Vec::new();
    for family in families {
        figures.extend(family(&view)?);
    }
    Ok(figures)
}

/// An arm with the look of its policy.
#[derive(Clone, Copy)]
pub(crate) struct Shown<'a> {
    pub arm: &'a ArmResult,
    pub paint: Paint,
    pub dash: Dash,
}

/// The report as plots see it: the arms of one load, each with its look.
pub(crate) struct View<'a> {
    pub report: &'a Report,
    /// The load whose arms `arms` holds, where loads are swept.
    pub load: Option<f64>,
    /// Arms with results at that load.
    pub arms: Vec<Shown<'a>>,
    /// Arms with results at all loads.
    pub everywhere: Vec<Shown<'a>>,
}

impl<'a> View<'a> {
    pub(crate) fn new(report: &'a Report) -> Self {
        let baseline = report.baseline_arm().map(|index| report.arms[index].policy.as_str());
        let mut looks: Vec<(&str, Paint, Dash)> = Vec::new();
        let mut others = 0;
        for policy in report.policies() {
            if Some(policy) == baseline {
                looks.push((policy, Paint::Baseline, Dash::Solid));
                continue;
            }
            let dash = [Dash::Solid, Dash::Long, Dash::Short][(others / theme::SERIES) % 3];
            looks.push((policy, Paint::Series(others), dash));
            others += 1;
        }
        let shown = |arm: &'a ArmResult| {
            let look = looks.iter().find(|look| look.0 == arm.policy)?;
            (!arm.seeds.is_empty()).then_some(Shown { arm, paint: look.1, dash: look.2 })
        };
        let everywhere: Vec<Shown<'a>> = report.arms.iter().filter_map(shown).collect();
        let load = detail_load(report, baseline);
        let arms = everywhere.iter().copied().filter(|s| s.arm.load == load).collect();
        Self { report, load, arms, everywhere }
    }

    /// One key per policy.
    pub(crate) fn legend(&self, arms: &[Shown<'_>]) -> Vec<Key> {
        let mut keys: Vec<Key> = Vec::new();
        for shown in arms {
            let text = name(shown.arm);
            if keys.iter().all(|key| key.text != text) {
                keys.push(Key { paint: shown.paint, fill: None, dash: shown.dash, text });
            }
        }
        keys
    }

    /// ` At load 0.8 of capacity.`, where loads are swept.
    pub(crate) fn at_load(&self) -> String {
        self.load
            .map_or_else(String::new, |load| format!(" At load {}.", table::load_text(self.report, load)))
    }

    /// ` Seed 7.`, where there are several, for plots of one run.
    pub(crate) fn of_first_seed(&self) -> String {
        let seeds = self.arms.iter().map(|s| s.arm.seeds.len()).max().unwrap_or(0);
        let first = self.arms.first().and_then(|s| s.arm.seeds.first());
        first
            .filter(|_| seeds > 1)
            .map_or_else(String::new, |s| format!(" Seed {} of {seeds} seeds.", s.seed))
    }
}

/// A policy's name in plots.
pub(crate) fn name(arm: &ArmResult) -> String {
    if arm.other_output { format!("{} (other output)", arm.policy) } else { arm.policy.clone() }
}

/// The load that detailed plots show: the highest at which the baseline is not overloaded.
pub(crate) fn detail_load(report: &Report, baseline: Option<&str>) -> Option<f64> {
    let own = || report.arms.iter().filter(|arm| Some(arm.policy.as_str()) == baseline);
    let fits = own().filter(|arm| table::saturation(arm).is_some_and(|s| s < Saturation::Overloaded));
    let highest = fits.filter_map(|arm| arm.load).max_by(f64::total_cmp);
    highest
        .or_else(|| own().filter_map(|arm| arm.load).min_by(f64::total_cmp))
        .or_else(|| report.arms.first().and_then(|arm| arm.load))
}
