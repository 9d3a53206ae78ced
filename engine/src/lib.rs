//! The engine: real execution of the models that `sim` prices.

pub mod backend;
pub mod coins;
pub mod config;
pub mod decoder;
pub mod kernels;
pub mod level;
pub mod load;
pub mod pool;
pub mod profile;
pub mod prompts;
pub mod sampling;
pub mod serve;
pub mod settings;
pub mod stopwatch;
pub mod storage;
pub mod tokenizer;
pub mod verify;
pub mod weights;
