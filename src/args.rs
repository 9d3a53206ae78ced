//! What was typed. `scenario.rs` says what it means.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Which chain of models, with which draft lengths, should decode each request right now?
#[derive(Debug, Parser)]
#[command(name = "specrouter", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Typed {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One per file of `commands/`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Simulate every policy of a scenario: tables, plots, report.
    Run(RunArgs),
    /// List the policies a scenario can name, with their parameters and defaults.
    Policies(ListArgs),
    /// List the hardware catalog.
    Hardware(ListArgs),
    /// List the model catalog.
    Models(ListArgs),
    /// List the scenarios inside this binary.
    Scenarios(ListArgs),
    /// Print the JSON Schema of a scenario.
    Schema,
    /// Print a shell's completion script.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// A scenario's name (see `specrouter scenarios`), or the path of a YAML file.
    pub scenario: String,
    /// Read, check and size everything, print it, and run nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Override a field, e.g. `workload.requests=500` or `policies.0.static.windows=[2]`; repeatable.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub sets: Vec<String>,
    /// Run this many seeds, counted up from the scenario's `seed`.
    #[arg(long, value_name = "N")]
    pub seeds: Option<u32>,
    /// Use this many threads; all cores by default. Results do not depend on it.
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    /// Write tables, plots and report into this folder.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What goes to stdout.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// No progress and no notes on stderr.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Arguments of the lists.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// What goes to stdout.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns, for people.
    #[default]
    Table,
    /// JSON, for programs.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_contradict_nothing() {
        Typed::command().debug_assert();
    }

    #[test]
    fn sets_are_kept_in_order() {
        let typed = Typed::parse_from([
            "specrouter",
            "run",
            "quickstart",
            "--set",
            "a=1",
            "--set",
            "a=2",
            "--jobs",
            "2",
            "-q",
        ]);
        let Command::Run(run) = typed.command else { panic!("a run") };
        assert_eq!(
            (run.sets, run.jobs, run.quiet, run.format),
            (vec!["a=1".into(), "a=2".into()], NonZeroUsize::new(2), true, Format::Table)
        );
        assert!(Typed::try_parse_from(["specrouter", "run", "x", "--jobs", "0"]).is_err());
    }
}
