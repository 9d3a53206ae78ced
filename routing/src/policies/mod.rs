//! The library of policies, one file each.
//!
//! They stand on the public contract of [`crate::policy`] alone (a test of the house checks what they
//! import), so a policy of yours gets what these get. To add one: a file with its parameters, its
//! [`Recipe`](recipe::Recipe) and its [`Policy`](crate::policy::Policy), and a line in `library.rs`.

mod arms;
mod batch_table;
mod exp3;
mod goodput;
mod hedge;
mod library;
mod logged;
mod recipe;
mod specrouter;
mod static_chain;
mod target_only;
mod thompson;
mod trial;
mod ucb;

pub use arms::ArmConfig;
pub use batch_table::{BatchRow, BatchTableConfig, DisableConfig};
pub use exp3::Exp3Config;
pub use goodput::GoodputConfig;
pub use hedge::HedgeConfig;
pub use library::{PolicyConfig, catalog};
pub use logged::Logged;
pub use recipe::{PolicyEntry, PolicyError, PolicyPool};
pub use specrouter::{Scope, SpecRouterConfig};
pub use static_chain::{StaticChain, StaticConfig, StopConfig};
pub use target_only::FixedModelConfig;
pub use thompson::ThompsonConfig;
pub use trial::RewardConfig;
pub use ucb::UcbConfig;
