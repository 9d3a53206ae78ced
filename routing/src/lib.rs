//! What the twins share: the words, the serving loop, policies, profiles and records.
//!
//! No clock, no I/O, no ambient randomness, no hash-ordered map, no float in an ordering.

// Tests may keep books as they like and unwrap what they set up.
#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used, clippy::float_cmp)
)]

pub mod backend;
pub mod chain;
pub mod dispatch;
pub mod estimate;
pub mod ids;
pub mod kv;
pub mod luck;
pub mod policies;
pub mod policy;
pub mod profile;
pub mod record;
pub mod replica;
pub mod request;
mod sequence;
pub mod slo;
pub mod tally;
pub mod units;
pub mod workload;
