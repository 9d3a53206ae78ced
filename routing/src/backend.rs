//! What carries the contents of sequences: the simulator's coins, or the engine's tensors.
//!
//! The replica holds counts and decides which passes run, in which order, over which rows; a
//! backend runs the pass it is handed and says what came of each row.

use crate::chain::ChainPlan;
use crate::ids::{ModelId, RequestId, Slot};
use crate::profile::PassShape;
use crate::request::Request;
use crate::units::{Span, Time};

/// What a row of a pass does. Every row first runs its catch-up tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing more: the lag did not fit beside other rows.
    CatchUp,
    /// Runs the pending token and samples one; `drafted` were sampled before it in this fill.
    Draft {
        /// Tokens this fill has sampled before.
        drafted: u8,
    },
    /// Runs the pending token and the `block` tokens that level `level − 1` made; keeps a prefix
    /// and emits one token more. A block of 0 is plain decoding.
    Verify {
        /// The verifying level of the sequence's chain.
        level: u8,
        /// Tokens to verify.
        block: u8,
    },
    /// A catch-up whose last `window` positions are compared with the target's distributions.
    Probe {
        /// Positions compared; all of them catch-up tokens.
        window: u8,
    },
}

/// One row of a pass: what one sequence asks of this model now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// The sequence's place in its replica.
    pub slot: Slot,
    /// Whose sequence it is.
    pub request: RequestId,
    /// The plan of its round.
    pub plan: ChainPlan,
    /// Known tokens that this model runs first, without looking at the result.
    pub catch_up: u32,
    /// Tokens in this model's cache before the pass.
    pub context: u32,
    /// Output tokens committed so far: the round's start position.
    pub committed: u32,
    /// Uncommitted tokens that stand before this row's block: what higher levels hold, and what a
    /// draft row has drafted in this fill.
    pub ahead: u32,
    /// What comes after the catch-up.
    pub work: Work,
}

impl Row {
    /// Tokens run through the model.
    #[inline]
    pub fn new_tokens(&self) -> u32 {
        self.catch_up
            + match self.work {
                Work::CatchUp | Work::Probe { .. } => 0,
                Work::Draft { .. } => 1,
                Work::Verify { block, .. } => u32::from(block) + 1,
            }
    }

    /// Positions whose logits are needed.
    #[inline]
    pub fn logits(&self) -> u32 {
        match self.work {
            Work::CatchUp => 0,
            Work::Draft { .. } => 1,
            Work::Verify { block, .. } => u32::from(block) + 1,
            Work::Probe { window } => u32::from(window),
        }
    }
}

/// Draft rows with the same plan and the same number of tokens drafted in this fill: they wait,
/// draft and leave together, so a draft pass over them costs the loop O(1).
#[derive(Clone, Debug)]
pub struct Cohort {
    /// The plan of every row.
    pub plan: ChainPlan,
    /// Tokens that every row has sampled in this fill, before the pass.
    pub drafted: u8,
    /// The rows, by request id.
    pub slots: Vec<Slot>,
    /// The rows have not been in a pass of this cohort yet: each still has its own catch-up.
    pub(crate) fresh: bool,
    /// Σ over rows of the tokens in the level's cache before the pass.
    pub(crate) context_tokens: u64,
}

/// What a replica's device did just before a pass. A model whose weights another has driven from the caches, or that
/// finds the machine asleep, takes longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum After {
    /// Ran the same model.
    #[default]
    Same,
    /// Ran another.
    Other,
    /// Nothing: it waited for a request.
    Idle,
}

impl After {
    /// The word that tables use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Other => "other",
            Self::Idle => "idle",
        }
    }
}

/// One packed pass of one model, as the backend sees it.
pub trait Pass {
    /// The model that runs.
    fn model(&self) -> ModelId;
    /// The tick it belongs to.
    fn tick(&self) -> u64;
    /// Its joint shape.
    fn shape(&self) -> PassShape;
    /// What the device did just before; of draft passes run at once, before the first.
    fn after(&self) -> After {
        After::Same
    }
    /// Draft rows, by cohort.
    fn cohorts(&self) -> &[Cohort];
    /// The `index`-th row of `cohort`, spelled out.
    fn draft_row(&self, cohort: &Cohort, index: usize) -> Row;
    /// All other rows.
    fn rows(&self) -> &[Row];
    /// Draft passes that would follow one another over the same single cohort if nothing arrived,
    /// this one included; at least 1. A backend may run up to so many at once.
    fn run_length(&self) -> u8;
}

/// What came of one of [`Pass::rows`]. All zero for catch-up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowOutcome {
    /// Tokens of the block that the verifier kept.
    pub accepted: u8,
    /// Tokens that leave this level: `accepted` and the correction or bonus token, unless a stop
    /// token among the accepted ended the output first.
    pub emitted: u8,
    /// The emitted tokens end with a stop token.
    pub ended: bool,
    /// Positions at which both models' distributions were compared.
    pub examined: u8,
    /// Σ over those positions of 1 − TV(p_drafter, p_verifier) (agreement where decoding is
    /// greedy or coupled).
    pub similarity: f32,
}

/// A draft row that ended its fill with the token of this pass: a stop token, or the stop rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FillEnd {
    /// Index of the cohort in [`Pass::cohorts`].
    pub cohort: u32,
    /// Index of the row in the cohort. Ends come in order of (cohort, row).
    pub row: u32,
    /// The token was a stop token: the fills above end with it too.
    pub stop_token: bool,
}

/// What came of a pass. The buffers are reused from pass to pass.
#[derive(Clone, Debug, Default)]
pub struct PassOutcome {
    /// How long it took; of several draft passes run at once, the last.
    pub duration: Span,
    /// How long the draft passes before it took, if several were run at once; at most
    /// [`Pass::run_length`] − 1.
    pub earlier: Vec<Span>,
    /// One outcome for each of [`Pass::rows`].
    pub rows: Vec<RowOutcome>,
    /// Draft rows that ended their fill early, in the last pass; all others drafted one token and
    /// go on.
    pub fill_ends: Vec<FillEnd>,
}

impl PassOutcome {
    /// How long everything took.
    #[inline]
    pub fn total(&self) -> Span {
        self.earlier.iter().fold(self.duration, |sum, &span| sum + span)
    }

    /// Keeps, of draft passes run at once from `start`, those that began before `at`: whatever
    /// arrives at `at` finds the next tick after them. True when some were cut off.
    pub fn cut(&mut self, start: Time, at: Time) -> bool {
        let mut end = start;
        for index in 0..self.earlier.len() {
            end += self.earlier[index];
            if end >= at {
                self.duration = self.earlier[index];
                self.earlier.truncate(index);
                self.fill_ends.clear(); // They are the last pass's.
                return true;
            }
        }
        false
    }

    /// Empties the buffers.
    pub fn clear(&mut self) {
        self.duration = Span::ZERO;
        self.earlier.clear();
        self.rows.clear();
        self.fill_ends.clear();
    }
}

/// Runs passes and keeps what is in the sequences.
pub trait Backend {
    /// Why a pass could not be run.
    type Error: std::error::Error + Send + Sync + 'static;

    /// A sequence starts at `slot`, with nothing cached.
    fn admit(&mut self, slot: Slot, request: &Request);

    /// Runs one pass and fills `outcome`.
    ///
    /// # Errors
    /// Whatever kept the pass from running; the run stops and says so.
    fn run<P: Pass>(&mut self, pass: &P, outcome: &mut PassOutcome) -> Result<(), Self::Error>;

    /// Forgets all but the first `len` tokens of the sequence's cache in `model`.
    fn truncate(&mut self, slot: Slot, model: ModelId, len: u32);

    /// The sequence is over; the slot may be given to another.
    fn free(&mut self, slot: Slot);
}
