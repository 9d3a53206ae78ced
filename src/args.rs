//! What was typed. `scenario.rs` says what it means.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
#[cfg(feature = "engine")]
use specrouter_engine::settings::{Device, Dtype};

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
    /// Run a scenario on real models: tables, texts, report.
    #[cfg(feature = "engine")]
    Record(RecordArgs),
    /// Compare policies on a recorded trace: the same requests, the same text, any chain.
    Replay(ReplayArgs),
    /// Compare arms of any source: simulations, replays, recordings; with intervals, verdicts and a plan.
    #[command(after_long_help = COMPARE)]
    Compare(Box<CompareArgs>),
    /// Continue one prompt, its tokens coloured by the model that put them there.
    #[cfg(feature = "engine")]
    Generate(GenerateArgs),
    /// Measure pass times on this device: a cost table that scenarios can name.
    #[cfg(feature = "engine")]
    Profile(ProfileArgs),
    /// Check that speculation changes no output: exactness, distribution, and flips off the processor.
    #[cfg(feature = "engine")]
    #[command(after_long_help = SELFCHECK)]
    Selfcheck(SelfcheckArgs),
    /// Fit what a simulation needs to know to traces: pass times and acceptance, with a report of the fit.
    Calibrate(CalibrateArgs),
    /// Simulate, replay and run the same thing for real; report the gap.
    #[cfg(feature = "engine")]
    Validate(ValidateArgs),
    /// Verify a recorded trace, or score one whose recording was killed.
    #[command(subcommand)]
    Trace(TraceCommand),
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
    /// Run this many seeds, counted up from the scenario's `seed`; of a league, at most this many of its own.
    #[arg(long, value_name = "N")]
    pub seeds: Option<u32>,
    /// Of a league, measure these cells: REGIME, REGIME/POOL or REGIME/POOL/VARIANT; repeatable. Policies are tuned over
    /// all regimes of those pools.
    #[arg(long, value_name = "CELL")]
    pub only: Vec<String>,
    /// Of a league, take what policies are tuned to from this league.json of an earlier run, and tune nothing.
    #[arg(long, value_name = "FILE")]
    pub reference: Option<PathBuf>,
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

/// Arguments of `calibrate`.
#[derive(Debug, Args)]
pub struct CalibrateArgs {
    /// Folders of traces, or of runs with all of their arms.
    #[arg(value_name = "TRACE", required_unless_present_any = ["from_table", "from_rounds"])]
    pub traces: Vec<PathBuf>,
    /// Step costs measured elsewhere: a CSV file of model, rows, new_tokens, context_tokens, seconds.
    #[arg(long, value_name = "CSV")]
    pub from_table: Option<PathBuf>,
    /// Accepted lengths of another engine, a row a round: a CSV file of drafter, verifier, drafted, accepted
    /// and, where known, class and request.
    #[arg(long, value_name = "CSV")]
    pub from_rounds: Option<PathBuf>,
    /// Write profile.yaml, its table, fit.html and plots into this folder; out/profile by default.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What goes to stdout.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// No notes on stderr.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Arguments of `record`.
#[cfg(feature = "engine")]
#[derive(Debug, Args)]
pub struct RecordArgs {
    /// The path of a YAML file with `engine:`, or a scenario's name.
    pub scenario: String,
    /// Read, check and size everything, print it, and run nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Override a field, e.g. `workload.max_tokens=32` or `engine.threads=1`; repeatable.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub sets: Vec<String>,
    /// Record this many seeds, counted up from the scenario's `seed`.
    #[arg(long, value_name = "N")]
    pub seeds: Option<u32>,
    /// Where passes run: cpu or cuda:N. Off the processor, mode fast.
    #[arg(long)]
    pub device: Option<Device>,
    /// Format of the weights in memory.
    #[arg(long, value_parser = dtype, value_name = "auto|f32|bf16")]
    pub dtype: Option<Dtype>,
    /// Do not write the generated texts.
    #[arg(long)]
    pub no_texts: bool,
    /// Do not keep the prompts in the trace: its requests cannot be run again, nor scored later.
    #[arg(long)]
    pub no_prompts: bool,
    /// Write tables, texts, plots and report into this folder.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What goes to stdout.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// No progress and no notes on stderr.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Arguments of `replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// A trace's folder, or a run's: of its arms, the one with the most text.
    pub trace: PathBuf,
    /// Price passes on this hardware of the catalog, or YAML file, instead of by the trace's own pass times.
    #[arg(long, value_name = "NAME")]
    pub hardware: Option<String>,
    /// Price passes by this profile of `specrouter calibrate`; policies know it too.
    #[arg(long, value_name = "FILE")]
    pub profile: Option<String>,
    /// Replay this policy instead of the recorded scenario's: a name, or YAML such as
    /// `static: {chain: [tiny, large], windows: [4]}`; repeatable. The first is what others are compared with.
    #[arg(long = "policy", value_name = "POLICY")]
    pub policies: Vec<String>,
    /// Override a field of the recorded scenario, e.g. `workload.arrivals={poisson: {rate_per_s: 40}}`; repeatable.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub sets: Vec<String>,
    /// Replay this many requests, the trace's over and over; by default each once.
    #[arg(long, value_name = "N")]
    pub requests: Option<u64>,
    /// Run the requests again on the real models too, and show what was executed beside what was replayed. In other
    /// time with `--set workload.speed=10`.
    #[cfg(feature = "engine")]
    #[arg(long)]
    pub execute: bool,
    /// With --execute, the folders of the models, cheapest first, if they are not where they were.
    #[cfg(feature = "engine")]
    #[arg(short = 'm', long = "model", value_name = "DIR", num_args = 1..)]
    pub models: Vec<PathBuf>,
    /// Leave out `clairvoyant`, `hindsight` and the bound.
    #[arg(long)]
    pub no_references: bool,
    /// Draw the luck of sampling this many times; greedy and coupled traces have none.
    #[arg(long, value_name = "N")]
    pub seeds: Option<u32>,
    /// Read, check and size everything, print it, and replay nothing.
    #[arg(long)]
    pub dry_run: bool,
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

/// Arguments of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// SOURCE or SOURCE#POLICY. A source is a scenario's name or file (simulated), `replay:` and a trace's folder
    /// (replayed), or a trace's or a run's folder (what ran there, read back). Without a policy: all of them.
    #[arg(value_name = "ARM", required_unless_present = "false_positives")]
    pub arms: Vec<String>,
    /// Compare with this arm; the first by default.
    #[arg(long, value_name = "ARM")]
    pub baseline: Option<String>,
    /// Which pairs: every arm with the baseline, or with every other.
    #[arg(long, value_enum, default_value_t)]
    pub pairs: Pairs,
    /// Simulate and replay this policy in place of the sources' own: a name, or YAML such as
    /// `static: {chain: [tiny, large], windows: [4]}`; repeatable.
    #[arg(long = "policy", value_name = "POLICY")]
    pub policies: Vec<String>,
    /// Differences whose whole interval lies within this count as none.
    #[arg(long, value_name = "SHARE", default_value = "3%", value_parser = share)]
    pub margin: f64,
    /// The difference that --plan, and what stays unclear, count seeds for.
    #[arg(long, value_name = "SHARE", default_value = "2%", value_parser = share)]
    pub detect: f64,
    /// Run nothing but a pilot, and say what the seeds would tell and how many would tell --detect.
    #[arg(long)]
    pub plan: bool,
    /// Seeds of the pilot; the run's own are not among them.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub pilot: u32,
    /// Add seeds until half of every interval of mean TPOT is narrower than this.
    #[arg(long, value_name = "SHARE", value_parser = share, conflicts_with = "plan")]
    pub width: Option<f64>,
    /// With --width, no more seeds than this.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    pub max_seeds: u32,
    /// Add `clairvoyant`, `hindsight` and the bound to simulations and replays: regrets, and shares of the gain.
    #[arg(long, conflicts_with = "plan")]
    pub references: bool,
    /// All requests together only: fewer tests, so that each can tell more.
    #[arg(long)]
    pub no_classes: bool,
    /// Override a field of every scenario and replayed trace; repeatable.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub sets: Vec<String>,
    /// Run this many seeds, counted up from each scenario's `seed`.
    #[arg(long, value_name = "N")]
    pub seeds: Option<u32>,
    /// Compare the scenario's first policy with itself, under the same requests and other coins, again and again;
    /// say how often each test finds a difference.
    #[arg(long, value_name = "SCENARIO", conflicts_with_all = ["arms", "plan", "width", "references"])]
    pub false_positives: Option<String>,
    /// With --false-positives, comparisons at each load.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub comparisons: u32,
    /// Use this many threads; all cores by default. Results do not depend on it.
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    /// Write compare.json and compare.html into this folder.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What goes to stdout.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// No progress and no notes on stderr.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Which arms are compared with which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Pairs {
    /// Every arm with the baseline.
    #[default]
    Baseline,
    /// Every arm with every other.
    All,
}

/// `3%` or `0.03`.
fn share(text: &str) -> Result<f64, String> {
    let (number, percent) = match text.trim().strip_suffix('%') {
        Some(number) => (number, true),
        None => (text, false),
    };
    let value: f64 = number.trim().parse().map_err(|_| format!("expected a share such as 3%, got {text}"))?;
    let value = if percent { value / 100.0 } else { value };
    if value > 0.0 && value < 1.0 {
        Ok(value)
    } else {
        Err(format!("expected a share above 0% and below 100%, got {text}; 3 percent are 3%"))
    }
}

const COMPARE: &str = "\
Verdicts rest on replications. A seed gives every arm of one scenario the same requests and the same luck, so it counts \
as one paired difference for each metric; requests of one run share a queue and are no replications. Intervals are \
Student's t at 95 %; a difference has p < 0.05 by the exact signed-rank test (from 10 seeds, in families of tests where \
it can reject at all) or by t, after Holm's correction over everything reported.\n\n\
Arms are paired when they met the same requests under the same seeds. Others are compared by Welch's t, and the report \
says so. A replay of a sampled trace draws its luck again: its intervals are conditional on this trace. A greedy or \
coupled trace has no luck: its difference is a fact, and an interval needs 20 blocks of requests, each longer than the \
longest busy period.\n\n\
--width looks at the width of intervals alone, never at p or at the sign of an effect: how wide the interval is says \
nothing of where it lies, so stopping at a width leaves the error rate where it was. It begins with ten seeds and runs \
one batch of five more than it needs, since seeds that happen to spread little are the ones that stop it. Stopping at a \
p value would not do: a test repeated often enough finds a difference.";

/// Arguments of `generate`.
#[cfg(feature = "engine")]
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// What to continue.
    #[arg(short, long)]
    pub prompt: String,
    /// Model folders, cheapest first, target last.
    #[arg(short = 'm', long = "model", value_name = "DIR", num_args = 1.., default_values = FAMILY)]
    pub models: Vec<PathBuf>,
    /// The policy: a name, or YAML such as `static: {chain: [tiny, large], windows: [4]}`.
    #[arg(long, default_value = "specrouter")]
    pub policy: String,
    /// Most tokens to generate.
    #[arg(short = 'n', long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
    /// 0 is greedy.
    #[arg(long, default_value_t = 0.8)]
    pub temperature: f64,
    /// Keeps the likeliest tokens up to this mass.
    #[arg(long)]
    pub top_p: Option<f64>,
    /// Keeps this many of the likeliest tokens.
    #[arg(long)]
    pub top_k: Option<u32>,
    /// The run's luck: the same seed gives the same text.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Where passes run: cpu or cuda:N.
    #[arg(long, default_value_t)]
    pub device: Device,
    /// Format of the weights in memory.
    #[arg(long, value_parser = dtype, value_name = "auto|f32|bf16", default_value = "auto")]
    pub dtype: Dtype,
    /// When tokens are coloured.
    #[arg(long, value_enum, default_value_t)]
    pub color: Color,
    /// No summary on stderr.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Arguments of `profile`.
#[cfg(feature = "engine")]
#[derive(Debug, Args)]
pub struct ProfileArgs {
    /// Model folders; with `--dummy`, catalog names or model YAML files.
    #[arg(required = true)]
    pub pool: Vec<String>,
    /// Random weights in the models' shapes.
    #[arg(long)]
    pub dummy: bool,
    /// Where passes run: cpu or cuda:N.
    #[arg(long, default_value_t)]
    pub device: Device,
    /// Format of the weights in memory.
    #[arg(long, value_parser = dtype, value_name = "auto|f32|bf16", default_value = "auto")]
    pub dtype: Dtype,
    /// Sequences in a pass.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16])]
    pub rows: Vec<u32>,
    /// New tokens of each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 3, 4, 6, 8, 12, 16])]
    pub new_tokens: Vec<u32>,
    /// Cached tokens of each.
    #[arg(long, value_delimiter = ',', default_values_t = [32, 128, 384])]
    pub context_tokens: Vec<u32>,
    /// Timings of each pass; their median counts.
    #[arg(long, default_value_t = 9)]
    pub repeats: u32,
    /// Write the table to this CSV file; stdout by default.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Arguments of `selfcheck`.
#[cfg(feature = "engine")]
#[derive(Debug, Args)]
pub struct SelfcheckArgs {
    /// Model folders, cheapest first, target last; at least two.
    #[arg(short = 'm', long, value_name = "DIR", num_args = 2.., default_values = FAMILY)]
    pub models: Vec<PathBuf>,
    /// Where passes run: cpu or cuda:N.
    #[arg(long, default_value_t)]
    pub device: Device,
    /// Format of the weights in memory, off the processor.
    #[arg(long, value_parser = dtype, value_name = "auto|f32|bf16", default_value = "auto")]
    pub dtype: Dtype,
    /// Every pair of settings in place of every combination, and a tenth of the draws.
    #[arg(long)]
    pub quick: bool,
    /// What goes to stdout.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// No progress on stderr.
    #[arg(short, long)]
    pub quiet: bool,
}

#[cfg(feature = "engine")]
const SELFCHECK: &str = "\
On the processor, greedy and coupled outputs are compared token for token with the target's alone, one request \
at a time: every chain, four sets of windows, batches of 1, 3, 8 and 17, KV memory with room and without, a fixed \
chain and another in every round, three stop rules, on the models of --models and on two pools of random nested \
ones. Then sampled outputs are counted against the target's own probabilities: 10^6 over logits computed once, and \
2 x 10^4 end to end. Off the processor the counts are made there, and the rate at which greedy choices differ from \
the processor's is reported, not judged.\n\n\
One table for each; exit code 1 when an output differs, a distribution is refuted (p < 0.001), or something that \
should have happened never did. The full grid has 11,232 cells for a family of four, --quick some sixty.";

/// The shipped family, cheapest first.
#[cfg(feature = "engine")]
const FAMILY: [&str; 4] = ["models/tiny", "models/small", "models/medium", "models/large"];

#[cfg(feature = "engine")]
fn dtype(text: &str) -> Result<Dtype, String> {
    match text {
        "auto" => Ok(Dtype::Auto),
        "f32" => Ok(Dtype::F32),
        "bf16" => Ok(Dtype::Bf16),
        other => Err(format!("expected auto, f32 or bf16, got {other}")),
    }
}

/// When output is coloured.
#[cfg(feature = "engine")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// When stdout is a terminal.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Arguments of `validate`.
#[cfg(feature = "engine")]
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// The path of a YAML file with `engine:`, or a scenario's name. Its `sweep: {arrivals: [...]}` is gone through.
    pub scenario: String,
    /// Override a field, e.g. `workload.max_tokens=32`; repeatable.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub sets: Vec<String>,
    /// Record this many seeds, counted up from the scenario's `seed`.
    #[arg(long, value_name = "N")]
    pub seeds: Option<u32>,
    /// Write traces, profile and page into this folder.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What goes to stdout.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// No progress and no notes on stderr.
    #[arg(short, long)]
    pub quiet: bool,
}

/// What to do with a trace.
#[derive(Debug, Subcommand)]
pub enum TraceCommand {
    /// Compare its tables with each other: conservation, joins, ranges; say what is missing.
    Check(CheckArgs),
    /// Let every model of its pool score the texts that have no scores yet.
    #[cfg(feature = "engine")]
    Score(ScoreArgs),
}

/// Arguments of `trace check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// A trace's folder, or a run's folder with traces below it.
    pub trace: PathBuf,
    /// What goes to stdout.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Arguments of `trace score`.
#[cfg(feature = "engine")]
#[derive(Debug, Args)]
pub struct ScoreArgs {
    /// The trace's folder.
    pub trace: PathBuf,
    /// The folders of its models, cheapest first, if they are not where they were.
    #[arg(short = 'm', long = "model", value_name = "DIR", num_args = 1..)]
    pub models: Vec<PathBuf>,
    /// No notes on stderr.
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
