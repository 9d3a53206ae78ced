//! One running request's state: how far every level of its chain has come, and the one pass it
//! waits for. Counts only; tokens and tensors are the backend's.

use crate::chain::{ChainPlan, MAX_LEVELS, MAX_MODELS};
use crate::ids::{ClassId, ModelId, RequestId, Slot};
use crate::slo::Slo;
use crate::units::Time;

/// What a sequence waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The slot is not in use.
    Free,
    /// Preempted: back in the queue with its text and its pending blocks, without caches.
    Preempted,
    /// Between rounds: waits for a plan.
    Starting,
    /// Waits to draft, outside any cohort.
    Entering,
    /// Drafts in a cohort.
    Drafting,
    /// Waits for a verification at `level` (for plain decoding, the target's pass).
    Verifying,
    /// Waits for the target to run its prompt.
    Prefilling,
}

/// A running sequence. Hot: a round touches it a few times, so it is two cache lines and no more.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(crate) struct Sequence {
    pub request: RequestId,
    pub stage: Stage,
    /// The level whose pass it waits for.
    pub level: u8,
    pub prompt: u32,
    /// Committed output tokens.
    pub output: u32,
    pub limit: u32,
    /// The plan of the round.
    pub plan: ChainPlan,
    /// Tokens ready at each level below the target, not yet verified. `blocks[0]` is 0 while a
    /// cohort drafts: the cohort counts for all its rows.
    pub blocks: [u8; MAX_LEVELS - 1],
    /// The block below ends with a stop token.
    pub ended: bool,
    /// Models with a probe of this sequence waiting, as a bit set.
    pub probing: u8,
    /// Tokens in each model's KV cache. For the drafting level it is brought up to date when the
    /// row leaves its cohort.
    pub cached: [u32; MAX_MODELS],
    /// KV blocks held of each model.
    pub held: [u32; MAX_MODELS],
    pub round: u32,
    pub last_token: Time,
}

const _: () = assert!(size_of::<Sequence>() == 128);

/// What of a sequence is read when it begins and when it ends; kept apart so that rounds touch
/// fewer cache lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cold {
    pub class: ClassId,
    /// Verifications at each level in this round; counted only for those who keep them.
    pub cycles: [u8; MAX_LEVELS],
    /// When the round was planned; noted only for those who keep rounds.
    pub round_tick: u64,
    pub arrival: Time,
    pub first_token: Option<Time>,
    pub preemptions: u32,
    pub priority: u8,
    pub slo: Slo,
}

/// Reads a word of every cache line of some sequences, so that with many replicas their misses
/// overlap; row after row they would be waited for one by one.
#[inline]
pub(crate) fn warm(sequences: &[Sequence], slots: impl Iterator<Item = Slot>) {
    let read = |word: u64, slot: Slot| {
        let s = &sequences[slot.index()];
        word ^ s.request.0 ^ u64::from(s.cached[0] ^ s.held[MAX_MODELS - 1] ^ s.output)
    };
    std::hint::black_box(slots.fold(0, read));
}

impl Sequence {
    /// Committed tokens, prompt included.
    #[inline]
    pub fn committed(&self) -> u32 {
        self.prompt + self.output
    }

    /// Uncommitted tokens that levels `level` and above hold: they stand before whatever the
    /// levels below make next.
    #[inline]
    pub fn ahead(&self, level: usize) -> u32 {
        let top = self.plan.depth() - 1;
        (level..top).map(|l| u32::from(self.blocks[l])).sum()
    }

    /// Output tokens that may still be committed.
    #[inline]
    pub fn remaining(&self) -> u32 {
        self.limit - self.output
    }

    /// Committed tokens that `model`'s cache has not seen, the pending one left out.
    #[inline]
    pub fn lag(&self, model: ModelId) -> u32 {
        (self.committed() - 1).saturating_sub(self.cached[model.index()])
    }
}
