//! The window from a table by batch size, as vLLM (`num_speculative_tokens_per_batch_size`) and
//! TensorRT-LLM (`draft_len_schedule`) have it.

use std::collections::VecDeque;

use super::{Ask, PassReport, Plan, Policy};
use crate::chain::ChainPlan;
use crate::ids::ModelId;

/// Speculation is turned off for good when the rolling mean of accepted / drafted falls below a
/// threshold (TensorRT-LLM's `acceptance_rate_threshold`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disable {
    /// The threshold.
    pub below: f64,
    /// Verifications in the rolling mean; nothing is judged before there are as many.
    pub window: usize,
}

/// A plan by batch size.
pub struct BatchTable {
    /// `(most sequences decoding, plan)`, ascending.
    table: Vec<(u32, ChainPlan)>,
    otherwise: ChainPlan,
    target: ModelId,
    disable: Option<Disable>,
    /// `(drafted, accepted)` of the newest passes of the target that judged a draft.
    recent: VecDeque<(u64, u64, u64)>,
    disabled: bool,
}

impl BatchTable {
    /// The first row whose bound is not below the number of sequences decoding decides; past the
    /// last row, plain decoding by `target`. `table` ascends by bound.
    pub fn new(table: Vec<(u32, ChainPlan)>, target: ModelId, disable: Option<Disable>) -> Self {
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
        while self.recent.len() > 1 && verifications - self.recent[0].0 >= disable.window as u64 {
            verifications -= self.recent.pop_front().map_or(0, |r| r.0);
        }
        if verifications >= disable.window as u64 {
            let (drafted, accepted) = self.recent.iter().fold((0, 0), |(d, a), r| (d + r.1, a + r.2));
            self.disabled |= (accepted as f64) < disable.below * drafted as f64;
        }
    }
}
