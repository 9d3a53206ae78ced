//! Twin parity: what the engine decided, told to the simulator's loop, gives the same list of passes.
//!
//! The engine serves real decoders under a clock that counts. Every pass it was handed, every outcome and every
//! rollback is kept; then the simulator serves the same arrivals, and its backend answers what the engine found.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use specrouter_engine::backend::{Clock, EngineBackend, Finished};
use specrouter_engine::coins::Keyed;
use specrouter_engine::decoder::Decoder;
use specrouter_engine::level::LevelModel;
use specrouter_engine::sampling::Sampling;
use specrouter_engine::selfcheck::cells::{Cell, Factors};
pub(crate) use specrouter_engine::selfcheck::policies::Always;
use specrouter_engine::selfcheck::policies::EveryRound;
use specrouter_engine::selfcheck::{Counting, Task, nested_pool, random_tasks};
use specrouter_engine::settings::Dtype;
use specrouter_engine::verify::Verify;
use specrouter_routing::backend::{Backend, FillEnd, Pass, PassOutcome, Row, RowOutcome, Work};
use specrouter_routing::chain::{ChainPlan, StopRule};
use specrouter_routing::dispatch::DispatcherConfig;
use specrouter_routing::ids::{ClassId, ModelId, ReplicaId, RequestId, Slot};
use specrouter_routing::luck::{Luck, Stream};
use specrouter_routing::policies::{PolicyConfig, PolicyPool};
use specrouter_routing::policy::Policy;
use specrouter_routing::policy::price::Candidates;
use specrouter_routing::profile::{Corrected, PassCosts, PassShape};
use specrouter_routing::record::{
    DecisionRecord, PassRecord, RequestRecord, RoundRecord, Sink, VerificationRecord, Wants,
};
use specrouter_routing::replica::{Limits, Replica};
use specrouter_routing::request::{Request, Truth};
use specrouter_routing::slo::Slo;
use specrouter_routing::units::{Span, Time};
use specrouter_sim::drive::{Bounds, open_loop};
use specrouter_sim::simulator::Simulator;

/// What passes cost here, and what policies believe.
struct Prices;

impl PassCosts for Prices {
    fn seconds(&self, model: ModelId, shape: &PassShape) -> f64 {
        [0.05, 0.2, 1.0][model.index()] * (1e-3 + 4e-5 * f64::from(shape.new_tokens))
    }
}

/// One pass as the backend saw it: tick, model, shape, rows.
type Passed = (u64, ModelId, PassShape, Vec<Row>);

/// What the loop told its backend between passes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    Admitted(Slot, RequestId),
    Truncated(Slot, ModelId, u32),
    Freed(Slot),
}

/// What came of one row.
#[derive(Clone, Debug)]
struct Event {
    model: ModelId,
    row: Row,
    outcome: RowOutcome,
    /// A draft that ended its fill; true when with a stop token.
    ended: Option<bool>,
}

/// What a backend saw.
#[derive(Default)]
pub(crate) struct Log {
    passes: Vec<Passed>,
    told: Vec<Told>,
    /// By request, in order.
    events: BTreeMap<RequestId, Vec<Event>>,
    /// By tick.
    durations: BTreeMap<u64, Span>,
}

fn rows<P: Pass>(pass: &P) -> Vec<Row> {
    let drafts = pass.cohorts().iter().flat_map(|c| (0..c.slots.len()).map(|index| pass.draft_row(c, index)));
    drafts.chain(pass.rows().iter().copied()).collect()
}

/// The engine's backend, written down.
struct Recorder<B> {
    inner: B,
    log: Log,
}

impl<K: Clock> Backend for Recorder<EngineBackend<Decoder, K, Keyed>> {
    type Error = <EngineBackend<Decoder, K, Keyed> as Backend>::Error;

    fn admit(&mut self, slot: Slot, request: &Request) {
        self.log.told.push(Told::Admitted(slot, request.id));
        self.inner.admit(slot, request);
    }

    fn run<P: Pass>(&mut self, pass: &P, outcome: &mut PassOutcome) -> Result<(), Self::Error> {
        let (model, rows) = (pass.model(), rows(pass));
        for row in &rows {
            let cached = self.inner.models()[model.index()].cached(row.slot);
            assert_eq!(cached, row.context, "invariant 6: the counts know the cache: {row:?}");
        }
        self.inner.run(pass, outcome)?;
        // Real time would do; the same every time is easier to look into.
        outcome.duration = Span::from_seconds(Prices.seconds(model, &pass.shape())).unwrap();
        self.log.durations.insert(pass.tick(), outcome.duration);
        let mut at = 0;
        let mut push = |row: Row, outcome: RowOutcome, ended| {
            self.log.events.entry(row.request).or_default().push(Event { model, row, outcome, ended });
        };
        for (cohort, of) in pass.cohorts().iter().enumerate() {
            for index in 0..of.slots.len() {
                let place = (cohort as u32, index as u32);
                let end = outcome.fill_ends.iter().find(|end| (end.cohort, end.row) == place);
                push(rows[at], RowOutcome::default(), end.map(|end| end.stop_token));
                at += 1;
            }
        }
        for (row, &outcome) in rows[at..].iter().zip(&outcome.rows) {
            push(*row, outcome, None);
        }
        self.log.passes.push((pass.tick(), model, pass.shape(), rows));
        Ok(())
    }

    fn truncate(&mut self, slot: Slot, model: ModelId, len: u32) {
        self.log.told.push(Told::Truncated(slot, model, len));
        self.inner.truncate(slot, model, len);
    }

    fn free(&mut self, slot: Slot) {
        self.log.told.push(Told::Freed(slot));
        self.inner.free(slot);
    }
}

/// Answers what the engine found. Told to run ahead, it answers several draft passes at once, up to the first in
/// which a fill ends, as the simulator's own backend does.
struct Recorded {
    script: Log,
    log: Log,
    /// How far each request has come.
    next: BTreeMap<RequestId, usize>,
    ahead: bool,
}

impl Recorded {
    /// The request's next event, which is what this row must come to. A pass that an arrival cut off is asked for
    /// again, so the row may be an earlier one.
    fn answer(&mut self, model: ModelId, row: &Row) -> Event {
        let next = self.next.entry(row.request).or_default();
        let events = &self.script.events[&row.request];
        let last = (*next).min(events.len() - 1);
        let at = events[..=last].iter().rposition(|event| event.model == model && event.row == *row);
        let at = at.unwrap_or_else(|| {
            panic!("the engine never ran {row:?} of model {model}; {:?} was next", events[last])
        });
        assert!(at == *next || matches!(row.work, Work::Draft { .. }), "only drafts run ahead: {row:?}");
        *next = at + 1;
        events[at].clone()
    }
}

impl Backend for Recorded {
    type Error = Infallible;

    fn admit(&mut self, slot: Slot, request: &Request) {
        self.log.told.push(Told::Admitted(slot, request.id));
    }

    fn run<P: Pass>(&mut self, pass: &P, outcome: &mut PassOutcome) -> Result<(), Infallible> {
        outcome.clear();
        let (model, rows) = (pass.model(), rows(pass));
        outcome.duration = self.script.durations[&pass.tick()];
        let mut events: Vec<Event> = rows.iter().map(|row| self.answer(model, row)).collect();
        let drafts: usize = pass.cohorts().iter().map(|cohort| cohort.slots.len()).sum();
        outcome.rows.extend(events[drafts..].iter().map(|event| event.outcome));
        self.log.passes.push((pass.tick(), model, pass.shape(), rows));
        let mut ran = 1;
        while self.ahead && ran < pass.run_length() && events.iter().all(|event| event.ended.is_none()) {
            // One cohort, whose rows go on.
            for event in &mut events {
                let at = self.next[&event.row.request];
                *event = self.script.events[&event.row.request][at].clone();
                assert!(matches!(event.row.work, Work::Draft { .. }) && event.model == model);
                self.next.insert(event.row.request, at + 1);
            }
            outcome.earlier.push(outcome.duration);
            outcome.duration = self.script.durations[&(pass.tick() + u64::from(ran))];
            ran += 1;
        }
        let mut events = events.iter();
        for (cohort, of) in pass.cohorts().iter().enumerate() {
            for (row, event) in events.by_ref().take(of.slots.len()).enumerate() {
                let end = |stop_token| FillEnd { cohort: cohort as u32, row: row as u32, stop_token };
                outcome.fill_ends.extend(event.ended.map(end));
            }
        }
        Ok(())
    }

    fn truncate(&mut self, slot: Slot, model: ModelId, len: u32) {
        self.log.told.push(Told::Truncated(slot, model, len));
    }

    fn free(&mut self, slot: Slot) {
        self.log.told.push(Told::Freed(slot));
    }
}

/// What the loop itself recorded. Who waits and runs at a pass's end depends on when a driver looks for arrivals:
/// the simulator's are there at once, the engine's after the pass.
#[derive(Default, PartialEq)]
pub(crate) struct Rows {
    passes: Vec<(u64, ModelId, Time, Span, PassShape)>,
    pub(crate) verifications: Vec<VerificationRecord>,
    pub(crate) rounds: Vec<RoundRecord>,
    decisions: Vec<DecisionRecord>,
    requests: Vec<RequestRecord>,
}

impl Sink for Rows {
    fn wants(&self) -> Wants {
        Wants { passes: true, verifications: true, rounds: true, decisions: true, ..Wants::default() }
    }
    fn request(&mut self, record: &RequestRecord) {
        self.requests.push(*record);
    }
    fn pass(&mut self, r: &PassRecord) {
        self.passes.push((r.tick, r.model, r.start, r.duration, r.shape));
    }
    fn verification(&mut self, record: &VerificationRecord) {
        self.verifications.push(*record);
    }
    fn round(&mut self, record: &RoundRecord) {
        self.rounds.push(*record);
    }
    fn decision(&mut self, record: &DecisionRecord) {
        self.decisions.push(*record);
    }
}

/// What is served, and how.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) tasks: Vec<Task>,
    pub(crate) sampling: Sampling,
    pub(crate) verify: Verify,
    pub(crate) batch: u32,
    pub(crate) kv_tokens: u64,
    /// Time between arrivals.
    pub(crate) every: Span,
}

impl World {
    pub(crate) fn new(requests: usize) -> Self {
        Self {
            tasks: random_tasks(256, requests, 8),
            sampling: Sampling::new(0.9, None, Some(0.95)).unwrap(),
            verify: Verify::Speculative,
            batch: 6,
            kv_tokens: 4096,
            every: Span::from_nanos(3_000_000),
        }
    }

    pub(crate) fn requests(&self) -> impl Iterator<Item = Request> {
        let request = |(id, task): (usize, &Task)| Request {
            id: RequestId(id as u64),
            class: ClassId(0),
            // Never two at once: an idle simulator starts with the first, the engine with all that are there.
            arrival: Time::from_nanos(self.every.nanos() * (id / 2) as u64 + id as u64),
            prompt_tokens: task.tokens.len() as u32,
            limit: task.limit,
            priority: 0,
            slo: Slo::default(),
            truth: Truth::new(task.limit),
        };
        self.tasks.iter().enumerate().map(request).collect::<Vec<_>>().into_iter()
    }

    pub(crate) fn replica(&self, policy: Box<dyn Policy>) -> Replica {
        let limits = Limits {
            max_running: self.batch,
            token_budget: 64,
            max_block: 32,
            hold_passes: None,
            context: 512,
            by_priority: false,
        };
        let costs = Corrected::new(Arc::new(Prices));
        Replica::new(ReplicaId(0), limits, &[self.kv_tokens; 3], 16, policy, costs).unwrap()
    }

    /// Serves for real. Arrivals are looked for between passes, as the engine's own loop does.
    pub(crate) fn engine(&self, policy: Box<dyn Policy>) -> (Rows, Log, BTreeMap<RequestId, Finished>) {
        let models = nested_pool(6, (0.3, 0.2), Dtype::F32, self.kv_tokens).unwrap();
        let inner = EngineBackend::new(models, self.verify, Luck::new(4), Counting::default()).unwrap();
        let mut backend = Recorder { inner, log: Log::default() };
        let (mut replica, mut sink, mut outcome) =
            (self.replica(policy), Rows::default(), PassOutcome::default());
        for (id, task) in self.tasks.iter().enumerate() {
            let (tokens, stop) = (task.tokens.clone(), task.stop.clone());
            let prompt =
                specrouter_engine::backend::Prompt { tokens, sampling: self.sampling, seed: task.seed, stop };
            backend.inner.submit(RequestId(id as u64), prompt).unwrap();
        }
        let (mut now, mut arrivals) = (Time::ZERO, self.requests().peekable());
        loop {
            while let Some(request) = arrivals.next_if(|request| request.arrival <= now) {
                replica.submit(request, &mut sink);
            }
            if replica.begin(now, &mut backend, &mut sink).unwrap() {
                backend.run(&replica.pass(), &mut outcome).unwrap();
                now += outcome.duration;
                replica.finish(now, &outcome, &mut backend, &mut sink).unwrap();
            } else if let Some(request) = arrivals.peek() {
                now = request.arrival;
            } else {
                break;
            }
        }
        let finished = backend.inner.take_finished().into_iter().map(|text| (text.request, text)).collect();
        for model in backend.inner.models() {
            assert_eq!(model.used_pages(), 0, "invariant 5: nothing is left in {}", model.name());
        }
        (sink, backend.log, finished)
    }

    /// Serves by what was recorded, in the simulator.
    fn simulator(&self, policy: Box<dyn Policy>, script: Log, ahead: bool) -> (Rows, Log) {
        let backend = Recorded { script, log: Log::default(), next: BTreeMap::new(), ahead };
        let dispatcher = DispatcherConfig::RoundRobin.build(Luck::new(0).stream(Stream::Dispatch));
        let log = Arc::new(std::sync::Mutex::new(Log::default()));
        let backend = Returned { backend, to: log.clone() };
        let mut simulator = Simulator::new(vec![(self.replica(policy), backend)], dispatcher);
        let (mut sink, mut watch) = (Rows::default(), |_| true);
        let mut bounds = Bounds { horizon: None, watch: &mut watch };
        open_loop(&mut simulator, self.requests(), &mut bounds, &mut sink).unwrap();
        simulator.close(&mut sink);
        let log = std::mem::take(&mut *log.lock().unwrap());
        (sink, log)
    }
}

/// Hands its log out when the simulator is done with it.
struct Returned {
    backend: Recorded,
    to: Arc<std::sync::Mutex<Log>>,
}

impl Backend for Returned {
    type Error = Infallible;
    fn admit(&mut self, slot: Slot, request: &Request) {
        self.backend.admit(slot, request);
    }
    fn run<P: Pass>(&mut self, pass: &P, outcome: &mut PassOutcome) -> Result<(), Infallible> {
        self.backend.run(pass, outcome)
    }
    fn truncate(&mut self, slot: Slot, model: ModelId, len: u32) {
        self.backend.truncate(slot, model, len);
    }
    fn free(&mut self, slot: Slot) {
        self.backend.free(slot);
    }
}

impl Drop for Returned {
    fn drop(&mut self) {
        *self.to.lock().unwrap() = std::mem::take(&mut self.backend.log);
    }
}

pub(crate) fn plan(models: &[u8], windows: &[u32]) -> ChainPlan {
    ChainPlan::new(&models.iter().map(|&m| ModelId(m)).collect::<Vec<_>>(), windows).unwrap()
}

/// A policy of the product by its configuration.
pub(crate) fn product(config: &str) -> Box<dyn Policy> {
    let names: Vec<String> = (0..3).map(|m| format!("m{m}")).collect();
    let pool = PolicyPool {
        names: &names,
        candidates: Candidates::all(3),
        classes: &["all".to_owned()],
        max_block: 16,
        draws: Luck::new(1).stream(Stream::Policy),
    };
    serde_json::from_str::<PolicyConfig>(config).unwrap().build(&pool).unwrap()
}

pub(crate) fn switching() -> Box<dyn Policy> {
    let factors = Factors::new(vec![String::new()], 3, (0.15, 3.5));
    let cell = Cell([0, 3, 2, 0, 0, 0, 0, 2]);
    Box::new(EveryRound::new(factors.plan(&cell), &factors.plans(&cell), 12))
}

/// Makes a policy, as often as it is asked for.
pub(crate) type Make = fn() -> Box<dyn Policy>;

pub(crate) fn policies() -> Vec<(&'static str, Make)> {
    vec![
        ("target alone", || Box::new(Always(plan(&[2], &[])))),
        ("two levels", || Box::new(Always(plan(&[0, 2], &[5])))),
        ("three levels", || Box::new(Always(plan(&[0, 1, 2], &[3, 4])))),
        ("three levels that stop", || {
            Box::new(Always(plan(&[0, 1, 2], &[4, 3]).stopping(StopRule::TopProbabilityBelow(0.15))))
        }),
        ("switching", switching),
        ("specrouter", || {
            product(r#"{"specrouter": {"scope": "per_request", "probe_rounds": 2, "max_window": 4}}"#)
        }),
        ("goodput", || product(r#"{"goodput": {"draft": "m0", "max_window": 6, "weight": 0.5}}"#)),
    ]
}

/// The first entry in which two lists differ.
#[track_caller]
fn same<T: PartialEq + std::fmt::Debug>(what: &str, engine: &[T], simulator: &[T]) {
    let first = engine.iter().zip(simulator).position(|(a, b)| a != b);
    if let Some(at) = first {
        panic!("{what} {at}: the engine has {:?}, the simulator {:?}", engine[at], simulator[at]);
    }
    assert_eq!(engine.len(), simulator.len(), "{what}");
}

#[test]
fn invariant_8_the_engines_verdicts_give_the_simulator_the_same_list_of_passes() {
    let (mut preempted, mut middle, mut catch_ups, mut probes, mut stops) = (0, 0, 0, 0, 0);
    let tight = World { kv_tokens: 160, ..World::new(14) };
    let greedy = World { sampling: Sampling::greedy(), batch: 17, every: Span::ZERO, ..World::new(20) };
    for world in [World::new(14), tight, greedy] {
        for (name, policy) in policies() {
            let (rows, log, _) = world.engine(policy());
            preempted += rows.requests.iter().map(|r| r.preemptions).sum::<u32>();
            middle +=
                rows.verifications.iter().filter(|v| v.verifier.0 == 1 && v.accepted < v.drafted).count();
            let all = || log.passes.iter().flat_map(|pass| &pass.3);
            catch_ups += all().filter(|row| row.committed > 0 && row.context > 0 && row.catch_up > 1).count();
            probes += all().filter(|row| matches!(row.work, Work::Probe { .. })).count();
            stops += log.events.values().flatten().filter(|event| event.ended == Some(false)).count();
            let (passes, told) = (log.passes.clone(), log.told.clone());
            let script =
                || Log { events: log.events.clone(), durations: log.durations.clone(), ..Log::default() };
            for ahead in [false, true] {
                let name = if ahead { format!("{name}, drafts at once") } else { name.to_owned() };
                let (twin, seen) = world.simulator(policy(), script(), ahead);
                same(&format!("{name}: pass"), &rows.passes, &twin.passes);
                same(&format!("{name}: verification"), &rows.verifications, &twin.verifications);
                same(&format!("{name}: round"), &rows.rounds, &twin.rounds);
                same(&format!("{name}: decision"), &rows.decisions, &twin.decisions);
                same(&format!("{name}: request"), &rows.requests, &twin.requests);
                // Every rollback too: the caches of the engine are those that the simulator counts.
                same(&format!("{name}: word to the backend"), &told, &seen.told);
                if !ahead {
                    same(&format!("{name}: pass, row by row"), &passes, &seen.passes);
                }
            }
        }
    }
    assert!(preempted > 20 && middle > 100 && catch_ups > 100, "{preempted} {middle} {catch_ups}");
    assert!(probes > 10 && stops > 50, "{probes} {stops}");
}

/// A verdict that is not the engine's changes the list: the comparison can fail.
#[test]
fn invariant_8_one_verdict_more_or_less_changes_the_passes() {
    let world = World::new(6);
    let policy = || -> Box<dyn Policy> { Box::new(Always(plan(&[0, 1, 2], &[3, 4]))) };
    let (rows, mut script, _) = world.engine(policy());
    let events = script.events.get_mut(&RequestId(3)).unwrap();
    // The last verification by the target: nothing is asked after what it leads to.
    let event =
        events.iter_mut().rev().find(|event| event.outcome.accepted > 0 && event.model.0 == 2).unwrap();
    event.outcome.accepted -= 1;
    event.outcome.emitted -= 1;
    let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let (twin, _) = world.simulator(policy(), script, false);
        assert!(twin.verifications != rows.verifications || twin.passes != rows.passes);
    }));
    // Either the lists differ, or the simulator asked for a row that the engine never ran.
    if let Err(panic) = changed {
        let said = panic.downcast_ref::<String>().map_or("", String::as_str);
        assert!(said.contains("the engine never ran"), "{said}");
    }
}

#[test]
fn invariant_10_acceptance_of_a_sequence_does_not_depend_on_its_neighbours() {
    let of = |batch, every| {
        let world = World { batch, every: Span::from_nanos(every), ..World::new(24) };
        let (rows, _, texts) = world.engine(Box::new(Always(plan(&[0, 1, 2], &[3, 4]))));
        let mut seen: BTreeMap<RequestId, Vec<_>> = BTreeMap::new();
        for v in &rows.verifications {
            let similarity = v.similarity.map(f32::to_bits);
            let entry = seen.entry(v.request).or_default();
            entry.push((v.round, v.level, v.cycle, v.drafted, v.accepted, similarity));
        }
        let outputs: Vec<Vec<u32>> = texts.values().map(|text| text.output().to_vec()).collect();
        (seen, outputs)
    };
    let alone = of(1, 0);
    assert!(alone.0.values().flatten().count() > 200);
    for (batch, every) in [(3, 3_000_000), (17, 0), (17, 700_000)] {
        let together = of(batch, every);
        assert!(alone.1 == together.1, "outputs at batch {batch}");
        assert!(alone.0 == together.0, "verdicts at batch {batch}");
    }
}
