//! Service-level objectives.

use crate::units::Span;

/// Targets on the times of a request. A request meets its SLO when it meets every target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slo {
    /// Most time from arrival to first token.
    pub ttft: Option<Span>,
    /// Most time per output token after the first.
    pub tpot: Option<Span>,
}
