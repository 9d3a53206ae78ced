//! Trains the shipped family: tokenizer, token files, models, distilled students, Hugging Face folders.
//!
//! `cargo run --release -p specrouter-engine --example train -- models/recipe.json COMMAND --work DIR`;
//! without arguments it says what it can do. `models/README.md` tells how the shipped weights were made.
//!
//! Workers share a step's sequences; each runs forward and backward of its own micro-batches on one
//! core, so that no small operation waits for another core, and gradients are summed in the optimizer.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command; results on stdout, the rest on stderr"
)]

mod adam;
mod amx;
mod arguments;
mod blocks;
mod checkpoint;
mod corpus;
mod error;
mod evaluation;
mod export;
mod math;
mod meter;
mod model;
mod ops;
mod plain;
mod recipe;
mod selftest;
mod shape;
mod training;

use std::process::ExitCode;

use candle_core::Device;

use crate::arguments::{Arguments, Command};
use crate::error::{Result, TrainError, write};
use crate::recipe::Recipe;
use crate::training::Session;

fn main() -> ExitCode {
    match Arguments::read(std::env::args().skip(1)).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    if arguments.cuda.is_none() {
        settle_environment()?;
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(arguments.threads).build();
    let pool = pool.map_err(|error| TrainError::Check(format!("{} workers: {error}", arguments.threads)))?;
    pool.install(|| command(arguments))
}

fn command(arguments: Arguments) -> Result<()> {
    let mut recipe = Recipe::read(&arguments.recipe)?;
    if let Some(corpora) = arguments.corpora {
        recipe.corpora = corpora;
    }
    let work = arguments.work;
    std::fs::create_dir_all(&work).map_err(|source| TrainError::File { path: work.clone(), source })?;
    let (device, workers) = match arguments.cuda {
        None => (Device::Cpu, arguments.threads),
        Some(index) => (Device::new_cuda(index)?, 1),
    };
    let session = Session { recipe, work, workers, device };
    match arguments.command {
        Command::Tokenizer => {
            let tokenizer = corpus::train_tokenizer(&session.recipe)?;
            let path = session.work.join("tokenizer.json");
            write(&path, tokenizer.to_string(true)?.as_bytes())?;
            println!("{}: {} tokens", path.display(), tokenizer.get_vocab_size(true));
        }
        Command::Data => print!("{}", corpus::prepare(&session.recipe, &session.work)?),
        Command::Train(name) => session.train(&name, arguments.minutes)?,
        Command::Distill(name) => session.distill(&name, arguments.minutes)?,
        Command::Bench(name) => print!("{}", session.bench(&name, arguments.steps)?),
        Command::Eval => print!("{}", session.evaluate()?),
        Command::Export => {
            let folder = arguments.recipe.parent().unwrap_or(std::path::Path::new(""));
            print!("{}", session.export(folder)?);
        }
        Command::Selftest => print!("{}", selftest::run(&session)?),
    }
    Ok(())
}

/// Starts the program again with the environment it needs, which a process cannot safely set for itself.
///
/// - candle takes the threads of its products from `RAYON_NUM_THREADS`. Workers run beside each
///   other, so each product gets one.
/// - glibc returns large blocks to the system and fetches them again, page by page; a step
///   allocates the same blocks every time, so it is told to keep them, in large pages.
#[cfg(unix)]
fn settle_environment() -> Result<()> {
    use std::os::unix::process::CommandExt;
    const THREADS: &str = "RAYON_NUM_THREADS";
    const TUNABLES: &str = "GLIBC_TUNABLES";
    if std::env::var_os(THREADS).is_some_and(|value| value == "1") {
        return Ok(());
    }
    let failed = |source| TrainError::File { path: "the program itself".into(), source };
    let mut again = std::process::Command::new(std::env::current_exe().map_err(failed)?);
    again.args(std::env::args_os().skip(1)).env(THREADS, "1");
    if std::env::var_os(TUNABLES).is_none() {
        let settings =
            [("mmap_threshold", "4294967296"), ("trim_threshold", "17179869184"), ("hugetlb", "1")];
        let settings = settings.map(|(name, value)| format!("glibc.malloc.{name}={value}"));
        again.env(TUNABLES, settings.join(":"));
    }
    Err(failed(again.exec()))
}

#[cfg(not(unix))]
fn settle_environment() -> Result<()> {
    Ok(())
}
