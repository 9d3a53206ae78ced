//! The window by batch size from an offline table of latencies, as vLLM's dynamic speculative
//! decoding builds it from a profile and acceptance rates.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::arms::with_draft;
use super::recipe::{Builder, PolicyEntry, PolicyError, Recipe};
use crate::ids::ModelId;
use crate::policy::{Ask, Plan, Planned, Policy};
use crate::profile::{PassCosts, PassShape};
use crate::record::Prediction;
use crate::units::{Positive, Probability};

/// Parameters of `latency_table`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LatencyTableConfig {
    /// The draft model.
    pub draft: String,
    /// Longest draft considered, in tokens; less where `rates` or `itl_ms` end before.
    #[serde(default = "eight")]
    pub max_window: u32,
    /// Chance that drafted position 1, 2, … is accepted, all before it included: measured offline,
    /// so never rising. Left out: 0.7, 0.7², 0.7³, …
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rates: Vec<Probability>,
    /// Milliseconds of a round, by batch size and draft length, batches ascending. Left out: the
    /// profile's, as believed when the first sequence starts, for batches of 1, 2, 4, … and the
    /// scenario's most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub itl_ms: Vec<LatencyRow>,
    /// Tokens of context at which the profile is asked.
    #[serde(default = "one_thousand")]
    pub context_tokens: u32,
}

/// One row of an offline latency table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LatencyRow {
    /// Sequences decoding at once.
    pub batch: u32,
    /// Milliseconds of a round that drafts 0, 1, 2, … tokens; null for a length that was not measured,
    /// which is not chosen from this row or between it and another.
    pub ms: Vec<Option<Positive>>,
}

const fn eight() -> u32 {
    8
}

const fn one_thousand() -> u32 {
    1000
}

impl Recipe for LatencyTableConfig {
    const ENTRY: PolicyEntry = PolicyEntry {
        name: "latency_table",
        summary: "draft length by batch size, from a table of latencies and acceptance rates made beforehand; knows load, does not see text",
        source: "vLLM DynamicSpeculativeDecodingManager",
        parameters: &[
            ("draft", "required", "the draft model"),
            ("max_window", "8", "longest draft in tokens"),
            ("rates", "powers of 0.7", "chance that drafted position 1, 2, … is accepted, never rising"),
            (
                "itl_ms",
                "from the profile",
                "rows {batch, ms}: milliseconds of a round that drafts 0, 1, 2, … tokens",
            ),
            ("context_tokens", "1000", "tokens of context at which the profile is asked"),
        ],
        example: r#"{"latency_table": {"draft": "small", "rates": [0.76, 0.54, 0.39, 0.28, 0.21]}}"#,
    };

    fn label(&self) -> String {
        self.draft.clone()
    }

    fn build(&self, pool: &Builder<'_>) -> Result<Box<dyn Policy>, PolicyError> {
        let draft = pool.draft("draft", &self.draft)?;
        let mut longest = pool.window("max_window", self.max_window)?;
        let mut rates: Vec<f64> = self.rates.iter().map(|rate| rate.get()).collect();
        if !rates.is_sorted_by(|a, b| a >= b) {
            return Err(pool.refuse("rates", "chances that never rise", format!("{rates:?}")));
        }
        if rates.is_empty() {
            rates = (0..longest).scan(1.0, |rate, _| Some(next_power(rate))).collect();
        }
        longest = longest.min(rates.len() as u32);
        for row in &self.itl_ms {
            if !matches!(row.ms.first(), Some(Some(_))) {
                let got = format!("a row of batch {} without", row.batch);
                return Err(pool.refuse("itl_ms", "rows that begin with the latency of no draft", got));
            }
            longest = longest.min(row.ms.len() as u32 - 1);
        }
        if !self.itl_ms.is_sorted_by(|a, b| a.batch < b.batch) {
            let got = format!("{:?}", self.itl_ms.iter().map(|row| row.batch).collect::<Vec<_>>());
            return Err(pool.refuse("itl_ms", "rows of ascending batch", got));
        }
        let seconds = |row: &LatencyRow| {
            row.ms.iter().map(|ms| ms.map_or(f64::INFINITY, |ms| ms.get() * 1e-3)).collect()
        };
        let rows = self.itl_ms.iter().map(|row| (row.batch, seconds(row))).collect();
        Ok(Box::new(LatencyTable {
            draft,
            target: pool.target(),
            context: u64::from(self.context_tokens),
            table: Latencies { longest, rates, rows },
            decided: None,
        }))
    }
}

fn next_power(rate: &mut f64) -> f64 {
    *rate *= 0.7;
    *rate
}

/// Seconds of a round by batch size and draft length, and what drafts are worth.
#[derive(Default)]
struct Latencies {
    longest: u32,
    /// Position i's chance, at `i − 1`.
    rates: Vec<f64>,
    /// `(batch, seconds by length)`, ascending; what was not measured never ends.
    rows: Vec<(u32, Vec<f64>)>,
}

impl Latencies {
    /// Seconds of a round of `batch` sequences that draft `k` each: straight between the rows around
    /// it, past the first and last row that row's.
    fn seconds(&self, batch: u32, k: u32) -> f64 {
        let at = |row: &(u32, Vec<f64>)| row.1.get(k as usize).copied().unwrap_or(f64::INFINITY);
        let above = self.rows.partition_point(|row| row.0 < batch);
        match (above.checked_sub(1).and_then(|below| self.rows.get(below)), self.rows.get(above)) {
            (Some(low), Some(high)) if high.0 > batch => {
                let share = f64::from(batch - low.0) / f64::from(high.0 - low.0);
                at(low) * (1.0 - share) + at(high) * share
            }
            (_, Some(one)) | (Some(one), None) => at(one),
            (None, None) => f64::INFINITY,
        }
    }

    /// Tokens of a round that drafts `k`: `AL_k = 1 + Σ_{i<=k} r_i`.
    fn tokens(&self, k: u32) -> f64 {
        1.0 + self.rates.iter().take(k as usize).sum::<f64>()
    }

    /// `k*(b) = argmax_k AL_k / ITL[b][k]`; the shortest of equals.
    fn best(&self, batch: u32) -> u32 {
        let (mut best, mut rate) = (0, self.tokens(0) / self.seconds(batch, 0));
        for k in 1..=self.longest {
            let this = self.tokens(k) / self.seconds(batch, k);
            if this > rate {
                (best, rate) = (k, this);
            }
        }
        best
    }

    /// Fills an empty table from a belief about pass times: the drafts one after another, then the
    /// verification of all.
    fn profile(&mut self, most: u32, draft: impl Fn(u32) -> f64, verify: impl Fn(u32, u32) -> f64) {
        let powers = (0..32).map(|power| 1u32 << power).take_while(|&batch| batch < most);
        for batch in powers.chain([most]) {
            let of = |k: u32| f64::from(k) * draft(batch) + verify(batch, k + 1);
            self.rows.push((batch, (0..=self.longest).map(of).collect()));
        }
    }
}

/// What the table says, whatever the text does: nothing is learned.
///
/// The table is made once, at the first question, from pass times as they are believed then; later
/// corrections do not reach it, as a profile made offline is not reached by what a server sees.
struct LatencyTable {
    draft: ModelId,
    target: ModelId,
    context: u64,
    table: Latencies,
    /// The answer for a batch size.
    decided: Option<(u32, Planned)>,
}

impl LatencyTable {
    fn decide(&self, rows: u32) -> Planned {
        let window = self.table.best(rows);
        let chain = with_draft(self.draft, self.target, window);
        let predicted = Prediction {
            round_seconds: self.table.seconds(rows, window) as f32,
            tokens: self.table.tokens(window) as f32,
            propensity: 1.0,
        };
        Planned { chain, predicted: Some(predicted) }
    }
}

impl Policy for LatencyTable {
    fn name(&self) -> &str {
        LatencyTableConfig::ENTRY.name
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        if self.table.rows.is_empty() {
            let (costs, context) = (ask.costs, self.context);
            self.table.profile(
                ask.limits.max_running,
                |rows| costs.seconds(self.draft, &PassShape::uniform(rows, 1, context)),
                |rows, new| costs.seconds(self.target, &PassShape::uniform(rows, new, context)),
            );
        }
        let rows = ask.decoding.max(1);
        let planned = match self.decided {
            Some((known, planned)) if known == rows => planned,
            _ => self.decide(rows),
        };
        self.decided = Some((rows, planned));
        plan.set_all(planned);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::luck::{Luck, Stream};
    use crate::policies::PolicyPool;
    use crate::policy::price::Candidates;

    const EAGLE_1: [f64; 7] = [0.68, 0.39, 0.20, 0.10, 0.06, 0.03, 0.02];
    const EAGLE_3: [f64; 7] = [0.76, 0.54, 0.39, 0.28, 0.21, 0.15, 0.12];

    /// vLLM's own measurements (algorithms.md, 4); it did not measure drafts of 2 and 6.
    fn measured(rates: &[f64]) -> Latencies {
        let row = |batch, [k0, k1, k3, k4, k5, k7]: [f64; 6]| {
            (batch, vec![k0, k1, f64::INFINITY, k3, k4, k5, f64::INFINITY, k7])
        };
        let rows = vec![
            row(1, [6.87, 7.97, 9.41, 9.91, 10.8, 12.29]),
            row(4, [6.87, 7.97, 9.41, 9.91, 10.8, 12.29]),
            row(16, [7.3, 8.39, 9.95, 10.8, 11.59, 13.11]),
            row(32, [7.64, 8.97, 10.78, 11.79, 12.81, 14.86]),
            row(64, [8.53, 10.44, 13.16, 15.7, 17.54, 120.57]),
        ];
        Latencies { longest: 7, rates: rates.to_vec(), rows }
    }

    #[test]
    fn golden_12_vllm_table() {
        let table = measured(&EAGLE_1);
        for (batch, speedup) in [(1, 1.66), (4, 1.66), (16, 1.66), (32, 1.61), (64, 1.47)] {
            assert_eq!(table.best(batch), 3, "batch {batch}");
            let got = table.tokens(3) * table.seconds(batch, 0) / table.seconds(batch, 3);
            assert!((got - speedup).abs() < 0.0055, "batch {batch}: {got}");
        }
        // The better draft goes one further, but not where the fourth token is dear.
        let better = [1, 4, 16, 32, 64].map(|batch| measured(&EAGLE_3).best(batch));
        assert_eq!(better, [4, 4, 4, 4, 3]);
    }

    #[test]
    fn batches_between_rows_and_past_them_have_latencies() {
        let table = measured(&EAGLE_1);
        for (batch, k, ms) in [(10, 0, 7.085), (48, 1, 9.705), (0, 0, 6.87), (1000, 7, 120.57)] {
            assert!((table.seconds(batch, k) - ms).abs() < 1e-9, "batch {batch}, draft of {k}");
        }
        assert_eq!(Latencies::default().best(3), 0, "no table, no speculation");
    }

    #[test]
    fn a_profile_is_asked_at_powers_of_two_and_at_the_most() {
        let mut table = Latencies { longest: 2, rates: vec![0.7, 0.49], ..Latencies::default() };
        table.profile(6, |_| 1.0, |batch, new| f64::from(batch * new));
        let rows: Vec<(u32, Vec<f64>)> = vec![
            (1, vec![1.0, 3.0, 5.0]),
            (2, vec![2.0, 5.0, 8.0]),
            (4, vec![4.0, 9.0, 14.0]),
            (6, vec![6.0, 13.0, 20.0]),
        ];
        assert_eq!(table.rows, rows);
        let mut one = Latencies::default();
        one.profile(1, |_| 1.0, |_, _| 1.0);
        assert_eq!(one.rows, [(1, vec![1.0])]);
    }

    #[test]
    fn tables_that_are_none_are_refused() {
        let names = ["small", "large"].map(String::from);
        let draws = Luck::new(1).stream(Stream::Policy);
        let pool =
            PolicyPool { names: &names, classes: &[], candidates: Candidates::all(2), max_block: 32, draws };
        let refused = |line: &str| {
            let config: LatencyTableConfig = serde_json::from_str(line).unwrap();
            config
                .build(&Builder { pool: &pool, policy: "latency_table" })
                .err()
                .map(|error| error.to_string())
        };
        let said = |line: &str| refused(line).unwrap();
        insta::assert_snapshot!(said(r#"{"draft": "small", "rates": [0.5, 0.6]}"#), @"policy latency_table: rates must be chances that never rise, got [0.5, 0.6]");
        insta::assert_snapshot!(said(r#"{"draft": "small", "itl_ms": [{"batch": 1, "ms": []}]}"#), @"policy latency_table: itl_ms must be rows that begin with the latency of no draft, got a row of batch 1 without");
        insta::assert_snapshot!(said(r#"{"draft": "small", "itl_ms": [{"batch": 2, "ms": [1]}, {"batch": 2, "ms": [1]}]}"#), @"policy latency_table: itl_ms must be rows of ascending batch, got [2, 2]");
        assert_eq!(refused(r#"{"draft": "small", "itl_ms": [{"batch": 2, "ms": [1, null, 3]}]}"#), None);
    }

    proptest! {
        #[test]
        fn no_draft_length_beats_the_best(batch in 0u32..100, of in 0u32..8, share in 0.0..=1.0f64) {
            let rates: Vec<f64> = EAGLE_3.iter().map(|rate| rate * share).collect();
            let table = measured(&rates);
            let speed = |k| table.tokens(k) / table.seconds(batch, k);
            prop_assert!(speed(of) <= speed(table.best(batch)));
        }
    }
}
