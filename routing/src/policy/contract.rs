//! What a policy is: it is asked for plans, and it is told what came of passes.

use super::ask::Ask;
use crate::chain::{ChainError, ChainPlan};
use crate::estimate::PairEvidence;
use crate::ids::{ClassId, ModelId, RequestId, Slot};
use crate::profile::PassShape;
use crate::record::Prediction;
use crate::units::{Span, Time};

/// Chooses the chain and the windows of every sequence that starts a round.
///
/// Synchronous and deterministic: luck, if it needs any, is handed to its constructor. It never
/// sees true output lengths, the acceptance source, the simulator's cost function, or verdicts of
/// the round it plans.
pub trait Policy: Send {
    /// Its name in scenarios and reports.
    fn name(&self) -> &str;

    /// What it wants to be told beyond pairs and times; asked once.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Plans every sequence of `ask.starting`. `plan` comes empty.
    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan);

    /// Learns from a pass that has ended; which passes, [`Policy::needs`] says.
    fn learn(&mut self, _report: &PassReport<'_>) {}
}

/// What a policy wants computed for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// [`PassReport::rows`]: verdicts per sequence.
    pub rows: bool,
    /// The ask's [`costs`](Ask::costs) must have learned from every pass, and so must the policy:
    /// otherwise it is told only of passes that judged or committed something.
    pub costs: bool,
}

/// One sequence's plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Planned {
    /// Chain, windows, stop rule.
    pub chain: ChainPlan,
    /// What the policy expects of it, if it says.
    pub predicted: Option<Prediction>,
}

impl From<ChainPlan> for Planned {
    fn from(chain: ChainPlan) -> Self {
        Self { chain, predicted: None }
    }
}

/// A catch-up row of `model` over the last committed positions of a sequence, to refresh the
/// model's similarity to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// One of the starting sequences.
    pub slot: Slot,
    /// The model to look at; not the target, and not in the sequence's chain.
    pub model: ModelId,
}

/// A policy's answer. The buffer is reused from ask to ask.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub(crate) all: Option<Planned>,
    pub(crate) rows: Vec<Planned>,
    pub(crate) probes: Vec<Probe>,
}

impl Plan {
    /// Every starting sequence gets the same plan.
    pub fn set_all(&mut self, planned: impl Into<Planned>) {
        self.all = Some(planned.into());
        self.rows.clear();
    }

    /// The next starting sequence, in order, gets this plan.
    pub fn push(&mut self, planned: impl Into<Planned>) {
        self.rows.push(planned.into());
    }

    /// The `index`-th of `starting` sequences, whose plans are all set, gets this plan instead.
    pub fn replace(&mut self, index: usize, starting: usize, planned: impl Into<Planned>) {
        if let Some(all) = self.all.take() {
            self.rows.resize(starting, all);
        }
        if let Some(row) = self.rows.get_mut(index) {
            *row = planned.into();
        }
    }

    /// Asks for a probe.
    pub fn probe(&mut self, probe: Probe) {
        self.probes.push(probe);
    }

    pub(crate) fn clear(&mut self) {
        self.all = None;
        self.rows.clear();
        self.probes.clear();
    }

    /// The plan of the `index`-th starting sequence.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Planned {
        self.all.unwrap_or_else(|| self.rows[index])
    }
}

/// A bad answer. The policy is at fault, and the error names it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Not one plan for every starting sequence.
    #[error("policy {policy}: {starting} sequences start a round, got plans for {planned}")]
    Count {
        /// The policy's name.
        policy: String,
        /// Sequences asked about.
        starting: usize,
        /// Plans that came.
        planned: usize,
    },
    /// A chain that is none.
    #[error("policy {policy}, request {request}: {source}")]
    Chain {
        /// The policy's name.
        policy: String,
        /// Whose plan.
        request: RequestId,
        /// What is wrong with it.
        source: ChainError,
    },
    /// A probe of the target, of a model outside the pool, or of a sequence that does not start.
    #[error(
        "policy {policy}: a probe names a starting sequence and a model below the target, got model {model} for slot {slot}"
    )]
    Probe {
        /// The policy's name.
        policy: String,
        /// The model that came.
        model: ModelId,
        /// The slot that came.
        slot: Slot,
    },
}

/// What a pass taught, for one pair of models.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairReport {
    /// Who proposed.
    pub drafter: ModelId,
    /// Who judged.
    pub verifier: ModelId,
    /// Counts of this pass alone.
    pub seen: PairEvidence,
}

/// One verification, for policies that keep books per sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowReport {
    /// Where the sequence runs.
    pub slot: Slot,
    /// Whose it is; a slot is reused, so compare.
    pub request: RequestId,
    /// Its class.
    pub class: ClassId,
    /// Who proposed.
    pub drafter: ModelId,
    /// Who judged.
    pub verifier: ModelId,
    /// Tokens verified; 0 for a plain decode or a probe.
    pub drafted: u8,
    /// Tokens kept.
    pub accepted: u8,
    /// Positions at which both distributions were compared.
    pub examined: u8,
    /// Σ similarity over them.
    pub similarity: f32,
    /// Tokens committed by this row: 0 unless the target judged.
    pub committed: u8,
}

/// A pass that has ended.
pub struct PassReport<'a> {
    /// When it ended.
    pub now: Time,
    /// Its tick.
    pub tick: u64,
    /// The model that ran.
    pub model: ModelId,
    /// Its joint shape.
    pub shape: PassShape,
    /// How long it took.
    pub duration: Span,
    /// Tokens committed by it.
    pub committed: u32,
    /// Rounds it ended.
    pub rounds: u32,
    /// What it taught about pairs.
    pub pairs: &'a [PairReport],
    /// Verifications one by one, if [`Needs::rows`].
    pub rows: &'a [RowReport],
}
