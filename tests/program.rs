//! Runs the built program in a folder of its own.

use std::path::Path;
use std::process::{Command, Output};

/// A scenario that runs; the broken ones are edits of it.
pub const SCENARIO: &str = "\
# A pool of three.
seed: 7
pool: [llama-68m, llama-3.2-1b, llama-3.1-8b]
hardware: h100-sxm
replicas: 2
workload:
  requests: 40
  arrivals: {gamma: {rate_per_s: 12, cv: 1.5}}
  classes:
    - {name: chat, weight: 0.6, prompt_tokens: {lognormal: {median: 400, sigma: 0.9}}, output_tokens: {lognormal: {median: 50, sigma: 0.8}}}
    - {name: code, weight: 0.4, prompt_tokens: {constant: 300}, output_tokens: {constant: 20}}
acceptance:
  heterogeneous:
    matrix:
      all:
        llama-68m: {llama-3.2-1b: 0.6, llama-3.1-8b: 0.5}
        llama-3.2-1b: {llama-3.1-8b: 0.75}
slo: {ttft_ms: 500, tpot_ms: 30}
policies:
  - target_only
  - static: {chain: [llama-68m, llama-3.1-8b], windows: [4]}
seeds: 2
output: {tables: summary}
";

/// A folder of files, and the program in it.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn with(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    /// Runs `specrouter` with these arguments, from inside the folder.
    pub fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_specrouter")).args(args).current_dir(self.0.path()).output().unwrap()
    }

    /// Its stdout where it must succeed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let result = self.run(args);
        assert!(result.status.success(), "{args:?}: {}", String::from_utf8_lossy(&result.stderr));
        String::from_utf8(result.stdout).unwrap()
    }
}

/// [`SCENARIO`] with the one occurrence of `from` replaced by `to`.
#[track_caller]
pub fn edited(from: &str, to: &str) -> String {
    assert_eq!(SCENARIO.matches(from).count(), 1, "`{from}` stands in the scenario once");
    SCENARIO.replace(from, to)
}
