//! The serving loop of one replica, written once for both twins.
//!
//! A replica repeats ticks: admit → ask the policy for the sequences that start a round → choose a
//! model → one packed pass of that model over all rows waiting for it → hand each row its outcome →
//! commit, record, teach the policy. It holds counts; the backend holds contents; the driver owns
//! time:
//!
//! ```text
//! while replica.begin(now, backend, sink)? {      // something to run
//!     backend.run(&replica.pass(), &mut outcome)?;
//!     now += outcome.duration;                     // priced, or read from a stopwatch
//!     replica.finish(now, &outcome, backend, sink)?;
//! }
//! ```

mod assemble;
mod commit;
mod plan;
mod pressure;
mod queues;
#[cfg(test)]
mod tests;

use crate::backend::{After, Backend, Cohort, Pass, Row, Work};
use crate::chain::{ChainPlan, MAX_BLOCK, MAX_MODELS};
use crate::estimate::Evidence;
use crate::ids::{ModelId, ReplicaId, Slot};
use crate::kv::{Kv, KvError};
use crate::policy::{Needs, PairReport, Plan, PlanError, Policy, RowReport};
use crate::profile::{Corrected, PassShape};
use crate::record::{RequestRecord, Sink, Status, Wants};
use crate::request::Request;
use crate::sequence::{Cold, Sequence, Stage, warm};
use crate::slo::Slo;
use crate::tally::Tally;
use crate::units::Time;
use queues::{HoldCounts, Queue, Waiting};

/// What a replica allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most sequences running at once.
    pub max_running: u32,
    /// Most tokens of one pass; long catch-up and prompts are run in chunks of it.
    pub token_budget: u32,
    /// Most tokens the windows of a chain may add up to; at most [`MAX_BLOCK`].
    pub max_block: u32,
    /// Passes that a row waits for smaller models to finish before its model runs regardless;
    /// `None`: Σ windows + depth of the longest running chain. Prefill rows wait for 1.
    pub hold_passes: Option<u32>,
    /// Most tokens of prompt and output: the shortest context of the pool.
    pub context: u32,
    /// Higher priority is admitted first; otherwise first come, first served.
    pub by_priority: bool,
}

/// Limits that cannot work. The scenario is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// A limit out of its range.
    #[error("limits.{field} must be between {least} and {most}, got {value}")]
    Range {
        /// The field.
        field: &'static str,
        /// Least allowed.
        least: u32,
        /// Most allowed.
        most: u32,
        /// What came.
        value: u32,
    },
    /// KV blocks that cannot work.
    #[error(transparent)]
    Kv(#[from] KvError),
}

impl Limits {
    /// Checks every limit.
    ///
    /// # Errors
    /// [`LimitError`], naming the first that is out of range.
    pub fn check(&self) -> Result<(), LimitError> {
        let range = |field, value: u32, least, most| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(LimitError::Range { field, least, most, value })
            }
        };
        range("max_running", self.max_running, 1, 65_536)?;
        range("max_block", self.max_block, 1, MAX_BLOCK)?;
        range("token_budget", self.token_budget, self.max_block + 1, 1 << 24)?;
        range("context", self.context, 2, 1 << 30)?;
        self.hold_passes.map_or(Ok(()), |hold| range("hold_passes", hold, 1, 1 << 20))
    }
}

/// Why a replica cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplicaError {
    /// A policy gave a bad answer.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A backend's outcome does not fit its pass: the backend's bug.
    #[error("backend, tick {tick}: {what}: expected {expected}, got {got}")]
    Outcome {
        /// The pass.
        tick: u64,
        /// What does not fit.
        what: &'static str,
        /// What would.
        expected: usize,
        /// What came.
        got: usize,
    },
}

/// Requests at a replica, by where they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Waiting for admission, the preempted among them.
    pub queued: u32,
    /// Running.
    pub running: u32,
}

/// One copy of the pool and its serving loop.
pub struct Replica {
    id: ReplicaId,
    limits: Limits,
    target: ModelId,
    kv: Kv,
    policy: Box<dyn Policy>,
    needs: Needs,
    costs: Corrected,
    evidence: Evidence,
    plan: Plan,
    /// Planning freed memory or a place in this tick: who waits may be let in at the next.
    loosened: bool,

    waiting: Waiting,
    sequences: Vec<Sequence>,
    cold: Vec<Cold>,
    free_slots: Vec<Slot>,
    starting: Vec<Slot>,
    queues: Vec<Queue>,
    hold: HoldCounts,
    running: u32,
    decoding: u32,
    context_tokens: u64,

    pass: CurrentPass,
    tick: u64,
    spare_slots: Vec<Vec<Slot>>,
    pair_reports: Vec<PairReport>,
    row_reports: Vec<RowReport>,
    tally: Box<Tally>,
    wants: Option<Wants>,
}

/// The pass that runs now.
#[derive(Default)]
struct CurrentPass {
    busy: bool,
    model: ModelId,
    after: After,
    shape: PassShape,
    cohorts: Vec<Cohort>,
    /// Tokens of each cohort's rows in this pass.
    cohort_tokens: Vec<u32>,
    rows: Vec<Row>,
    run_length: u8,
    /// Requests that waited when it began.
    queued: u32,
    /// The model that ran last.
    last: Option<ModelId>,
    /// Since when nothing has run, if there was nothing to run.
    idle: Option<Time>,
}

/// The pass that runs now, as the backend sees it.
pub struct PassView<'a> {
    pass: &'a CurrentPass,
    sequences: &'a [Sequence],
    tick: u64,
}

impl Pass for PassView<'_> {
    fn model(&self) -> ModelId {
        self.pass.model
    }

    fn tick(&self) -> u64 {
        self.tick
    }

    fn shape(&self) -> PassShape {
        self.pass.shape
    }

    fn after(&self) -> After {
        self.pass.after
    }

    fn cohorts(&self) -> &[Cohort] {
        &self.pass.cohorts
    }

    #[inline]
    fn draft_row(&self, cohort: &Cohort, index: usize) -> Row {
        let slot = cohort.slots[index];
        let sequence = &self.sequences[slot.index()];
        let ahead = sequence.ahead(1) + u32::from(cohort.drafted);
        let known = sequence.committed() + ahead;
        // After its first pass in the cohort the level has seen all but the pending token.
        let cached = if cohort.fresh { sequence.cached[self.pass.model.index()] } else { known - 1 };
        Row {
            slot,
            request: sequence.request,
            plan: cohort.plan,
            catch_up: known - 1 - cached,
            context: cached,
            committed: sequence.output,
            ahead,
            work: Work::Draft { drafted: cohort.drafted },
        }
    }

    fn rows(&self) -> &[Row] {
        &self.pass.rows
    }

    fn run_length(&self) -> u8 {
        self.pass.run_length
    }
}

impl Replica {
    /// An idle replica of a pool of `kv_tokens.len()` models, the last of them the target, with
    /// `kv_tokens[m]` tokens of KV memory for model `m` in blocks of `block_size` tokens.
    ///
    /// # Errors
    /// [`LimitError`] for limits or memory that cannot work.
    ///
    /// # Panics
    /// Never: a pool has 1 to [`MAX_MODELS`] models, which the scenario has checked.
    pub fn new(
        id: ReplicaId,
        limits: Limits,
        kv_tokens: &[u64],
        block_size: u32,
        policy: Box<dyn Policy>,
        costs: Corrected,
    ) -> Result<Self, LimitError> {
        limits.check()?;
        let kv = Kv::new(kv_tokens, block_size)?;
        let pool = kv_tokens.len();
        debug_assert!((1..=MAX_MODELS).contains(&pool));
        Ok(Self {
            id,
            waiting: Waiting::default(),
            sequences: Vec::new(),
            cold: Vec::new(),
            free_slots: Vec::new(),
            starting: Vec::new(),
            queues: vec![Queue::default(); pool],
            hold: HoldCounts::default(),
            running: 0,
            decoding: 0,
            context_tokens: 0,
            pass: CurrentPass::default(),
            tick: 0,
            spare_slots: Vec::new(),
            pair_reports: Vec::new(),
            row_reports: Vec::new(),
            tally: Box::new(Tally::new(pool)),
            wants: None,
            target: ModelId((pool - 1) as u8),
            needs: policy.needs(),
            policy,
            costs,
            evidence: Evidence::default(),
            plan: Plan::default(),
            loosened: false,
            kv,
            limits,
        })
    }

    /// Takes an arriving request into the queue. One that can never run is refused and recorded.
    pub fn submit<S: Sink + ?Sized>(&mut self, mut request: Request, sink: &mut S) {
        let context = self.limits.context.min(u32::MAX - 1);
        let fits = request.prompt_tokens < context
            && self.kv.blocks(request.prompt_tokens + 1) <= self.kv.total(self.target);
        if !fits {
            sink.request(&refused(self.id, &request));
            return;
        }
        // The context, and the target's memory, bound every output.
        let memory = u64::from(self.kv.total(self.target)) << self.kv_shift();
        let room = u64::from(context).min(memory) - u64::from(request.prompt_tokens);
        request.limit = request.limit.min(u32::try_from(room).unwrap_or(u32::MAX)).max(1);
        self.waiting.push(request, self.limits.by_priority);
    }

    /// Starts the next tick: admits, plans, chooses a model and packs its pass. False when nothing
    /// waits.
    ///
    /// # Errors
    /// [`ReplicaError::Plan`] for a policy's bad answer.
    pub fn begin<B: Backend, S: Sink + ?Sized>(
        &mut self,
        now: Time,
        backend: &mut B,
        sink: &mut S,
    ) -> Result<bool, ReplicaError> {
        debug_assert!(!self.pass.busy, "a pass is finished before the next begins");
        self.admit(backend);
        self.loosened = false;
        if !self.starting.is_empty() {
            self.plan_starting(now, backend, sink)?;
        }
        let Some(model) = self.choose() else {
            self.pass.idle = self.pass.idle.or(Some(now));
            return Ok(false);
        };
        // A request that comes at the very moment finds no sleeper.
        self.pass.after = match self.pass.idle.take() {
            Some(since) if since < now => After::Idle,
            _ if self.pass.last == Some(model) => After::Same,
            _ => After::Other,
        };
        self.pass.last = Some(model);
        self.assemble(model);
        Ok(true)
    }

    /// The pass that [`begin`](Self::begin) packed.
    pub fn pass(&self) -> PassView<'_> {
        PassView { pass: &self.pass, sequences: &self.sequences, tick: self.tick }
    }

    /// True between `begin` and `finish`.
    pub fn is_busy(&self) -> bool {
        self.pass.busy
    }

    /// Who waits and who runs.
    pub fn load(&self) -> Load {
        Load { queued: self.waiting.len(), running: self.running }
    }

    /// Which replica this is.
    pub fn id(&self) -> ReplicaId {
        self.id
    }

    /// KV blocks, per model.
    pub fn kv(&self) -> &Kv {
        &self.kv
    }

    /// Pass times as believed and observed.
    pub fn costs(&self) -> &Corrected {
        &self.costs
    }

    /// Passes so far.
    pub fn ticks(&self) -> u64 {
        self.tick
    }

    /// Records what still runs or waits, and hands over the tally. The replica is empty after it.
    pub fn close<S: Sink + ?Sized>(self, sink: &mut S) -> Tally {
        let mut unfinished: Vec<RequestRecord> = (0..self.sequences.len())
            .filter(|&i| self.sequences[i].stage != Stage::Free)
            .map(|i| {
                let preempted = self.sequences[i].stage == Stage::Preempted;
                self.record_of(Slot(i as u32), if preempted { Status::Waiting } else { Status::Running })
            })
            .collect();
        unfinished.extend(
            self.waiting.requests().map(|r| RequestRecord { status: Status::Waiting, ..refused(self.id, r) }),
        );
        unfinished.sort_by_key(|record| record.id);
        unfinished.iter().for_each(|record| sink.request(record));
        *self.tally
    }

    /// Exchanges the tally. A driver of many replicas lets them count into one, so that what is
    /// counted stays in the cache.
    pub fn swap_tally(&mut self, tally: &mut Box<Tally>) {
        std::mem::swap(&mut self.tally, tally);
    }

    /// Reads the sequences of the pass that runs, for a driver of many replicas to call before
    /// [`finish`](Self::finish): their cache misses overlap then.
    pub fn read_ahead(&self) {
        let rows = self.pass.rows.iter().map(|row| row.slot);
        let drafts = self.pass.cohorts.iter().flat_map(|cohort| cohort.slots.iter().copied());
        warm(&self.sequences, rows.chain(drafts));
    }

    fn kv_shift(&self) -> u32 {
        self.kv.shift()
    }

    fn wants<S: Sink + ?Sized>(&mut self, sink: &S) -> Wants {
        *self.wants.get_or_insert_with(|| sink.wants())
    }

    /// Admits while there is room: a place, and the target's blocks for the known text and one
    /// token more.
    fn admit<B: Backend>(&mut self, backend: &mut B) {
        if self.waiting.len() == 0 {
            return;
        }
        while self.running < self.limits.max_running {
            if let Some(slot) = self.waiting.resumable() {
                if !self.resume(slot) {
                    return;
                }
                self.waiting.pop_resumable();
                continue;
            }
            let Some(request) = self.waiting.front() else { return };
            let want = self.kv.blocks(request.prompt_tokens + 1);
            if want > self.kv.free(self.target) {
                return;
            }
            let request = self.waiting.pop().expect("front was there");
            let slot = self.free_slots.pop().unwrap_or_else(|| {
                self.sequences.push(empty_sequence(self.target));
                self.cold.push(Cold::default());
                Slot((self.sequences.len() - 1) as u32)
            });
            let sequence = &mut self.sequences[slot.index()];
            *sequence = Sequence {
                request: request.id,
                stage: Stage::Prefilling,
                prompt: request.prompt_tokens,
                limit: request.limit,
                last_token: request.arrival,
                ..empty_sequence(self.target)
            };
            self.cold[slot.index()] = Cold {
                class: request.class,
                arrival: request.arrival,
                priority: request.priority,
                slo: request.slo,
                round_tick: self.tick,
                ..Cold::default()
            };
            let grown = self.kv.grow(self.target, &mut sequence.held[self.target.index()], want);
            debug_assert!(grown, "room was checked");
            self.running += 1;
            self.context_tokens += u64::from(request.prompt_tokens);
            self.queues[self.target.index()].push_prefilling(request.id, slot, self.tick);
            backend.admit(slot, &request);
        }
    }

    fn record_of(&self, slot: Slot, status: Status) -> RequestRecord {
        let (s, cold) = (&self.sequences[slot.index()], &self.cold[slot.index()]);
        RequestRecord {
            id: s.request,
            replica: self.id,
            class: cold.class,
            arrival: cold.arrival,
            first_token: cold.first_token,
            last_token: cold.first_token.map(|_| s.last_token),
            prompt_tokens: s.prompt,
            output_tokens: s.output,
            limit: s.limit,
            priority: cold.priority,
            slo: cold.slo,
            rounds: s.round,
            preemptions: cold.preemptions,
            slo_met: (status == Status::Finished).then(|| slo_met(s, cold)).flatten(),
            status,
        }
    }
}

/// Did a finished sequence meet every target; `None` without targets.
fn slo_met(s: &Sequence, cold: &Cold) -> Option<bool> {
    if cold.slo == Slo::default() {
        return None;
    }
    let first = cold.first_token?;
    let ttft = cold.slo.ttft.is_none_or(|target| first - cold.arrival <= target);
    // One token has no time per token.
    let tpot = cold.slo.tpot.is_none_or(|target| {
        s.output < 2
            || (s.last_token - first).nanos() <= target.nanos().saturating_mul(u64::from(s.output - 1))
    });
    Some(ttft && tpot)
}

fn refused(replica: ReplicaId, request: &Request) -> RequestRecord {
    RequestRecord {
        id: request.id,
        replica,
        class: request.class,
        arrival: request.arrival,
        first_token: None,
        last_token: None,
        prompt_tokens: request.prompt_tokens,
        output_tokens: 0,
        limit: request.limit,
        priority: request.priority,
        slo: request.slo,
        rounds: 0,
        preemptions: 0,
        slo_met: None,
        status: Status::TooLong,
    }
}

fn empty_sequence(target: ModelId) -> Sequence {
    Sequence {
        request: Default::default(),
        stage: Stage::Free,
        level: 0,
        prompt: 1,
        output: 0,
        limit: 1,
        plan: ChainPlan::target_only(target),
        blocks: Default::default(),
        ended: false,
        probing: 0,
        cached: [0; MAX_MODELS],
        held: [0; MAX_MODELS],
        round: 0,
        last_token: Time::ZERO,
    }
}
