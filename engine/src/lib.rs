//! The engine: real execution of the models that `sim` prices.
//!
//! [`serve`] drives `routing`'s loop on the wall clock ([`stopwatch`]); [`backend`] packs a pass, runs
//! one [`level::LevelModel`] and samples or verifies its rows ([`sampling`], [`verify`], [`coins`]).
//! [`decoder`] is the model on the processor ([`kernels`], [`storage`]), [`tensor`] on other devices.
//! [`score`] shows committed texts to every model afterwards.
//! [`load`], [`config`] and [`tokenizer`] read folders, [`pool`] opens what a scenario names.

pub mod backend;
mod checks;
pub mod coins;
pub mod config;
pub mod cores;
pub mod decoder;
pub mod kernels;
pub mod level;
pub mod load;
pub mod pool;
pub mod profile;
pub mod prompts;
pub mod sampling;
pub mod score;
pub mod selfcheck;
pub mod serve;
pub mod settings;
pub mod stopwatch;
pub mod storage;
pub mod tensor;
pub mod tokenizer;
pub mod verify;
pub mod weights;
