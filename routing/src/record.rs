//! What a run says about itself, row by row, to whoever listens.
//!
//! Rows mirror the tables of a trace (`traces/`); reports read the same rows. Emitting them is the
//! serving loop's work, keeping them is the sink's.

mod token;

pub use token::{Decoding, Opinion, TextRecord, TokenRecord, pair_index, pairs, triples};

use crate::backend::After;
use crate::chain::ChainPlan;
use crate::ids::{ClassId, ModelId, ReplicaId, RequestId};
use crate::profile::PassShape;
use crate::slo::Slo;
use crate::units::{Span, Time};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Every token was delivered.
    Finished,
    /// Still running when the run ended.
    Running,
    /// Still waiting when the run ended.
    Waiting,
    /// Refused: its prompt does not fit the context or the KV memory of the target.
    TooLong,
}

impl Status {
    /// The word that tables use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::TooLong => "too_long",
        }
    }
}

/// A request at its end, or at the run's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequestRecord {
    /// Who.
    pub id: RequestId,
    /// Where it ran.
    pub replica: ReplicaId,
    /// Its class.
    pub class: ClassId,
    /// When it arrived.
    pub arrival: Time,
    /// When its first token was delivered, if one was.
    pub first_token: Option<Time>,
    /// When its last token was delivered; for an unfinished request the last so far.
    pub last_token: Option<Time>,
    /// Prompt length in tokens.
    pub prompt_tokens: u32,
    /// Output tokens delivered.
    pub output_tokens: u32,
    /// `max_tokens`.
    pub limit: u32,
    /// Order of admission; higher went first.
    pub priority: u8,
    /// Its targets.
    pub slo: Slo,
    /// Rounds it took.
    pub rounds: u32,
    /// Times it was preempted.
    pub preemptions: u32,
    /// Did it meet every target of its SLO; `None` when it had none.
    pub slo_met: Option<bool>,
    /// How it ended.
    pub status: Status,
}

/// One pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PassRecord {
    /// Where it ran.
    pub replica: ReplicaId,
    /// Its place in the replica's order of passes.
    pub tick: u64,
    /// The model that ran.
    pub model: ModelId,
    /// When it began.
    pub start: Time,
    /// How long it took.
    pub duration: Span,
    /// What the device did just before.
    pub after: After,
    /// Its rows and tokens.
    pub shape: PassShape,
    /// Requests waiting at its end.
    pub queued: u32,
    /// Requests running at its end.
    pub running: u32,
    /// KV blocks in use at its end, Σ over models.
    pub kv_blocks_used: u64,
}

/// How a verification ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A token was rejected; the last emitted token is its correction.
    Reject,
    /// The whole block was kept; the last emitted token is the bonus.
    Bonus,
    /// A stop token or the limit ended the output.
    End,
}

impl Verdict {
    /// The word that tables use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::Bonus => "bonus",
            Self::End => "end",
        }
    }
}

/// One verification: a cycle at a middle level, or the target's at the end of a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VerificationRecord {
    /// Where it ran.
    pub replica: ReplicaId,
    /// Whose sequence.
    pub request: RequestId,
    /// The sequence's round, counted from 0.
    pub round: u32,
    /// The verifying level of the chain.
    pub level: u8,
    /// Verifications at this level before this one, in this round.
    pub cycle: u8,
    /// The tick of the pass.
    pub tick: u64,
    /// The level's model below.
    pub drafter: ModelId,
    /// The verifying model.
    pub verifier: ModelId,
    /// Tokens verified.
    pub drafted: u8,
    /// Tokens kept.
    pub accepted: u8,
    /// How it ended.
    pub verdict: Verdict,
    /// Mean similarity over the examined positions; `None` where none was examined.
    pub similarity: Option<f32>,
}

/// One round of one sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoundRecord {
    /// Where it ran.
    pub replica: ReplicaId,
    /// Whose sequence.
    pub request: RequestId,
    /// The sequence's round, counted from 0.
    pub round: u32,
    /// Output tokens committed before it.
    pub position: u32,
    /// The tick it was planned at.
    pub start_tick: u64,
    /// The tick of its commit.
    pub end_tick: u64,
    /// What ran.
    pub plan: ChainPlan,
    /// Tokens put before the target.
    pub drafted: u8,
    /// Of those, kept.
    pub accepted: u8,
    /// Tokens committed.
    pub emitted: u8,
}

/// A plan for one sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecisionRecord {
    /// Where it ran.
    pub replica: ReplicaId,
    /// The tick it was made at.
    pub tick: u64,
    /// When.
    pub time: Time,
    /// Whose sequence.
    pub request: RequestId,
    /// What the policy asked for.
    pub planned: ChainPlan,
    /// What ran: clamped to the limit, shortened where KV memory was short.
    pub executed: ChainPlan,
    /// What the policy expected, if it said.
    pub predicted: Option<Prediction>,
}

/// What a policy expected of a plan, per round.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Prediction {
    /// Time of one round in seconds.
    pub round_seconds: f32,
    /// Tokens committed per sequence and round.
    pub tokens: f32,
    /// Chance with which the policy chose this plan; 1 for a deterministic choice.
    pub propensity: f32,
}

/// Which rows a sink keeps; the loop does not make the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// [`PassRecord`].
    pub passes: bool,
    /// [`VerificationRecord`].
    pub verifications: bool,
    /// [`RoundRecord`].
    pub rounds: bool,
    /// [`DecisionRecord`].
    pub decisions: bool,
    /// [`TextRecord`], where there are texts.
    pub texts: bool,
    /// [`TokenRecord`]; whoever drives the run makes them.
    pub tokens: bool,
}

/// Defines, inside an `impl Sink`, methods that hand records on to `self.$to`.
#[macro_export]
macro_rules! hand_on {
    ($to:ident: $($method:ident($record:ty)),+ $(,)?) => {
        $(fn $method(&mut self, record: $record) {
            $crate::record::Sink::$method(&mut self.$to, record);
        })+
    };
    ($to:ident) => {
        $crate::hand_on!(
            $to: gap($crate::units::Span),
            pass(&$crate::record::PassRecord),
            verification(&$crate::record::VerificationRecord),
            decision(&$crate::record::DecisionRecord),
            text(&$crate::record::TextRecord),
            token(&$crate::record::TokenRecord),
        );
    };
}

impl<S: Sink + ?Sized> Sink for &mut S {
    fn wants(&self) -> Wants {
        (**self).wants()
    }

    fn request(&mut self, record: &RequestRecord) {
        (**self).request(record);
    }

    fn gap(&mut self, gap: Span) {
        (**self).gap(gap);
    }

    fn pass(&mut self, record: &PassRecord) {
        (**self).pass(record);
    }

    fn verification(&mut self, record: &VerificationRecord) {
        (**self).verification(record);
    }

    fn round(&mut self, record: &RoundRecord) {
        (**self).round(record);
    }

    fn decision(&mut self, record: &DecisionRecord) {
        (**self).decision(record);
    }

    fn text(&mut self, record: &TextRecord) {
        (**self).text(record);
    }

    fn token(&mut self, record: &TokenRecord) {
        (**self).token(record);
    }
}

/// Keeps the rows of a run.
pub trait Sink {
    /// The rows this sink keeps, asked once per run. Requests always come.
    fn wants(&self) -> Wants {
        Wants::default()
    }
    /// A request has ended, or the run has.
    fn request(&mut self, record: &RequestRecord);
    /// A delivery of output tokens: the gap to the request's delivery before.
    fn gap(&mut self, _gap: Span) {}
    /// A pass has ended.
    fn pass(&mut self, _record: &PassRecord) {}
    /// A verification has ended.
    fn verification(&mut self, _record: &VerificationRecord) {}
    /// A round has been committed.
    fn round(&mut self, _record: &RoundRecord) {}
    /// A sequence has been planned.
    fn decision(&mut self, _record: &DecisionRecord) {}
    /// A text is complete.
    fn text(&mut self, _record: &TextRecord) {}
    /// An output position has been scored.
    fn token(&mut self, _record: &TokenRecord) {}
}
