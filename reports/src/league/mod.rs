//! The league table: regret of every policy to the best reference, cell by cell, and what it adds up to.
//!
//! - A **cell** is one pool in one regime and variant; every row of it ran under the same seeds.
//! - The measure of a run is its **latency per token**: Σ time from arrival to last token over Σ output tokens. It has the
//!   queue, the prompt and every token in it, so no policy gains by starving one for another. TTFT, TPOT, goodput,
//!   throughput and dollars stand beside it.
//! - The **reference** of a cell is the better of `clairvoyant` and `hindsight` there, in the mean over seeds.
//! - **Regret** is the mean over seeds of ln(policy / reference), as a relative change.
//! - A policy's rank is by its mean regret over cells; its worst case is its largest.
//! - Whether the first of the table is near the best policy of each regime is [`LeagueReport::against_best`]'s to say.

mod check;
mod heat;
mod json;
mod measures;
mod page;
mod signals;
mod standing;
#[cfg(test)]
mod tests;
mod text;

pub use check::{Against, CellAgainst, MARGIN, Verdict};
pub use standing::Standing;

use crate::summary::Summary;

/// What one run came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Σ time from arrival to last token over Σ output tokens, in seconds; infinite where nothing finished.
    pub latency_s: f64,
    /// Mean TTFT in seconds.
    pub ttft_s: f64,
    /// 99th percentile of TTFT in seconds.
    pub ttft_p99_s: f64,
    /// Mean TPOT in seconds.
    pub tpot_s: f64,
    /// 99th percentile of TPOT in seconds.
    pub tpot_p99_s: f64,
    /// Output tokens per second.
    pub tokens_per_s: f64,
    /// Requests per second that met their SLO; NaN where none has one.
    pub goodput_per_s: f64,
    /// The share of all requests that met their SLO; NaN where none has one.
    pub goodput_share: f64,
    /// Dollars per million output tokens; NaN where the hardware has no price.
    pub dollars: f64,
}

impl Score {
    /// Of a run's metrics. What a run has no value of is NaN, shown as a dash and written as null.
    pub fn of(summary: &Summary) -> Self {
        let (ttft, tpot) = (summary.ttft_s.as_ref(), summary.tpot_s.as_ref());
        let waited = summary.e2e_s.as_ref().map(|e2e| e2e.mean * e2e.count as f64);
        Self {
            // A run that serves nobody is the worst there is, not the fastest.
            latency_s: waited.map_or(f64::INFINITY, |waited| waited / summary.output_tokens.max(1) as f64),
            ttft_s: ttft.map_or(f64::NAN, |s| s.mean),
            ttft_p99_s: ttft.map_or(f64::NAN, |s| s.p99),
            tpot_s: tpot.map_or(f64::NAN, |s| s.mean),
            tpot_p99_s: tpot.map_or(f64::NAN, |s| s.p99),
            tokens_per_s: summary.output_tokens_per_s,
            goodput_per_s: summary.goodput.as_ref().map_or(f64::NAN, |g| g.requests_per_s),
            goodput_share: summary.goodput.as_ref().map_or(f64::NAN, |g| g.attained),
            dollars: summary.dollars_per_million.unwrap_or(f64::NAN),
        }
    }
}

/// What a row is in the league.
#[derive(Clone, Debug, PartialEq)]
pub enum Role {
    /// Ranked.
    Policy,
    /// Knows what no policy knows: shown, and what regret is taken to; not ranked.
    Reference,
    /// A policy under confidence signals of another quality, in the regimes as written; not ranked.
    Signals {
        /// The policy.
        of: String,
        /// Rank correlation of the signals with the acceptance behind them.
        correlation: f64,
    },
}

impl Role {
    /// Where its rows stand: policies, references, other signals.
    fn group(&self) -> u8 {
        match self {
            Self::Policy => 0,
            Self::Reference => 1,
            Self::Signals { .. } => 2,
        }
    }
}

/// A policy in a cell.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Ranked or not.
    pub role: Role,
    /// By seed, in the order of [`LeagueReport::report_seeds`].
    pub seeds: Vec<Score>,
}

/// One pool in one regime and variant.
#[derive(Clone, Debug)]
pub struct CellReport {
    /// Index of the pool.
    pub pool: usize,
    /// Index of the regime.
    pub regime: usize,
    /// Index of the variant.
    pub variant: usize,
    /// The static plan that was best on the tuning seeds.
    pub hindsight: String,
    /// Policies and references.
    pub rows: Vec<Row>,
}

/// What a policy was tuned to.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// Where.
    pub pool: String,
    /// Who.
    pub entrant: String,
    /// The policy that was entered.
    pub policy: String,
    /// Which of its candidates that is, counted from 0.
    pub index: usize,
    /// Out of how many.
    pub candidates: usize,
}

/// A league that was run.
#[derive(Clone, Debug, Default)]
pub struct LeagueReport {
    /// Its name.
    pub title: String,
    /// What it shows.
    pub description: String,
    /// What was run, as pairs of words.
    pub facts: Vec<(String, String)>,
    /// What a reader must know besides.
    pub notes: Vec<String>,
    /// Names of the regimes that were run, and what they are.
    pub regimes: Vec<(String, String)>,
    /// Names of the pools that were run.
    pub pools: Vec<String>,
    /// Names of the variants that were run.
    pub variants: Vec<String>,
    /// Index among them of the regime as written; `None` when that was left out.
    pub written: Option<usize>,
    /// The seeds of tuning; none when tuning was taken from a file.
    pub tuning_seeds: Vec<u64>,
    /// The seeds of everything shown.
    pub report_seeds: Vec<u64>,
    /// Rank correlation of confidence signals in the cells themselves, where they have one.
    pub signals: Option<f64>,
    /// What policies were tuned to.
    pub chosen: Vec<Chosen>,
    /// The cells.
    pub cells: Vec<CellReport>,
    /// The command that makes the page again.
    pub command: String,
}

impl LeagueReport {
    /// A cell in words: `overload, 8B on an H100, rate + 20 %`.
    pub fn cell_name(&self, index: usize) -> String {
        let Some(cell) = self.cells.get(index) else { return String::new() };
        let regime = self.regimes.get(cell.regime).map(|regime| &regime.0);
        let names = [regime, self.pools.get(cell.pool), self.variants.get(cell.variant)];
        names.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    /// Names of the rows with what they are: policies, references, other signals, each in the order in which cells first
    /// have them.
    pub fn names(&self) -> Vec<(&str, &Role)> {
        let mut names: Vec<(&str, &Role)> = Vec::new();
        for row in self.cells.iter().flat_map(|cell| &cell.rows) {
            if names.iter().all(|(name, _)| *name != row.name) {
                names.push((&row.name, &row.role));
            }
        }
        names.sort_by_key(|(_, role)| role.group());
        names
    }

    /// Names of the ranked policies.
    pub(crate) fn ranked(&self) -> Vec<&str> {
        self.names().into_iter().filter(|(_, role)| **role == Role::Policy).map(|(name, _)| name).collect()
    }
}

impl CellReport {
    /// The row of that name.
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }
}

impl Row {
    /// ln of latency per token by seed.
    pub(crate) fn logs(&self) -> Vec<f64> {
        self.seeds.iter().map(|score| score.latency_s.ln()).collect()
    }
}
