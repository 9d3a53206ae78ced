//! What a policy is asked: all that a real server knows, and nothing else.

use crate::chain::ChainPlan;
use crate::estimate::Evidence;
use crate::ids::{ClassId, ModelId, ReplicaId, RequestId, Slot};
use crate::kv::Kv;
use crate::profile::Corrected;
use crate::replica::Limits;
use crate::sequence::{Cold, Sequence};
use crate::slo::Slo;
use crate::units::Time;

/// A question to a policy: plan these sequences. Borrowed from the replica; nothing is copied.
pub struct Ask<'a> {
    /// Which replica asks.
    pub replica: ReplicaId,
    /// Now.
    pub now: Time,
    /// The tick; ages of evidence are counted in ticks.
    pub tick: u64,
    /// Sequences that start a round now, by request id. Never empty.
    pub starting: &'a [Slot],
    /// Sequences running, those in prefill included.
    pub running: u32,
    /// Of those, the ones past their prefill.
    pub decoding: u32,
    /// Requests waiting for admission.
    pub queued: u32,
    /// Σ committed tokens over running sequences.
    pub context_tokens: u64,
    /// KV blocks, per model.
    pub kv: &'a Kv,
    /// Pass times as believed and observed.
    pub costs: &'a Corrected,
    /// Raw acceptance counts and similarities, per pair, with their ages.
    pub evidence: &'a Evidence,
    /// The scenario's limits.
    pub limits: &'a Limits,
    pub(crate) sequences: &'a [Sequence],
    pub(crate) cold: &'a [Cold],
}

impl Ask<'_> {
    /// The sequence at `slot`.
    #[inline]
    pub fn request(&self, slot: Slot) -> RequestView<'_> {
        RequestView { sequence: &self.sequences[slot.index()], cold: &self.cold[slot.index()] }
    }
}

/// A running request as a policy may see it.
///
/// Its true output length is not there to be read:
/// ```compile_fail
/// fn cheat(view: specrouter_routing::policy::RequestView<'_>) -> u32 {
///     view.truth().output_tokens()
/// }
/// ```
#[derive(Clone, Copy)]
pub struct RequestView<'a> {
    sequence: &'a Sequence,
    cold: &'a Cold,
}

impl RequestView<'_> {
    /// Who.
    pub fn id(&self) -> RequestId {
        self.sequence.request
    }

    /// Its class label.
    pub fn class(&self) -> ClassId {
        self.cold.class
    }

    /// When it arrived.
    pub fn arrival(&self) -> Time {
        self.cold.arrival
    }

    /// Its targets.
    pub fn slo(&self) -> Slo {
        self.cold.slo
    }

    /// Prompt length in tokens.
    pub fn prompt_tokens(&self) -> u32 {
        self.sequence.prompt
    }

    /// Output tokens delivered so far.
    pub fn emitted(&self) -> u32 {
        self.sequence.output
    }

    /// `max_tokens`.
    pub fn limit(&self) -> u32 {
        self.sequence.limit
    }

    /// Rounds so far, the prefill's included.
    pub fn rounds(&self) -> u32 {
        self.sequence.round
    }

    /// When its first token was delivered.
    pub fn first_token(&self) -> Option<Time> {
        self.cold.first_token
    }

    /// Committed tokens that `model` would have to run before it could take part, the pending one
    /// left out.
    pub fn lag(&self, model: ModelId) -> u32 {
        self.sequence.lag(model)
    }

    /// The plan of its last round.
    pub fn last_plan(&self) -> ChainPlan {
        self.sequence.plan
    }
}
