//! Policies: which chain and which windows, for each sequence that starts a round.

mod ask;
mod batch_table;
mod config;
mod contract;
mod goodput;
mod logged;
pub mod maths;
pub mod price;
pub mod search;
mod specrouter;
mod static_chain;

pub use ask::{Ask, RequestView};
pub use batch_table::{BatchTable, Disable};
pub use config::{
    BatchRow, BatchTableConfig, DisableConfig, FixedModelConfig, GoodputConfig, PolicyConfig, PolicyEntry,
    PolicyError, PolicyPool, Scope, SpecRouterConfig, StaticConfig, StopConfig, catalog,
};
pub use contract::{Needs, PairReport, PassReport, Plan, PlanError, Planned, Policy, Probe, RowReport};
pub use goodput::{Goodput, GoodputParameters};
pub use logged::Logged;
pub use specrouter::{SpecRouter, SpecRouterParameters};
pub use static_chain::StaticChain;
