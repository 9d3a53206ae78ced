//! The metrics that reports show and compare.

use serde::Serialize;

use crate::summary::Summary;

/// A metric that reports show and compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Mean TTFT.
    TtftMean,
    /// 99th percentile of TTFT.
    TtftP99,
    /// Mean TPOT.
    TpotMean,
    /// 99th percentile of TPOT.
    TpotP99,
    /// Output tokens per second.
    OutputTokens,
    /// Requests per second that meet their SLO.
    Goodput,
    /// Tokens committed per round.
    AcceptedLength,
    /// Dollars per million output tokens.
    Dollars,
}

impl Metric {
    /// All, in the order of tables.
    pub const ALL: [Self; 8] = [
        Self::TtftMean,
        Self::TtftP99,
        Self::TpotMean,
        Self::TpotP99,
        Self::OutputTokens,
        Self::Goodput,
        Self::AcceptedLength,
        Self::Dollars,
    ];

    /// What comparisons of arms show: delays, rates and the price, always together.
    pub const TOGETHER: [Self; 7] = [
        Self::TtftMean,
        Self::TtftP99,
        Self::TpotMean,
        Self::TpotP99,
        Self::Goodput,
        Self::OutputTokens,
        Self::Dollars,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TtftMean => "TTFT mean",
            Self::TtftP99 => "TTFT p99",
            Self::TpotMean => "TPOT mean",
            Self::TpotP99 => "TPOT p99",
            Self::OutputTokens => "throughput",
            Self::Goodput => "goodput",
            Self::AcceptedLength => "accepted",
            Self::Dollars => "cost",
        }
    }

    /// The unit of [`Metric::shown`].
    pub const fn unit(self) -> &'static str {
        match self {
            Self::TtftMean | Self::TtftP99 | Self::TpotMean | Self::TpotP99 => "ms",
            Self::OutputTokens => "tokens/s",
            Self::Goodput => "req/s",
            Self::AcceptedLength => "tokens/round",
            Self::Dollars => "$/M tokens",
        }
    }

    /// True when less is better.
    pub const fn less_is_better(self) -> bool {
        !matches!(self, Self::OutputTokens | Self::Goodput | Self::AcceptedLength)
    }

    /// Compared with the baseline of a run. The accepted length is a cause, not a result, and price is
    /// throughput over again.
    pub const fn compared(self) -> bool {
        !matches!(self, Self::AcceptedLength | Self::Dollars)
    }

    /// Its value in a run, in [`Metric::unit`]; `None` where the run has none.
    pub fn shown(self, summary: &Summary) -> Option<f64> {
        match self {
            Self::TtftMean => summary.ttft_s.map(|s| s.mean * 1e3),
            Self::TtftP99 => summary.ttft_s.map(|s| s.p99 * 1e3),
            Self::TpotMean => summary.tpot_s.map(|s| s.mean * 1e3),
            Self::TpotP99 => summary.tpot_s.map(|s| s.p99 * 1e3),
            Self::OutputTokens => Some(summary.output_tokens_per_s),
            Self::Goodput => summary.goodput.map(|g| g.requests_per_s),
            Self::AcceptedLength => summary.accepted_length,
            Self::Dollars => summary.dollars_per_million,
        }
    }

    /// Its value over the requests of one class; `None` where the run has none, and for metrics of the
    /// whole device.
    pub fn of_class(self, summary: &Summary, class: &str) -> Option<f64> {
        let own = summary.classes.iter().find(|own| own.class == class)?;
        match self {
            Self::TtftMean => own.ttft_s.map(|s| s.mean * 1e3),
            Self::TtftP99 => own.ttft_s.map(|s| s.p99 * 1e3),
            Self::TpotMean => own.tpot_s.map(|s| s.mean * 1e3),
            Self::TpotP99 => own.tpot_s.map(|s| s.p99 * 1e3),
            Self::Goodput => own.goodput.map(|g| g.requests_per_s),
            Self::OutputTokens | Self::AcceptedLength | Self::Dollars => None,
        }
    }
}
