//! Where outputs are functions of target and seed, every way of serving gives the target's own.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;
use std::sync::Arc;

use specrouter_routing::backend::{Backend, PassOutcome};
use specrouter_routing::ids::{ModelId, ReplicaId, RequestId, Slot};
use specrouter_routing::luck::Luck;
use specrouter_routing::policy::Policy;
use specrouter_routing::profile::Corrected;
use specrouter_routing::record::{RequestRecord, Sink, Status, Verdict, VerificationRecord, Wants};
use specrouter_routing::replica::Replica;
use specrouter_routing::units::Time;

use super::cells::{Cell, Decoding, Factors, Memory, Planning};
use super::policies::{Always, EveryRound};
use super::{Alike, CheckError, Counting, Task, catch_ups, limits};
use crate::backend::EngineBackend;
use crate::coins::Noise;
use crate::kernels::attention::PAGE;
use crate::level::{LevelModel, Packed, PackedRow};
use crate::sampling::{Distribution, Warper, argmax};

/// What happened in a check, so that one in which nothing did is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Outputs compared.
    pub prompts: u64,
    /// Tokens of those outputs.
    pub tokens: u64,
    /// Proposed tokens that were kept, at any level.
    pub accepted: u64,
    /// Verifications that rejected a token.
    pub rejected: u64,
    /// Of those, by a model below the target.
    pub middle_rejected: u64,
    /// Fills that a stop rule ended.
    pub stopped: u64,
    /// Rows in which a model ran tokens that others had committed since it last ran.
    pub catch_ups: u64,
    /// Sequences taken off and computed again.
    pub preempted: u64,
    /// Outputs that differ.
    pub differing: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.prompts += other.prompts;
        self.tokens += other.tokens;
        self.accepted += other.accepted;
        self.rejected += other.rejected;
        self.middle_rejected += other.middle_rejected;
        self.stopped += other.stopped;
        self.catch_ups += other.catch_ups;
        self.preempted += other.preempted;
        self.differing += other.differing;
    }
}

impl Counts {
    /// What never happened and should have, by name; empty for a check that is worth its name.
    pub fn missing(&self) -> Vec<&'static str> {
        let counted = [
            ("outputs", self.prompts),
            ("tokens kept", self.accepted),
            ("tokens rejected", self.rejected),
            ("tokens rejected below the target", self.middle_rejected),
            ("fills ended by a stop rule", self.stopped),
            ("catch-ups", self.catch_ups),
            ("preemptions", self.preempted),
        ];
        counted.into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect()
    }
}

/// Where an output first leaves the target's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// The task's index.
    pub task: usize,
    /// Output position, from 0.
    pub position: usize,
    /// The token of the target alone; `None` where its output has ended.
    pub expected: Option<u32>,
    /// The token that came; `None` where the output ended before.
    pub got: Option<u32>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |token: Option<u32>| token.map_or("the end".to_owned(), |t| format!("token {t}"));
        write!(f, "prompt {}, position {}: ", self.task, self.position)?;
        write!(f, "expected {}, got {}", word(self.expected), word(self.got))
    }
}

/// What came of one cell.
#[derive(Clone, Debug, PartialEq)]
pub struct CellReport {
    /// The cell.
    pub cell: Cell,
    /// What happened.
    pub counts: Counts,
    /// The first difference.
    pub first: Option<Difference>,
}

/// A pool, the tasks that it is checked with, and what its target alone makes of them.
pub struct Subject<M> {
    models: Vec<M>,
    tasks: Vec<Task>,
    luck: Luck,
    /// By task, and the decoding's index.
    alone: BTreeMap<(usize, usize), Vec<u32>>,
}

impl<M: LevelModel> Subject<M> {
    /// Checks `models` on `tasks`.
    pub fn new(models: Vec<M>, tasks: Vec<Task>, luck: Luck) -> Self {
        Self { models, tasks, luck, alone: BTreeMap::new() }
    }

    /// The tasks.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// Runs one cell on the tasks of these indices and compares every output.
    ///
    /// # Errors
    /// [`CheckError`], when it could not be run to its end; the subject has lost its models then.
    pub fn check(
        &mut self,
        factors: &Factors,
        cell: &Cell,
        tasks: &[usize],
    ) -> Result<CellReport, CheckError> {
        let decoding = factors.decoding(cell);
        for &task in tasks {
            let key = (task, cell.0[6]);
            if !self.alone.contains_key(&key)
                && let Some(target) = self.models.last_mut()
            {
                let output = alone(target, &self.tasks[task], decoding, self.luck)?;
                self.alone.insert(key, output);
            }
        }
        let (outputs, mut counts) = self.serve(factors, cell, tasks)?;
        let mut first = None;
        for (id, &task) in tasks.iter().enumerate() {
            let (got, expected) = (&outputs[&RequestId(id as u64)], &self.alone[&(task, cell.0[6])]);
            counts.tokens += got.len() as u64;
            if got != expected {
                counts.differing += 1;
                let same = got.iter().zip(expected).take_while(|(a, b)| a == b).count();
                let (expected, got) = (expected.get(same).copied(), got.get(same).copied());
                first.get_or_insert(Difference { task, position: same, expected, got });
            }
        }
        Ok(CellReport { cell: *cell, counts, first })
    }

    /// Every output of the cell, and what happened on the way.
    fn serve(
        &mut self,
        factors: &Factors,
        cell: &Cell,
        tasks: &[usize],
    ) -> Result<(BTreeMap<RequestId, Vec<u32>>, Counts), CheckError> {
        let batch = factors.batch(cell);
        let tasks: Vec<&Task> = tasks.iter().map(|&task| &self.tasks[task]).collect();
        let wrong = |what, expected: u64, got: u64| {
            Err(CheckError::Books { cell: factors.describe(cell), what, expected, got })
        };
        let plan = factors.plan(cell);
        let policy: Box<dyn Policy> = match factors.planning(cell) {
            Planning::Fixed => Box::new(Always(plan)),
            Planning::EveryRound => Box::new(EveryRound::new(plan, &factors.plans(cell), 1)),
        };
        let kv = vec![kv_tokens(&tasks, batch, factors.memory(cell)); self.models.len()];
        let costs = Corrected::new(Arc::new(Alike));
        let mut replica = Replica::new(ReplicaId(0), limits(batch), &kv, PAGE as u32, policy, costs)?;
        let (models, decoding) = (std::mem::take(&mut self.models), factors.decoding(cell));
        let mut backend = EngineBackend::new(models, decoding.verify(), self.luck, Counting::default())?;
        let target = ModelId((kv.len() - 1) as u8);
        let mut sink = Seen { target, counts: Counts::default(), finished: 0 };
        for (id, task) in tasks.iter().enumerate() {
            let (request, prompt) = task.job(id as u64, decoding.sampling());
            backend.submit(request.id, prompt)?;
            replica.submit(request, &mut sink);
        }
        let (mut outcome, mut now) = (PassOutcome::default(), Time::ZERO);
        while replica.begin(now, &mut backend, &mut sink)? {
            let pass = replica.pass();
            sink.counts.catch_ups += catch_ups(&pass);
            backend.run(&pass, &mut outcome)?;
            let ended = outcome.fill_ends.iter().filter(|end| !end.stop_token);
            sink.counts.stopped += ended.count() as u64;
            now += outcome.duration;
            // Before what is rolled back goes: this is the most that is held.
            for (index, model) in backend.models().iter().enumerate() {
                let used: u64 = slots(tasks.len()).map(|slot| blocks(model.cached(slot))).sum();
                let most = u64::from(replica.kv().total(ModelId(index as u8)));
                if used > most {
                    return wrong("KV blocks in use, at most", most, used);
                }
            }
            replica.finish(now, &outcome, &mut backend, &mut sink)?;
        }
        let outputs: BTreeMap<RequestId, Vec<u32>> =
            backend.take_finished().into_iter().map(|text| (text.request, text.output().to_vec())).collect();
        self.models = backend.into_models();
        if sink.finished != tasks.len() as u64 || outputs.len() != tasks.len() {
            return wrong("requests that finish", tasks.len() as u64, sink.finished);
        }
        for (index, model) in self.models.iter().enumerate() {
            let left: u64 = slots(tasks.len()).map(|slot| u64::from(model.cached(slot))).sum();
            let id = ModelId(index as u8);
            let held = u64::from(replica.kv().total(id) - replica.kv().free(id));
            if left + held > 0 {
                return wrong("cached tokens and KV blocks left at the end", 0, left + held);
            }
        }
        sink.counts.prompts = tasks.len() as u64;
        Ok((outputs, sink.counts))
    }
}

/// Slots that so many requests can have: the preempted keep theirs.
fn slots(requests: usize) -> impl Iterator<Item = Slot> {
    (0..requests as u32).map(Slot)
}

fn blocks(tokens: u32) -> u64 {
    u64::from(tokens).div_ceil(PAGE as u64)
}

/// Tokens of KV memory of each model: for the batch's largest tasks, or half of that and never less than one
/// alone needs.
fn kv_tokens(tasks: &[&Task], batch: u32, memory: Memory) -> u64 {
    let whole = |task: &&Task| task.most_tokens(32).next_multiple_of(PAGE as u64);
    let mut needs: Vec<u64> = tasks.iter().map(whole).collect();
    needs.sort_unstable_by(|a, b| b.cmp(a));
    let all: u64 = needs.iter().take(batch as usize).sum();
    let one = needs.first().copied().unwrap_or(PAGE as u64);
    match memory {
        Memory::Roomy => all.max(one),
        // A task's text is about half of what it may need.
        Memory::Tight => (all * 2 / 5).max(one),
    }
}

/// Tokens of KV memory that a pool needs for any cell on these tasks.
pub fn most_kv_tokens(tasks: &[Task], factors: &Factors) -> u64 {
    let (tasks, batch) = (tasks.iter().collect::<Vec<_>>(), factors.batches.iter().max());
    kv_tokens(&tasks, batch.copied().unwrap_or(1), Memory::Roomy)
}

/// Counts, and nothing else.
struct Seen {
    target: ModelId,
    counts: Counts,
    finished: u64,
}

impl Sink for Seen {
    fn wants(&self) -> Wants {
        Wants { verifications: true, ..Wants::default() }
    }

    fn request(&mut self, record: &RequestRecord) {
        self.finished += u64::from(record.status == Status::Finished);
        self.counts.preempted += u64::from(record.preemptions);
    }

    fn verification(&mut self, record: &VerificationRecord) {
        self.counts.accepted += u64::from(record.accepted);
        // What stood behind a stop token was not rejected.
        let rejected = record.verdict == Verdict::Reject;
        self.counts.rejected += u64::from(rejected);
        self.counts.middle_rejected += u64::from(rejected && record.verifier != self.target);
    }
}

/// What the target makes of a task by itself: one token a pass, no serving loop, no other model.
///
/// # Errors
/// [`CheckError`], when the model fails.
pub fn alone(
    target: &mut dyn LevelModel,
    task: &Task,
    decoding: Decoding,
    luck: Luck,
) -> Result<Vec<u32>, CheckError> {
    let (noise, sampling) = (Noise::new(luck), decoding.sampling());
    let (mut warper, mut p) = (Warper::default(), Distribution::default());
    let (mut output, mut logits) = (Vec::new(), Vec::new());
    let mut packed = Packed { tokens: task.tokens.clone(), ..Packed::default() };
    let mut context = 0;
    while output.len() < task.limit as usize {
        let tokens = packed.tokens.len() as u32;
        packed.rows = vec![PackedRow { slot: Slot(0), context, tokens }];
        packed.want = vec![tokens - 1];
        target.forward(&packed, &mut logits)?;
        context += tokens;
        let token = match decoding {
            Decoding::Greedy => argmax(&logits)?,
            Decoding::Coupled(_) => {
                warper.warp(&logits, &sampling, &mut p)?;
                noise.choose(task.seed, output.len() as u32, &p)
            }
        };
        output.push(token);
        packed.tokens = vec![token];
        if task.stop.contains(&token) {
            break;
        }
    }
    target.truncate(Slot(0), 0);
    Ok(output)
}
