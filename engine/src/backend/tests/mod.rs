//! The backend under the real serving loop, on models that are tables.

mod agreement;
mod broken;
mod enumerate;
mod faults;
mod frequencies;
mod law;
mod policies;
mod toy;
mod walk;

use std::collections::BTreeMap;
use std::sync::Arc;

use specrouter_routing::backend::{Backend, Pass, PassOutcome, Work};
use specrouter_routing::chain::{ChainPlan, StopRule};
use specrouter_routing::ids::{ClassId, ModelId, ReplicaId, RequestId};
use specrouter_routing::policy::Policy;
use specrouter_routing::profile::{Corrected, PassCosts, PassShape};
use specrouter_routing::record::{RequestRecord, Sink, VerificationRecord, Wants};
use specrouter_routing::replica::{Limits, Replica};
use specrouter_routing::request::Truth;
use specrouter_routing::slo::Slo;

use super::*;
use crate::sampling::Sampling;
use crate::verify::Broken;
use toy::{Table, Toy};

/// Every look at it is a microsecond later.
#[derive(Default)]
struct Counting(u64);

impl Clock for Counting {
    fn now(&mut self) -> Time {
        self.0 += 1;
        Time::from_nanos(1000 * self.0)
    }
}

impl<M, K, C, L> EngineBackend<M, K, C, L> {
    /// The same with a rule of losslessness broken, for tests elsewhere.
    pub(crate) fn breaking(mut self, broken: Broken) -> Self {
        self.hand.rules.broken = Some(broken);
        self
    }
}

/// Larger models cost more.
struct Prices;

impl PassCosts for Prices {
    fn seconds(&self, model: ModelId, shape: &PassShape) -> f64 {
        [0.05, 0.3, 1.0, 2.0][model.index()] * (1e-3 + 1e-5 * f64::from(shape.new_tokens))
    }
}

/// What the serving loop recorded.
#[derive(Default)]
struct Rows {
    requests: Vec<RequestRecord>,
    verifications: Vec<VerificationRecord>,
}

impl Sink for Rows {
    fn wants(&self) -> Wants {
        Wants { verifications: true, ..Wants::default() }
    }
    fn request(&mut self, record: &RequestRecord) {
        self.requests.push(*record);
    }
    fn verification(&mut self, record: &VerificationRecord) {
        self.verifications.push(*record);
    }
}

/// Keeps what was streamed.
#[derive(Default)]
struct Heard(BTreeMap<RequestId, Vec<CommittedToken>>);

impl Listener for Heard {
    fn committed(&mut self, request: RequestId, tokens: &[CommittedToken]) {
        assert!(!tokens.is_empty());
        self.0.entry(request).or_default().extend(tokens);
    }
}

/// One request.
#[derive(Clone)]
struct Job {
    prompt: Vec<u32>,
    limit: u32,
    sampling: Sampling,
    seed: u64,
    stop: Vec<u32>,
}

/// Where requests are run.
#[derive(Clone)]
struct World {
    tables: Vec<Arc<Table>>,
    verify: Verify,
    limits: Limits,
    kv: Vec<u64>,
    seed: u64,
    broken: Option<Broken>,
}

impl World {
    fn new(tables: Vec<Arc<Table>>) -> Self {
        let limits = Limits {
            max_running: 8,
            token_budget: 64,
            max_block: 32,
            hold_passes: None,
            context: 4096,
            by_priority: false,
        };
        let kv = vec![4096; tables.len()];
        Self { tables, verify: Verify::Speculative, limits, kv, seed: 7, broken: None }
    }

    fn target(&self) -> &Table {
        self.tables.last().unwrap()
    }
}

type Engine<C> = EngineBackend<Toy, Counting, C, Heard>;

/// A replica and its backend, pass by pass.
struct Machine<C: Coins> {
    replica: Replica,
    backend: Engine<C>,
    sink: Rows,
    outcome: PassOutcome,
    now: Time,
    catch_ups: u64,
    probes: u64,
    /// Slots of the last pass.
    last: String,
}

impl<C: Coins> Machine<C> {
    fn new(world: &World, policy: Box<dyn Policy>, coins: C) -> Self {
        let costs = Corrected::new(Arc::new(Prices));
        let replica = Replica::new(ReplicaId(0), world.limits.clone(), &world.kv, 4, policy, costs).unwrap();
        let models = world.tables.iter().enumerate().map(|(i, table)| Toy::new(i, table)).collect();
        let luck = Luck::new(world.seed);
        let mut backend =
            EngineBackend::with(models, world.verify, luck, Counting::default(), coins, Heard::default())
                .unwrap();
        backend.hand.rules.broken = world.broken;
        Self {
            replica,
            backend,
            sink: Rows::default(),
            outcome: PassOutcome::default(),
            now: Time::ZERO,
            catch_ups: 0,
            probes: 0,
            last: String::new(),
        }
    }

    fn submit(&mut self, id: u64, job: &Job) {
        let Job { prompt, limit, sampling, seed, stop } = job.clone();
        let request = Request {
            id: RequestId(id),
            class: ClassId(0),
            arrival: Time::ZERO,
            prompt_tokens: prompt.len() as u32,
            limit,
            priority: 0,
            slo: Slo::default(),
            truth: Truth::new(limit),
        };
        self.backend.submit(RequestId(id), Prompt { tokens: prompt, sampling, seed, stop }).unwrap();
        self.replica.submit(request, &mut self.sink);
    }

    fn begin(&mut self) -> bool {
        self.replica.begin(self.now, &mut self.backend, &mut self.sink).unwrap()
    }

    fn finish(&mut self) {
        let pass = self.replica.pass();
        let lag = |work: Work, catch_up: u32| work == Work::CatchUp || catch_up > 1;
        self.catch_ups += pass.rows().iter().filter(|r| lag(r.work, r.catch_up)).count() as u64;
        self.probes += pass.rows().iter().filter(|r| matches!(r.work, Work::Probe { .. })).count() as u64;
        let slots = pass.cohorts().iter().flat_map(|c| &c.slots).chain(pass.rows().iter().map(|r| &r.slot));
        self.last = slots.map(|slot| format!("{slot} ")).collect();
        self.backend.run(&pass, &mut self.outcome).unwrap();
        assert!(self.outcome.duration > Span::ZERO && self.outcome.earlier.is_empty());
        // Toys take no time; a policy shall find that larger models do.
        self.outcome.duration = Span::from_seconds(Prices.seconds(pass.model(), &pass.shape())).unwrap();
        self.now += self.outcome.duration;
        self.replica.finish(self.now, &self.outcome, &mut self.backend, &mut self.sink).unwrap();
    }

    /// Every cache holds what stands in the text and the blocks above it, and never the newest
    /// token: rows and caches cannot have gone out of step (invariant 6).
    fn check(&self) {
        for (slot, contents) in self.backend.contents.iter().enumerate() {
            let Some(contents) = contents else {
                assert!(self.backend.models.iter().all(|m| m.cache(slot).is_empty()), "freed is empty");
                continue;
            };
            let mut known = Vec::new();
            let top = contents.blocks.len();
            contents.copy_known(0, top, 0, contents.known(0, top), &mut known);
            for model in &self.backend.models {
                let cached = model.cache(slot);
                assert!(
                    known.starts_with(cached),
                    "invariant 6: {} holds {cached:?} of {known:?}",
                    model.name()
                );
                assert!(cached.len() < known.len(), "invariant 6: the newest token is nobody's");
            }
            if contents.blocks.iter().all(Vec::is_empty) {
                assert_eq!(known, contents.text);
            }
        }
    }
}

/// What came of a run.
struct Ran {
    finished: BTreeMap<RequestId, Finished>,
    heard: BTreeMap<RequestId, Vec<CommittedToken>>,
    rows: Rows,
    catch_ups: u64,
    probes: u64,
    preemptions: u32,
}

/// Runs `jobs` to their end, checking after every pass.
fn run(world: &World, policy: Box<dyn Policy>, jobs: &[Job]) -> Ran {
    let mut machine = Machine::new(world, policy, Keyed::new(Luck::new(world.seed)));
    for (id, job) in jobs.iter().enumerate() {
        machine.submit(id as u64, job);
    }
    while machine.begin() {
        machine.finish();
        machine.check();
    }
    ended(machine, jobs.len())
}

fn ended<C: Coins>(mut machine: Machine<C>, jobs: usize) -> Ran {
    for model in 0..machine.backend.models.len() {
        let (kv, model) = (machine.replica.kv(), ModelId(model as u8));
        assert_eq!(kv.free(model), kv.total(model), "invariant 5");
    }
    let finished: BTreeMap<_, _> =
        machine.backend.take_finished().into_iter().map(|f| (f.request, f)).collect();
    assert_eq!(finished.len(), jobs, "invariant 1: every request ends once");
    let heard = std::mem::take(&mut machine.backend.listener_mut().0);
    for (id, text) in &finished {
        let told: Vec<u32> = heard[id].iter().map(|t| t.token).collect();
        assert_eq!(told, text.output(), "what is streamed is what is finished");
        assert!(heard[id].iter().map(|t| t.model).eq(text.models.iter().copied()));
    }
    let preemptions = machine.sink.requests.iter().map(|r| r.preemptions).sum();
    let Machine { sink: rows, catch_ups, probes, .. } = machine;
    Ran { finished, heard, rows, catch_ups, probes, preemptions }
}

fn plan(models: &[u8], windows: &[u32]) -> ChainPlan {
    ChainPlan::new(&models.iter().map(|&m| ModelId(m)).collect::<Vec<_>>(), windows).unwrap()
}

fn plain() -> Sampling {
    Sampling::default()
}
