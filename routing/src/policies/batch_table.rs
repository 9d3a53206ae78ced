//! The window from a table by batch size, as vLLM (`num_speculative_tokens_per_batch_size`) and
//! TensorRT-LLM (`draft_len_schedule`) have it.

use std::collections::VecDeque;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::recipe::{Builder, PolicyEntry, PolicyError, Recipe};
use crate::chain::ChainPlan;
use crate::ids::ModelId;
use crate::policy::{Ask, PassReport, Plan, Policy};
use crate::units::Probability;

/// Parameters of `batch_table`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchTableConfig {
    /// Models of the chain, cheapest first, ending in the target.
    pub chain: Vec<String>,
    /// Rows by ascending batch size; past the last, plain decoding.
    pub table: Vec<BatchRow>,
    /// Turns speculation off for good when acceptance is low.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable: Option<DisableConfig>,
}

/// One row of a batch table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchRow {
    /// Most sequences decoding at once for this row to hold.
    pub up_to: u32,
    /// The windows of the chain.
    pub windows: Vec<u32>,
}

/// Turns speculation off for good when the rolling mean of accepted / drafted is low (TensorRT-LLM's
/// `acceptance_rate_threshold`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DisableConfig {
    /// Off when the mean falls below this.
    pub below: Probability,
    /// Verifications in the rolling mean; nothing is judged before there are as many.
    pub verifications: u32,
}

impl Recipe for BatchTableConfig {
    const ENTRY: PolicyEntry = PolicyEntry {
        name: "batch_table",
        summary: "windows by batch size, plain decoding past the table",
        source: "vLLM num_speculative_tokens_per_batch_size, TensorRT-LLM draft_len_schedule",
        parameters: &[
            ("chain", "required", "models, cheapest first, ending in the target"),
            ("table", "required", "rows {up_to, windows} by ascending batch size"),
            ("disable", "none", "{below, verifications}: off for good when accepted / drafted falls below"),
        ],
        example: r#"{"batch_table": {"chain": ["small", "large"], "table": [{"up_to": 8, "windows": [4]}, {"up_to": 64, "windows": [1]}]}}"#,
    };

    fn label(&self) -> String {
        self.chain.join(">")
    }

    fn build(&self, pool: &Builder<'_>) -> Result<Box<dyn Policy>, PolicyError> {
        let rows = self
            .table
            .iter()
            .map(|row| Ok((row.up_to, pool.chain("chain", &self.chain, "table", &row.windows)?)));
        let table = rows.collect::<Result<Vec<_>, PolicyError>>()?;
        if !table.is_sorted_by(|a, b| a.0 < b.0) || table.is_empty() {
            let got = format!("{:?}", table.iter().map(|row| row.0).collect::<Vec<_>>());
            return Err(pool.refuse("table", "rows of ascending up_to, at least one", got));
        }
        if let Some(disable) = self.disable {
            pool.at_least_one("disable.verifications", disable.verifications)?;
        }
        Ok(Box::new(BatchTable::new(table, pool.target(), self.disable)))
    }
}

/// A plan by batch size.
struct BatchTable {
    /// `(most sequences decoding, plan)`, ascending.
    table: Vec<(u32, ChainPlan)>,
    otherwise: ChainPlan,
    target: ModelId,
    disable: Option<DisableConfig>,
    /// `(drafted, accepted)` of the newest passes of the target that judged a draft.
    recent: VecDeque<(u64, u64, u64)>,
    disabled: bool,
}

impl BatchTable {
    /// The first row whose bound is not below the number of sequences decoding decides; past the
    /// last row, plain decoding by `target`. `table` ascends by bound.
    fn new(table: Vec<(u32, ChainPlan)>, target: ModelId, disable: Option<DisableConfig>) -> Self {
        debug_assert!(table.is_sorted_by_key(|row| row.0));
        Self {
            table,
            otherwise: ChainPlan::target_only(target),
            target,
            disable,
            recent: VecDeque::new(),
            disabled: false,
        }
    }
}

impl Policy for BatchTable {
    fn name(&self) -> &str {
        "batch_table"
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        let row = self.table.iter().find(|(most, _)| ask.decoding <= *most).filter(|_| !self.disabled);
        plan.set_all(row.map_or(self.otherwise, |&(_, chain)| chain));
    }

    fn learn(&mut self, report: &PassReport<'_>) {
        let Some(disable) = self.disable else { return };
        for pair in
            report.pairs.iter().filter(|pair| pair.verifier == self.target && pair.seen.verifications > 0)
        {
            self.recent.push_back((pair.seen.verifications, pair.seen.drafted, pair.seen.accepted));
        }
        let mut verifications: u64 = self.recent.iter().map(|r| r.0).sum();
        while self.recent.len() > 1 && verifications - self.recent[0].0 >= u64::from(disable.verifications) {
            verifications -= self.recent.pop_front().map_or(0, |r| r.0);
        }
        if verifications >= u64::from(disable.verifications) {
            let (drafted, accepted) = self.recent.iter().fold((0, 0), |(d, a), r| (d + r.1, a + r.2));
            self.disabled |= (accepted as f64) < disable.below.get() * drafted as f64;
        }
    }
}
