//! The league table: regret of every policy to the best reference, cell by cell, and what it adds up to.
//!
//! - The measure of a run is its **latency per token**: Σ time from arrival to last token over Σ output tokens. It has the
//!   queue, the prompt and every token in it, so no policy gains by starving one for another. TTFT, TPOT, goodput,
//!   throughput and dollars stand beside it.
//! - The **reference** of a cell is the better of `clairvoyant` and `hindsight` there, in the mean over seeds.
//! - **Regret** is the mean over seeds of ln(policy / reference), as a relative change.
//! - A policy's rank is by its mean regret over cells; its worst case is its largest.

mod page;
mod standing;

use serde::Serialize;

pub use standing::{Against, Standing};

use crate::summary::Summary;

/// What one run came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Score {
    /// Σ time from arrival to last token over Σ output tokens, in seconds.
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
    /// Requests per second that met their SLO; 0 where none has one.
    pub goodput_per_s: f64,
    /// Dollars per million output tokens; 0 where the hardware has no price.
    pub dollars: f64,
}

impl Score {
    /// Of a run's metrics.
    pub fn of(summary: &Summary) -> Self {
        let (ttft, tpot) = (summary.ttft_s.as_ref(), summary.tpot_s.as_ref());
        let waited = summary.e2e_s.as_ref().map_or(0.0, |e2e| e2e.mean * e2e.count as f64);
        Self {
            latency_s: waited / (summary.output_tokens.max(1) as f64),
            ttft_s: ttft.map_or(0.0, |s| s.mean),
            ttft_p99_s: ttft.map_or(0.0, |s| s.p99),
            tpot_s: tpot.map_or(0.0, |s| s.mean),
            tpot_p99_s: tpot.map_or(0.0, |s| s.p99),
            tokens_per_s: summary.output_tokens_per_s,
            goodput_per_s: summary.goodput.as_ref().map_or(0.0, |g| g.requests_per_s),
            dollars: summary.dollars_per_million.unwrap_or(0.0),
        }
    }
}

/// A policy in a cell.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Shown, but not ranked.
    pub reference: bool,
    /// By seed.
    pub seeds: Vec<Score>,
}

/// One pool in one regime and variant.
#[derive(Clone, Debug, Serialize)]
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
#[derive(Clone, Debug, Serialize)]
pub struct Chosen {
    /// Where.
    pub pool: String,
    /// Who.
    pub entrant: String,
    /// The policy that was entered.
    pub policy: String,
    /// Out of how many.
    pub candidates: usize,
}

/// A league that was run.
#[derive(Clone, Debug, Serialize)]
pub struct LeagueReport {
    /// Its name.
    pub title: String,
    /// What it shows.
    pub description: String,
    /// What was run, as pairs of words.
    pub facts: Vec<(String, String)>,
    /// Names of the regimes, and what they are.
    pub regimes: Vec<(String, String)>,
    /// Names of the pools.
    pub pools: Vec<String>,
    /// Names of the variants; the first is the regime as written.
    pub variants: Vec<String>,
    /// What policies were tuned to.
    pub chosen: Vec<Chosen>,
    /// The cells.
    pub cells: Vec<CellReport>,
    /// The command that makes the page again.
    pub command: String,
}
