//! The simulator: a virtual clock, a cost model that prices passes, an acceptance source that decides
//! what is kept.
//!
//! No clock, no I/O, no ambient randomness, no hash-ordered map, no float in an ordering.

// Tests may keep books as they like and unwrap what they set up.
#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used, clippy::float_cmp)
)]

pub mod acceptance;
#[cfg(test)]
mod at_once;
pub mod backend;
pub mod bound;
pub mod clairvoyant;
pub mod cost;
pub mod drive;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod library;
#[cfg(test)]
mod oracle;
pub mod simulator;
