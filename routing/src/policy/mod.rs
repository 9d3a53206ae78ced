//! The contract: what a policy is asked, what it answers, what it is told; and the arithmetic that
//! policies share. The policies themselves are in [`crate::policies`].

mod ask;
mod contract;
pub mod maths;
pub mod price;
pub mod search;

pub use ask::{Ask, RequestView};
pub use contract::{Needs, PairReport, PassReport, Plan, PlanError, Planned, Policy, Probe, RowReport};
