//! The goodput probe: try every plan for a while, measure tokens per second, keep the fastest, and
//! measure again from time to time and at every new load.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::arms::{ARMS, ArmConfig, plans};
use super::recipe::{Builder, PolicyEntry, PolicyError, Recipe};
use crate::chain::ChainPlan;
use crate::ids::ModelId;
use crate::policy::{Ask, Needs, PassReport, Plan, Policy};

/// Parameters of `probe`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProbeConfig {
    /// Plans to choose among; none stands for the usual ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arms: Vec<ArmConfig>,
    /// Rounds for which an arm is measured.
    pub probe_rounds: u32,
    /// Rounds for which the fastest is kept.
    pub hold_rounds: u32,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self { arms: Vec::new(), probe_rounds: 16, hold_rounds: 1000 }
    }
}

impl Recipe for ProbeConfig {
    const ENTRY: PolicyEntry = PolicyEntry {
        name: "probe",
        summary: "measures the tokens per second of every arm, keeps the fastest, measures again from time to time and at every new batch size",
        source: "goodput probe, vLLM PR 26504 (comment)",
        parameters: &[
            ARMS,
            ("probe_rounds", "16", "rounds for which an arm is measured"),
            ("hold_rounds", "1000", "rounds for which the fastest is kept"),
        ],
        example: r#"{"probe": {"hold_rounds": 200}}"#,
    };

    fn build(&self, pool: &Builder<'_>) -> Result<Box<dyn Policy>, PolicyError> {
        Ok(Box::new(Probe {
            arms: plans(pool, &self.arms)?,
            target: pool.target(),
            probe_rounds: f64::from(pool.at_least_one("probe_rounds", self.probe_rounds)?),
            hold_rounds: f64::from(pool.at_least_one("hold_rounds", self.hold_rounds)?),
            bucket: 0,
            buckets: Vec::new(),
            rows: 1,
            running: None,
            settled: 0.0,
        }))
    }
}

/// Rounds of an arm that do not count after a change of arms: what began under the last arm ends,
/// and models that join catch up.
const SETTLE_ROUNDS: f64 = 1.0;

/// What an arm has brought.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    rounds: f64,
    tokens: f64,
    seconds: f64,
}

impl Measured {
    fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.tokens / self.seconds } else { 0.0 }
    }
}

/// What is known at one size of batch: arms are measured one after another, then the fastest is
/// kept, and so on.
#[derive(Clone, Debug)]
struct Bucket {
    measured: Vec<Measured>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Measuring { arm: usize },
    Keeping { arm: usize, rounds: f64 },
}

impl Bucket {
    fn new(arms: usize) -> Self {
        Self { measured: vec![Measured::default(); arms], stage: Stage::Measuring { arm: 0 } }
    }

    /// The arm to run.
    fn arm(&self) -> usize {
        match self.stage {
            Stage::Measuring { arm } | Stage::Keeping { arm, .. } => arm,
        }
    }

    /// Counts what came of the arm that runs, and moves on when it has had its rounds.
    fn count(&mut self, new: Measured, probe_rounds: f64, hold_rounds: f64) {
        match &mut self.stage {
            Stage::Measuring { arm } => {
                let Some(sum) = self.measured.get_mut(*arm) else { return };
                sum.rounds += new.rounds;
                sum.tokens += new.tokens;
                sum.seconds += new.seconds;
                // A pass that ends no round only adds its time.
                if new.rounds > 0.0 && sum.rounds >= probe_rounds {
                    *arm += 1;
                }
                if *arm == self.measured.len() {
                    self.stage = Stage::Keeping { arm: self.fastest(), rounds: 0.0 };
                }
            }
            Stage::Keeping { rounds, .. } => {
                *rounds += new.rounds;
                if *rounds >= hold_rounds {
                    *self = Self::new(self.measured.len());
                }
            }
        }
    }

    /// The arm with the most tokens per second; the first of equals.
    fn fastest(&self) -> usize {
        let (mut best, mut rate) = (0, f64::NEG_INFINITY);
        for (arm, measured) in self.measured.iter().enumerate() {
            if measured.rate() > rate {
                (best, rate) = (arm, measured.rate());
            }
        }
        best
    }
}

/// A size of batch: 1, 2, 3-4, 5-8, 9-16, …
fn bucket(rows: u32) -> u32 {
    u32::BITS - rows.max(1).saturating_sub(1).leading_zeros()
}

/// The bucket of `rows`, but the `present` one while they are within a quarter of it: a batch that
/// goes up and down by one at a border does not change arms with every request.
fn settled(rows: u32, present: u32) -> u32 {
    let now = bucket(rows);
    let (fewer, more) = (rows - rows / 4, rows.saturating_add(rows / 4));
    if (bucket(fewer)..=bucket(more)).contains(&present) { present } else { now }
}

/// Measures and keeps.
///
/// Time is the time of passes, so that waiting for requests counts against nobody; prompts that ride
/// along are in it. A round of the batch is as many rounds of sequences as decode, whether they end
/// in one pass or in several. What was measured at one size of batch is kept for when it is back.
struct Probe {
    arms: Vec<ChainPlan>,
    target: ModelId,
    probe_rounds: f64,
    hold_rounds: f64,
    bucket: u32,
    buckets: Vec<Bucket>,
    /// Sequences that decode.
    rows: u32,
    /// The arm that runs, and its rounds so far, up to [`SETTLE_ROUNDS`].
    running: Option<usize>,
    settled: f64,
}

impl Policy for Probe {
    fn name(&self) -> &str {
        ProbeConfig::ENTRY.name
    }

    fn needs(&self) -> Needs {
        Needs { costs: true, ..Needs::default() }
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        self.rows = ask.decoding.max(1);
        self.bucket = settled(self.rows, self.bucket);
        let (index, arms) = (self.bucket as usize, self.arms.len());
        if index >= self.buckets.len() {
            self.buckets.resize_with(index + 1, || Bucket::new(arms));
        }
        let arm = self.buckets[index].arm();
        if self.running != Some(arm) {
            (self.running, self.settled) = (Some(arm), 0.0);
        }
        plan.set_all(self.arms[arm]);
    }

    fn learn(&mut self, report: &PassReport<'_>) {
        let Some(bucket) = self.buckets.get_mut(self.bucket as usize) else { return };
        let ends = report.model == self.target && report.rounds > 0;
        let rounds = if ends { f64::from(report.rounds) / f64::from(self.rows) } else { 0.0 };
        if self.settled < SETTLE_ROUNDS {
            self.settled += rounds;
            return;
        }
        if self.running != Some(bucket.arm()) {
            return; // Its time has come, but nobody has started a round under it.
        }
        let (tokens, seconds) = (f64::from(report.committed), report.duration.seconds());
        bucket.count(Measured { rounds, tokens, seconds }, self.probe_rounds, self.hold_rounds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_come_in_powers_of_two_and_borders_are_sticky() {
        assert_eq!([0, 1, 2, 3, 4, 5, 8, 9, 200].map(bucket), [0, 0, 1, 2, 2, 3, 3, 4, 8]);
        assert_eq!([17, 20].map(|rows| settled(rows, bucket(16))), [4, 4], "an eighth, a quarter more");
        assert_eq!(settled(22, bucket(16)), 5);
        assert_eq!([15, 14].map(|rows| settled(rows, bucket(17))), [5, 5]);
        assert_eq!(settled(13, bucket(17)), 4);
        assert_eq!([1, 2, 3, 200].map(|rows| settled(rows, 0)), [0, 1, 2, 8]);
        assert_eq!(settled(u32::MAX, 32), 32);
    }

    #[test]
    fn a_bucket_measures_each_arm_keeps_the_fastest_and_starts_over() {
        let mut bucket = Bucket::new(3);
        let mut arms = Vec::new();
        for _ in 0..14 {
            arms.push(bucket.arm());
            let tokens = [1.0, 3.0, 2.0][bucket.arm()];
            // A draft pass and a verification.
            bucket.count(Measured { rounds: 0.0, tokens: 0.0, seconds: 0.2 }, 2.0, 4.0);
            bucket.count(Measured { rounds: 1.0, tokens, seconds: 1.0 }, 2.0, 4.0);
        }
        assert_eq!(arms, [0, 0, 1, 1, 2, 2, 1, 1, 1, 1, 0, 0, 1, 1]);
    }

    #[test]
    fn passes_that_take_no_time_measure_nothing() {
        let mut bucket = Bucket::new(2);
        for _ in 0..2 {
            bucket.count(Measured { rounds: 1.0, tokens: 1.0, seconds: 0.0 }, 1.0, 4.0);
        }
        assert!(matches!(bucket.stage, Stage::Keeping { arm: 0, .. }));
    }
}
