//! Who waits for what: requests for admission, rows for models.

use std::collections::{BTreeMap, VecDeque};

use crate::backend::Cohort;
use crate::chain::{ChainPlan, MAX_BLOCK, MAX_LEVELS};
use crate::ids::{RequestId, Slot};
use crate::request::Request;

/// Requests that wait for admission: first come, first served within a priority.
#[derive(Default)]
pub(super) struct Waiting {
    /// By priority, highest first. Without priorities all stand under 0.
    lines: BTreeMap<std::cmp::Reverse<u8>, VecDeque<Request>>,
    /// Preempted sequences, oldest request first: they go before everybody.
    resumable: BTreeMap<RequestId, Slot>,
    len: u32,
}

impl Waiting {
    pub fn push(&mut self, request: Request, by_priority: bool) {
        let line = if by_priority { request.priority } else { 0 };
        self.lines.entry(std::cmp::Reverse(line)).or_default().push_back(request);
        self.len += 1;
    }

    pub fn front(&self) -> Option<&Request> {
        self.lines.values().find_map(VecDeque::front)
    }

    pub fn pop(&mut self) -> Option<Request> {
        let request = self.lines.values_mut().find_map(VecDeque::pop_front)?;
        self.len -= 1;
        Some(request)
    }

    pub fn push_resumable(&mut self, request: RequestId, slot: Slot) {
        self.resumable.insert(request, slot);
        self.len += 1;
    }

    pub fn resumable(&self) -> Option<Slot> {
        self.resumable.first_key_value().map(|(_, &slot)| slot)
    }

    pub fn pop_resumable(&mut self) {
        if self.resumable.pop_first().is_some() {
            self.len -= 1;
        }
    }

    pub const fn len(&self) -> u32 {
        self.len
    }

    pub fn requests(&self) -> impl Iterator<Item = &Request> {
        self.lines.values().flatten()
    }
}

/// A row that waits: ordered by request.
pub(super) type Waiter = (RequestId, Slot);

/// Rows that wait for one model.
#[derive(Clone, Default)]
pub(super) struct Queue {
    /// Draft rows in mid-fill.
    pub cohorts: Vec<Cohort>,
    /// Draft rows that begin (or resume) a fill.
    pub entering: Vec<Waiter>,
    /// Verifications and plain decodes.
    pub verifying: Vec<Waiter>,
    /// Prompts; the target only.
    pub prefilling: Vec<Waiter>,
    /// Catch-up whose similarity somebody wants.
    pub probing: Vec<Waiter>,
    /// Tick since which the oldest row (prefill and probes aside) has waited.
    pub since: u64,
    /// Tick since which the oldest prefill row has waited.
    pub prefill_since: u64,
    /// Tick since which the oldest probe has waited.
    pub probe_since: u64,
}

impl Queue {
    /// No row waits, a probe aside.
    pub fn is_idle(&self) -> bool {
        self.cohorts.is_empty() && self.entering.is_empty() && self.verifying.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.is_idle() && self.prefilling.is_empty() && self.probing.is_empty()
    }

    pub fn push_entering(&mut self, request: RequestId, slot: Slot, tick: u64) {
        if self.is_idle() {
            self.since = tick;
        }
        self.entering.push((request, slot));
    }

    pub fn push_verifying(&mut self, request: RequestId, slot: Slot, tick: u64) {
        if self.is_idle() {
            self.since = tick;
        }
        self.verifying.push((request, slot));
    }

    pub fn push_cohort(&mut self, cohort: Cohort, tick: u64) {
        if self.is_idle() {
            self.since = tick;
        }
        self.cohorts.push(cohort);
    }

    pub fn push_prefilling(&mut self, request: RequestId, slot: Slot, tick: u64) {
        if self.prefilling.is_empty() {
            self.prefill_since = tick;
        }
        self.prefilling.push((request, slot));
    }

    pub fn push_probing(&mut self, request: RequestId, slot: Slot, tick: u64) {
        if self.probing.is_empty() {
            self.probe_since = tick;
        }
        self.probing.push((request, slot));
    }

    /// Takes a row out, wherever it waits; `before` known tokens stand before what it drafts.
    /// Answers the tokens it had drafted if it was in a cohort.
    pub fn remove(&mut self, slot: Slot, before: u32) -> Option<u8> {
        for list in [&mut self.entering, &mut self.verifying, &mut self.prefilling] {
            if let Some(at) = list.iter().position(|&(_, s)| s == slot) {
                list.remove(at);
                return None;
            }
        }
        for index in 0..self.cohorts.len() {
            if let Some(at) = self.cohorts[index].slots.iter().position(|&s| s == slot) {
                let drafted = self.cohorts[index].drafted;
                self.cohorts[index].slots.remove(at);
                self.cohorts[index].context_tokens -= u64::from(before + u32::from(drafted) - 1);
                if self.cohorts[index].slots.is_empty() {
                    self.cohorts.remove(index);
                }
                return Some(drafted);
            }
        }
        None
    }

    pub fn remove_probe(&mut self, slot: Slot) {
        self.probing.retain(|&(_, s)| s != slot);
    }
}

/// Puts rows into order of request; they mostly are.
pub(super) fn in_order(rows: &mut [Waiter]) {
    if !rows.is_sorted() {
        rows.sort_unstable();
    }
}

/// Σ windows + depth of the longest running chain, kept as counts so that the longest is known
/// when chains come and go.
#[derive(Clone, Debug)]
pub(super) struct HoldCounts {
    counts: [u32; MAX_BLOCK as usize + MAX_LEVELS + 1],
    present: u64,
}

impl Default for HoldCounts {
    fn default() -> Self {
        Self { counts: [0; MAX_BLOCK as usize + MAX_LEVELS + 1], present: 0 }
    }
}

impl HoldCounts {
    #[inline]
    fn length(plan: &ChainPlan) -> usize {
        plan.block() as usize + plan.depth()
    }

    #[inline]
    pub fn add(&mut self, plan: &ChainPlan) {
        let length = Self::length(plan);
        self.counts[length] += 1;
        self.present |= 1 << length;
    }

    #[inline]
    pub fn remove(&mut self, plan: &ChainPlan) {
        let length = Self::length(plan);
        self.counts[length] -= 1;
        if self.counts[length] == 0 {
            self.present &= !(1 << length);
        }
    }

    /// The longest; 1 when none runs.
    #[inline]
    pub const fn longest(&self) -> u32 {
        63 - (self.present | 2).leading_zeros()
    }
}
