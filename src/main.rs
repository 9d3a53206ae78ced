//! The command. `args.rs` is what was typed, `scenario.rs` what it means, `commands/` does it.

mod args;
mod catalog;
mod commands;
mod failure;
mod files;
mod keep;
mod league;
mod nearest;
mod parallel;
mod pass_times;
mod references;
mod scenario;
#[cfg(feature = "engine")]
mod score;
mod simulate;
mod table;
mod trace;
mod workload_file;
mod yaml;

use std::io::Write;
use std::process::ExitCode;

use args::{Command, Typed};
use clap::Parser;

fn main() -> ExitCode {
    let result = match Typed::parse().command {
        Command::Run(args) => commands::run::run(&args),
        Command::Replay(args) => commands::replay::run(&args),
        Command::Compare(args) => commands::compare::run(&args),
        #[cfg(feature = "engine")]
        Command::Record(args) => commands::record::run(&args),
        #[cfg(feature = "engine")]
        Command::Generate(args) => commands::generate::run(&args),
        #[cfg(feature = "engine")]
        Command::Profile(args) => commands::profile::run(&args),
        #[cfg(feature = "engine")]
        Command::Selfcheck(args) => commands::selfcheck::run(&args),
        Command::Calibrate(args) => commands::calibrate::run(&args),
        #[cfg(feature = "engine")]
        Command::Validate(args) => commands::validate::run(&args),
        Command::Trace(args) => commands::trace::run(&args),
        Command::Policies(args) => commands::policies::run(&args),
        Command::Hardware(args) => commands::hardware::run(&args),
        Command::Models(args) => commands::models::run(&args),
        Command::Scenarios(args) => commands::scenarios::run(&args),
        Command::Schema => commands::schema::run(),
        Command::Completions { shell } => commands::completions::run(shell),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nothing is left to do when stderr is closed too.
            let _ = writeln!(std::io::stderr(), "{failure}");
            failure.code()
        }
    }
}
