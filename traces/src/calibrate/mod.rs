//! From the rows of traces to what a simulator needs to know: pass times, and who keeps whose token.
//!
//! Pure functions over slices of records; nothing here reads a file. [`cost`] fits pass times,
//! [`evidence`] gathers what texts and rounds say of acceptance, [`acceptance`] estimates the matrix,
//! [`variation`] takes its variance apart, [`signals`] says how well confidence foretells it, and
//! [`goodness`] judges the fits. Where data do not suffice, a [`Shortage`] says so instead of a number.

pub mod acceptance;
pub mod cost;
pub mod evidence;
pub mod goodness;
mod interval;
#[cfg(test)]
mod made;
pub mod signals;
mod squares;
pub mod triangle;
pub mod variation;

pub use interval::Estimate;

use serde::Serialize;

/// Requests below which no interval over requests is given.
pub const LEAST_REQUESTS: usize = 20;

/// Confidence of every interval.
pub const CONFIDENCE: f64 = 0.95;

/// Why there is no fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("not enough data: {got} {what}, {needed} needed")]
pub struct Shortage {
    /// Of what, in the plural.
    pub what: &'static str,
    /// How many there are.
    pub got: u64,
    /// How many it takes.
    pub needed: u64,
}

/// A fit, or why there is none.
pub type Fitted<T> = Result<T, Shortage>;

/// Refuses fewer than `needed`.
fn enough(what: &'static str, got: usize, needed: usize) -> Fitted<()> {
    if got >= needed { Ok(()) } else { Err(Shortage { what, got: got as u64, needed: needed as u64 }) }
}
