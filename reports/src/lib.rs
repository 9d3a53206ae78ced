//! What a run was like: metrics with one definition each, comparisons with honest intervals, plots,
//! the HTML report, tables, and the timeline.
//!
//! Nothing here reads or writes a file: results come in as [`ArmResult`]s, texts go out as strings.
//! The trip of a run: a [`collect::Collector`] listens, a [`SeedResult`] holds what it heard,
//! [`SeedResult::reduce`] turns that into a [`SeedSummary`] of bounded size, and a [`Report`] shows
//! the summaries of all arms. A [`Study`] holds arms of several sources, compared.

mod bound;
pub mod collect;
pub mod compare;
mod distribution;
pub mod fit;
pub mod gap;
mod html;
pub mod league;
mod numbers;
pub mod plot;
mod saturation;
mod study;
pub mod summary;
mod table;
pub mod timeline;

use specrouter_routing::slo::Slo;

pub use bound::{BoundReport, share};
pub use collect::{Collector, Columns, Keep};
pub use compare::{Across, Comparison, Interval, Metric};
pub use distribution::{Cdf, Stats, percentile};
pub use study::{Kind, Plan, PlanLine, Regret, Share, Study, StudyArm};
pub use summary::{Facts, Saturation, SeedResult, SeedSummary, Summary, summarize};
pub use timeline::TimelineSink;

/// The results of one policy, at one load where loads are swept, over its seeds.
#[derive(Clone, Debug)]
pub struct ArmResult {
    /// The policy's name in the scenario, unique in the report unless loads are swept.
    pub policy: String,
    /// One line that says what it does, for people; may be empty.
    pub label: String,
    /// Its text comes from another target model: shown, never ranked or compared.
    pub other_output: bool,
    /// The load it ran at, in the unit of [`Report::load_unit`]; `None` where none is swept.
    pub load: Option<f64>,
    /// The models this arm hosts, cheapest first: the report's pool, or a part of it.
    pub pool: Vec<String>,
    /// One entry per seed, in the same order of seeds in every arm.
    pub seeds: Vec<SeedSummary>,
}

/// Everything a report shows.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The headline, for people.
    pub title: String,
    /// The scenario's name or path, as the user gave it.
    pub scenario_name: String,
    /// The scenario's opening comment; may be empty. Line breaks are kept.
    pub description: String,
    /// What the scenario came to after resolution: `(what, value with unit)`.
    pub facts: Vec<(String, String)>,
    /// Models by name, cheapest first.
    pub pool: Vec<String>,
    /// Request classes by name, in the order of [`specrouter_routing::ids::ClassId`].
    pub classes: Vec<String>,
    /// The scenario's targets. Goodput is by each request's own.
    pub slo: Slo,
    /// Arms in the scenario's order; in a sweep, one per (policy, load).
    pub arms: Vec<ArmResult>,
    /// Index in `arms` of an arm of the baseline policy. In a sweep an arm is compared with the arm
    /// of that policy at its own load.
    pub baseline: usize,
    /// The loads of a sweep, ascending; `None` where none is swept.
    pub loads: Option<Vec<f64>>,
    /// What a load is a number of, such as `requests/s` or `of target-only capacity`.
    pub load_unit: String,
    /// What no policy can beat, where it was computed.
    pub bound: Option<BoundReport>,
    /// What a reader must know: shortened plans, extrapolations, interrupted arms.
    pub notes: Vec<String>,
    /// The command that makes this report again.
    pub command: String,
}

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Nothing ran. The caller's fault.
    #[error("a report needs at least one arm with at least one seed, got {0} arms and no seed")]
    Empty(usize),
    /// A drawing failed. A bug.
    #[error("plot {plot:?} could not be drawn: {reason}")]
    Plot {
        /// Which.
        plot: &'static str,
        /// What plotters said.
        reason: String,
    },
}

impl Report {
    /// Every comparison with the baseline, with Holm's correction over all of them.
    pub fn comparisons(&self) -> Vec<Comparison> {
        compare::against_baseline(self)
    }

    /// The content of `summary.json`. No time stamps: the same results give the same bytes.
    pub fn summary_json(&self) -> serde_json::Value {
        serde_json::to_value(table::Document::new(self)).expect("keys are strings and numbers are numbers")
    }

    /// [`Report::summary_json`] as text, fields in a fixed order, for `--format json`.
    pub fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(&table::Document::new(self));
        text.expect("keys are strings and numbers are numbers") + "\n"
    }

    /// The self-contained `report.html`.
    ///
    /// # Errors
    /// [`ReportError`] without results, or when a plot cannot be drawn.
    pub fn html(&self) -> Result<String, ReportError> {
        self.check()?;
        html::page(self)
    }

    /// The tables of stdout.
    pub fn text_table(&self) -> String {
        table::text(self)
    }

    /// Every plot as `(file stem, stand-alone SVG)`.
    ///
    /// # Errors
    /// [`ReportError`] without results, or when a plot cannot be drawn.
    pub fn plots(&self) -> Result<Vec<(&'static str, String)>, ReportError> {
        self.check()?;
        Ok(plot::all(self)?.into_iter().map(|p| (p.stem, plot::standalone(&p.svg))).collect())
    }

    /// The index of the baseline arm: [`Report::baseline`], or the first arm with comparable output
    /// where that one is out of range or stands outside comparisons.
    pub fn baseline_arm(&self) -> Option<usize> {
        let fits = |index: usize| self.arms.get(index).is_some_and(|arm| !arm.other_output);
        if fits(self.baseline) { Some(self.baseline) } else { (0..self.arms.len()).find(|&i| fits(i)) }
    }

    /// Distinct policies in order of first appearance.
    pub fn policies(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for arm in &self.arms {
            if !names.contains(&arm.policy.as_str()) {
                names.push(&arm.policy);
            }
        }
        names
    }

    fn check(&self) -> Result<(), ReportError> {
        if self.arms.iter().any(|arm| !arm.seeds.is_empty()) {
            Ok(())
        } else {
            Err(ReportError::Empty(self.arms.len()))
        }
    }
}
