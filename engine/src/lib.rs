//! The engine: real execution of the models that `sim` prices.
//!
//! So far it reads what a model's `config.json` says ([`config`]) and what a scenario says about
//! running it ([`settings`]). Weights, kernels and passes are not here yet.

pub mod config;
pub mod settings;
