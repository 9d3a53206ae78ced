//! What was typed, and what it means.

use std::path::PathBuf;

use crate::error::{Result, TrainError};

/// Shown beside every error of the command line.
pub const USAGE: &str = "usage: train RECIPE COMMAND --work DIR [options]

commands
  tokenizer       train the byte-level BPE tokenizer on an even mix of the domains
  data            tokenise the corpora into DIR
  train NAME      train one model on plain cross-entropy; goes on from its checkpoint
  distill NAME    train a student of the largest model; `distill all` trains every student at once
  eval            held-out loss, agreement, similarity and samples, as Markdown on stdout
  export          write each trained model beside the recipe as a Hugging Face folder
  bench NAME      time a few steps of a fresh model by part; writes nothing
  selftest        gradients against finite differences and plain autograd, a tiny overfit

options
  --work DIR      tokens, checkpoints and losses.csv
  --corpora DIR   the corpora, instead of the recipe's
  --minutes N     stop at a checkpoint after N minutes
  --steps N       steps of `bench` (default 5)
  --threads N     workers on the processor (default: all cores)
  --device D      cpu (default) or cuda:N";

/// One run of the trainer.
#[derive(Debug, Clone)]
pub struct Arguments {
    /// The recipe file.
    pub recipe: PathBuf,
    /// What to do.
    pub command: Command,
    /// The work folder.
    pub work: PathBuf,
    /// Overrides the recipe's corpora.
    pub corpora: Option<PathBuf>,
    /// Minutes until a clean stop.
    pub minutes: Option<f64>,
    /// Steps of `bench`.
    pub steps: usize,
    /// Workers, at least 1.
    pub threads: usize,
    /// `None` is the processor, `Some(n)` the n-th CUDA device.
    pub cuda: Option<usize>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Train the tokenizer.
    Tokenizer,
    /// Tokenise the corpora.
    Data,
    /// Train one model.
    Train(String),
    /// Distil one student, or all of them (`all`).
    Distill(String),
    /// Measure what was trained.
    Eval,
    /// Write the shipped folders.
    Export,
    /// Time a step.
    Bench(String),
    /// Check the gradients.
    Selftest,
}

impl Arguments {
    /// Reads the words after the program's name.
    ///
    /// # Errors
    /// [`TrainError::Usage`] naming the word and what was expected.
    pub fn read(words: impl Iterator<Item = String>) -> Result<Self> {
        let usage = |text: String| TrainError::Usage(text);
        let (mut plain, mut work, mut corpora, mut minutes) = (Vec::new(), None, None, None);
        let (mut steps, mut cuda) = (5, None);
        let mut threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut words = words;
        while let Some(word) = words.next() {
            if !word.starts_with("--") {
                plain.push(word);
                continue;
            }
            let value =
                words.next().ok_or_else(|| usage(format!("{word}: expected a value, got nothing")))?;
            let number = |expected: &str| usage(format!("{word}: expected {expected}, got {value:?}"));
            match word.as_str() {
                "--work" => work = Some(PathBuf::from(&value)),
                "--corpora" => corpora = Some(PathBuf::from(&value)),
                "--minutes" => {
                    let parsed = value.parse().ok().filter(|m: &f64| m.is_finite() && *m > 0.0);
                    minutes = Some(parsed.ok_or_else(|| number("a positive number"))?);
                }
                "--steps" => {
                    steps = value.parse().ok().filter(|&n| n > 0).ok_or_else(|| number("a count above 0"))?;
                }
                "--threads" => {
                    let parsed = value.parse().ok().filter(|n| (1..=256).contains(n));
                    threads = parsed.ok_or_else(|| number("a count in 1..=256"))?;
                }
                "--device" => {
                    cuda = match (value.as_str(), value.strip_prefix("cuda:").map(str::parse)) {
                        ("cpu", _) => None,
                        (_, Some(Ok(n))) => Some(n),
                        _ => return Err(number("cpu or cuda:N")),
                    }
                }
                _ => return Err(usage(format!("{word}: no such option"))),
            }
        }
        let mut plain = plain.into_iter();
        let recipe = plain.next().ok_or_else(|| usage("expected a recipe file, got nothing".into()))?;
        let verb = plain.next().ok_or_else(|| usage("expected a command, got nothing".into()))?;
        let mut name = || {
            let missing = || usage(format!("{verb}: expected a model's name, got nothing"));
            plain.next().ok_or_else(missing)
        };
        let command = match verb.as_str() {
            "tokenizer" => Command::Tokenizer,
            "data" => Command::Data,
            "train" => Command::Train(name()?),
            "distill" => Command::Distill(name()?),
            "eval" => Command::Eval,
            "export" => Command::Export,
            "bench" => Command::Bench(name()?),
            "selftest" => Command::Selftest,
            _ => return Err(usage(format!("{verb:?}: no such command"))),
        };
        if let Some(extra) = plain.next() {
            return Err(usage(format!("{extra:?}: expected nothing more")));
        }
        let work = work.ok_or_else(|| usage("--work: expected a folder, got nothing".into()))?;
        Ok(Self { recipe: recipe.into(), command, work, corpora, minutes, steps, threads, cuda })
    }
}
