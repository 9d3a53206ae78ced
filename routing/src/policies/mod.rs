//! The library of policies, one file each.
//!
//! They stand on the public contract of [`crate::policy`] alone (a test of the house checks what they
//! import), so a policy of yours gets what these get. To add one: a file with its parameters, its
//! [`Recipe`](recipe::Recipe) and its [`Policy`](crate::policy::Policy), and a line in `library.rs`.

mod acceptance_tiers;
mod adaptive_verification;
mod arms;
mod batch_table;
mod books;
mod censored_ema;
mod chain_router;
mod confidence_stop;
mod decision_table;
mod entropy_stop;
mod exp3;
mod goodput;
mod hedge;
mod histories;
#[cfg(test)]
mod last_round; // The policy of `docs/write-a-policy.md`: compiled with the tests, in no catalog.
mod latency_table;
mod library;
mod logged;
mod probe;
mod recipe;
mod slo_aware;
mod specrouter;
mod static_chain;
mod target_only;
mod thompson;
mod traffic;
mod trial;
mod ucb;
mod windows;

pub use acceptance_tiers::AcceptanceTiersConfig;
pub use adaptive_verification::AdaptiveVerificationConfig;
pub use arms::ArmConfig;
pub use batch_table::{BatchRow, BatchTableConfig, DisableConfig};
pub use books::Books;
pub use censored_ema::CensoredEmaConfig;
pub use chain_router::ChainRouterConfig;
pub use confidence_stop::{ConfidenceStopConfig, Schedule};
pub use decision_table::{DecisionTableConfig, RuleConfig, WhenConfig};
pub use entropy_stop::{EntropyRule, EntropyStopConfig};
pub use exp3::Exp3Config;
pub use goodput::GoodputConfig;
pub use hedge::HedgeConfig;
pub use latency_table::{LatencyRow, LatencyTableConfig};
pub use library::{PolicyConfig, catalog};
pub use logged::Logged;
pub use probe::ProbeConfig;
pub use recipe::{PolicyEntry, PolicyError, PolicyPool};
pub use slo_aware::SloAwareConfig;
pub use specrouter::{Scope, SpecRouterConfig};
pub use static_chain::{StaticChain, StaticConfig, StopConfig};
pub use target_only::FixedModelConfig;
pub use thompson::ThompsonConfig;
pub use trial::RewardConfig;
pub use ucb::UcbConfig;
