//! The serving loop under a backend that checks it: contents are mirrored, and every row must find
//! the cache that the counts say it has.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::backend::{FillEnd, PassOutcome, RowOutcome};
use crate::ids::{ClassId, RequestId};
use crate::luck::{Draws, Luck, Stream};
use crate::policy::{Ask, PassReport, Probe};
use crate::profile::{PassCosts, PassShape};
use crate::record::{PassRecord, RoundRecord, VerificationRecord};
use crate::request::Truth;
use crate::units::Span;

/// Every pass takes as long as its tokens.
struct Tokens;
impl PassCosts for Tokens {
    fn seconds(&self, model: ModelId, shape: &PassShape) -> f64 {
        f64::from(model.0 + 1) * (1e-3 + 1e-5 * f64::from(shape.new_tokens))
    }
}

/// Draws verdicts from keyed coins, or takes them from a script, and mirrors every cache.
struct Mirror {
    draws: Draws,
    alpha: f64,
    caches: BTreeMap<(Slot, ModelId), u32>,
    truth: BTreeMap<Slot, (RequestId, u32, u32)>, // id, prompt, output
    verdicts: BTreeMap<(RequestId, u32, u8, u32), u8>, // by request, committed, level, ahead
    script: Option<BTreeMap<(RequestId, u32, u8, u32), u8>>,
    freed: u64,
}

impl Mirror {
    fn new(seed: u64, alpha: f64) -> Self {
        let draws = Luck::new(seed).stream(Stream::Test);
        Self {
            draws,
            alpha,
            caches: BTreeMap::new(),
            truth: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            script: None,
            freed: 0,
        }
    }

    fn runs(&mut self, row: &Row, model: ModelId) {
        let cached = self.caches.entry((row.slot, model)).or_default();
        assert_eq!(*cached, row.context, "the counts know the cache: {row:?} of {model}");
        let (_, prompt, _) = self.truth[&row.slot];
        let known = prompt + row.committed + row.ahead;
        match row.work {
            Work::CatchUp => assert!(*cached + row.catch_up < known, "{row:?}"),
            Work::Probe { window } => assert!(u32::from(window) <= row.catch_up),
            Work::Draft { .. } | Work::Verify { .. } => {
                assert_eq!(*cached + row.catch_up + 1, known, "the pending token is next: {row:?}")
            }
        }
        *cached += row.new_tokens();
    }
}

impl Backend for Mirror {
    type Error = std::convert::Infallible;

    fn admit(&mut self, slot: Slot, request: &Request) {
        let old = self.truth.insert(slot, (request.id, request.prompt_tokens, request.truth.output_tokens()));
        assert!(old.is_none(), "slot {slot} was free");
    }

    fn run<P: Pass>(&mut self, pass: &P, outcome: &mut PassOutcome) -> Result<(), Self::Error> {
        let model = pass.model();
        let mut shape = PassShape::default();
        for (index, cohort) in pass.cohorts().iter().enumerate() {
            assert!(!cohort.slots.is_empty());
            for at in 0..cohort.slots.len() {
                let row = pass.draft_row(cohort, at);
                assert_eq!(row.plan.model(0), model);
                self.runs(&row, model);
                shape.add_row(row.new_tokens(), row.catch_up, row.context, row.logits());
                let (_, _, length) = self.truth[&row.slot];
                if row.committed + row.ahead + 1 == length {
                    outcome.fill_ends.push(FillEnd {
                        cohort: index as u32,
                        row: at as u32,
                        stop_token: true,
                    });
                }
            }
        }
        for row in pass.rows() {
            self.runs(row, model);
            shape.add_row(row.new_tokens(), row.catch_up, row.context, row.logits());
            let mut result = RowOutcome::default();
            if let Work::Verify { level, block } = row.work {
                assert_eq!(row.plan.model(usize::from(level)), model);
                let key = (row.request, row.committed, level, row.ahead);
                let coin = |j: &u8| {
                    self.draws.uniform(
                        row.request.0,
                        u64::from(row.committed + row.ahead) << 16 | u64::from(level) << 8 | u64::from(*j),
                    ) < self.alpha
                };
                let accepted = match &self.script {
                    Some(script) => script[&key],
                    None => (0..block).take_while(coin).count() as u8,
                };
                self.verdicts.insert(key, accepted);
                let (_, _, length) = self.truth[&row.slot];
                let left = length.saturating_sub(row.committed + row.ahead).max(1);
                let emitted = (u32::from(accepted) + 1).min(left) as u8;
                let ended = u32::from(emitted) == left;
                result = RowOutcome {
                    accepted: accepted.min(emitted),
                    emitted,
                    ended,
                    examined: block.min(accepted + 1),
                    similarity: 0.5,
                };
            }
            outcome.rows.push(result);
        }
        assert_eq!(shape, pass.shape(), "the joint shape is the sum of its rows");
        outcome.duration = Span::from_seconds(Tokens.seconds(model, &shape)).unwrap();
        Ok(())
    }

    fn truncate(&mut self, slot: Slot, model: ModelId, len: u32) {
        let cached = self.caches.entry((slot, model)).or_default();
        assert!(len <= *cached, "a cache only shrinks: {len} of {cached}");
        *cached = len;
    }

    fn free(&mut self, slot: Slot) {
        self.truth.remove(&slot).expect("a freed slot was in use");
        self.caches.retain(|&(s, _), _| s != slot);
        self.freed += 1;
    }
}

/// Another chain for every sequence in every round, and probes now and then.
struct Switching {
    draws: Draws,
    pool: u8,
}

impl Policy for Switching {
    fn name(&self) -> &str {
        "switching"
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        for &slot in ask.starting {
            let view = ask.request(slot);
            let bits = self.draws.bits(view.id().0, u64::from(view.rounds()));
            let mut models: Vec<ModelId> =
                (0..self.pool - 1).filter(|m| bits >> m & 1 == 1).map(ModelId).collect();
            models.push(ModelId(self.pool - 1));
            let windows: Vec<u32> =
                (1..models.len()).map(|level| 1 + (bits >> (8 * level) & 3) as u32).collect();
            plan.push(ChainPlan::new(&models, &windows).unwrap());
            if bits >> 40 & 7 == 0 && self.pool > 1 {
                plan.probe(Probe { slot, model: ModelId((bits >> 44) as u8 % (self.pool - 1)) });
            }
        }
    }
}

#[derive(Default)]
struct Rows {
    requests: Vec<RequestRecord>,
    passes: Vec<PassRecord>,
    rounds: Vec<RoundRecord>,
    verifications: Vec<VerificationRecord>,
}

impl Sink for Rows {
    fn wants(&self) -> Wants {
        Wants { passes: true, verifications: true, rounds: true, ..Wants::default() }
    }
    fn request(&mut self, record: &RequestRecord) {
        self.requests.push(*record);
    }
    fn pass(&mut self, record: &PassRecord) {
        self.passes.push(*record);
    }
    fn verification(&mut self, record: &VerificationRecord) {
        self.verifications.push(*record);
    }
    fn round(&mut self, record: &RoundRecord) {
        self.rounds.push(*record);
    }
}

fn request(id: u64, prompt_tokens: u32, output: u32, limit: u32) -> Request {
    Request {
        id: RequestId(id),
        class: ClassId(0),
        arrival: Time::ZERO,
        prompt_tokens,
        limit,
        priority: 0,
        slo: Slo::default(),
        truth: Truth::new(output),
    }
}

fn limits() -> Limits {
    Limits {
        max_running: 8,
        token_budget: 64,
        max_block: 32,
        hold_passes: None,
        context: 4096,
        by_priority: false,
    }
}

struct World {
    pool: u8,
    kv: Vec<u64>,
    limits: Limits,
    requests: Vec<Request>,
    seed: u64,
}

/// Runs everything to its end, checking the invariants after every pass.
fn run(world: &World, policy: Box<dyn Policy>, mut mirror: Mirror) -> (Rows, Tally, Mirror) {
    let costs = Corrected::new(Arc::new(Tokens));
    let mut replica = Replica::new(ReplicaId(0), world.limits.clone(), &world.kv, 4, policy, costs).unwrap();
    let mut sink = Rows::default();
    let mut now = Time::ZERO;
    let mut outcome = PassOutcome::default();
    let mut arrivals = world.requests.iter();
    for request in arrivals.by_ref().take(3) {
        replica.submit(request.clone(), &mut sink);
    }
    for tick in 0.. {
        assert!(tick < 2_000_000, "the loop comes to an end");
        if tick % 3 == 0
            && let Some(request) = arrivals.next()
        {
            replica.submit(request.clone(), &mut sink);
        }
        if !replica.begin(now, &mut mirror, &mut sink).unwrap() {
            match arrivals.next() {
                Some(request) => replica.submit(request.clone(), &mut sink),
                None => break,
            }
            continue;
        }
        outcome.clear();
        mirror.run(&replica.pass(), &mut outcome).unwrap();
        now += outcome.duration;
        replica.finish(now, &outcome, &mut mirror, &mut sink).unwrap();
        check(&replica);
    }
    for model in 0..world.pool {
        assert_eq!(
            replica.kv.free(ModelId(model)),
            replica.kv.total(ModelId(model)),
            "invariant 5: a finished request holds no block"
        );
    }
    let tally = replica.close(&mut sink);
    (sink, tally, mirror)
}

/// Invariants 1, 5 and 6, from the inside.
fn check(replica: &Replica) {
    let live: Vec<&Sequence> = replica.sequences.iter().filter(|s| s.stage != Stage::Free).collect();
    let running = live.iter().filter(|s| s.stage != Stage::Preempted);
    assert_eq!(running.clone().count() as u32, replica.running, "invariant 1");
    assert_eq!(running.clone().map(|s| u64::from(s.committed())).sum::<u64>(), replica.context_tokens);
    assert_eq!(running.filter(|s| s.output > 0).count() as u32, replica.decoding);
    for (model, queue) in replica.queues.iter().enumerate() {
        let held: u32 = live.iter().map(|s| s.held[model]).sum();
        let id = ModelId(model as u8);
        assert_eq!(held + replica.kv.free(id), replica.kv.total(id), "invariant 5: blocks of model {model}");
        for s in &live {
            assert!(replica.kv.blocks(s.cached[model]) <= s.held[model], "a cache fits its blocks: {s:?}");
            if s.stage == Stage::Starting {
                assert!(s.cached[model] < s.committed(), "invariant 6: the newest token is nobody's: {s:?}");
            }
            assert!(s.cached[model] <= s.committed() + s.plan.block() + 1, "invariant 6: {s:?}");
        }
        let waiting = queue.cohorts.iter().map(|c| c.slots.len()).sum::<usize>() + queue.entering.len();
        let drafting = live
            .iter()
            .filter(|s| matches!(s.stage, Stage::Entering | Stage::Drafting) && s.plan.model(0) == id)
            .count();
        assert_eq!(waiting, drafting, "every drafting sequence waits in one place");
    }
}

fn conserves(world: &World, rows: &Rows, tally: &Tally) {
    let mut ended = rows.requests.clone();
    ended.sort_by_key(|r| r.id);
    assert_eq!(ended.len(), world.requests.len(), "invariant 1: every request ends once");
    for (record, request) in ended.iter().zip(&world.requests) {
        assert_eq!(record.id, request.id);
        if record.status == Status::TooLong {
            continue;
        }
        assert_eq!(record.status, Status::Finished);
        let room = record.limit.min(request.truth.output_tokens());
        assert_eq!(record.output_tokens, room, "invariant 1: tokens too");
        let mine: Vec<&RoundRecord> = rows.rounds.iter().filter(|r| r.request == record.id).collect();
        assert_eq!(
            mine.iter().map(|r| u32::from(r.emitted)).sum::<u32>(),
            record.output_tokens,
            "Σ emitted = output"
        );
        assert_eq!(mine.len() as u32, record.rounds);
        assert!(mine.windows(2).all(|w| w[0].position + u32::from(w[0].emitted) == w[1].position));
        assert_eq!((mine[0].position, mine[0].drafted), (0, 0), "the first token is the prefill's");
    }
    assert_eq!(tally.emitted_tokens, ended.iter().map(|r| u64::from(r.output_tokens)).sum::<u64>());
    assert!(
        rows.passes.windows(2).all(|w| w[0].start + w[0].duration <= w[1].start && w[0].tick < w[1].tick),
        "invariant 2"
    );
}

fn switching(world: &World) -> Box<dyn Policy> {
    Box::new(Switching { draws: Luck::new(world.seed).stream(Stream::Policy), pool: world.pool })
}

#[derive(Debug)]
struct Shape {
    pool: u8,
    alpha: f64,
    kv: u64,
    requests: Vec<(u32, u32, u32)>,
    max_running: u32,
    budget: u32,
    hold: Option<u32>,
    seed: u64,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let requests = prop::collection::vec((1u32..90, 1u32..60, 1u32..80), 1..14);
    (
        1u8..5,
        0.0..1.0f64,
        120u64..700,
        requests,
        1u32..9,
        40u32..200,
        prop::option::of(1u32..20),
        any::<u64>(),
    )
        .prop_map(|(pool, alpha, kv, requests, max_running, budget, hold, seed)| Shape {
            pool,
            alpha,
            kv,
            requests,
            max_running,
            budget,
            hold,
            seed,
        })
}

fn world(shape: &Shape) -> World {
    let requests = shape
        .requests
        .iter()
        .enumerate()
        .map(|(i, &(prompt, output, limit))| request(i as u64, prompt, output, limit));
    World {
        pool: shape.pool,
        kv: (0..shape.pool).map(|m| shape.kv / u64::from(1 + m % 2)).collect(),
        limits: Limits {
            max_running: shape.max_running,
            token_budget: shape.budget,
            hold_passes: shape.hold,
            ..limits()
        },
        requests: requests.collect(),
        seed: shape.seed,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn invariants_1_2_5_6_hold_for_any_chains_under_any_pressure(shape in shapes()) {
        let world = world(&shape);
        let (rows, tally, mirror) = run(&world, switching(&world), Mirror::new(shape.seed, shape.alpha));
        conserves(&world, &rows, &tally);
        let refused = rows.requests.iter().filter(|r| r.status == Status::TooLong).count() as u64;
        prop_assert_eq!(mirror.freed + refused, world.requests.len() as u64);
    }

    #[test]
    fn invariant_8_recorded_verdicts_give_the_same_list_of_passes(shape in shapes()) {
        let world = world(&shape);
        let (first, _, recorded) = run(&world, switching(&world), Mirror::new(shape.seed, shape.alpha));
        let mut scripted = Mirror::new(shape.seed + 1, 0.0);
        scripted.script = Some(recorded.verdicts);
        let (second, _, _) = run(&world, switching(&world), scripted);
        prop_assert_eq!(first.passes, second.passes);
        prop_assert_eq!(first.verifications, second.verifications);
    }
}

/// Preemption, shortened plans, chunked catch-up and probes are really met by the shapes above.
#[test]
fn the_shapes_reach_every_path() {
    let (mut preempted, mut shortened, mut probes, mut refused) = (0, 0, 0, 0);
    for seed in 0..40u64 {
        let shape = Shape {
            pool: 4,
            alpha: 0.7,
            kv: 180,
            requests: (0..12).map(|i| (5 + 11 * (i + seed as u32) % 80, 40, 60)).collect(),
            max_running: 8,
            budget: 48,
            hold: None,
            seed,
        };
        let world = world(&shape);
        let (rows, tally, _) = run(&world, switching(&world), Mirror::new(seed, 0.7));
        conserves(&world, &rows, &tally);
        preempted += tally.preemptions;
        shortened += tally.shortened_plans;
        probes += tally.probes;
        refused += rows.requests.iter().filter(|r| r.status == Status::TooLong).count();
    }
    assert!(preempted > 20 && shortened > 20 && probes > 20, "{preempted} {shortened} {probes} {refused}");
}

#[test]
fn a_request_that_can_never_run_is_refused_with_a_reason() {
    let world = World {
        pool: 1,
        kv: vec![64],
        limits: limits(),
        requests: vec![request(0, 64, 5, 5), request(1, 60, 50, 50)],
        seed: 0,
    };
    let (rows, _, _) = run(&world, switching(&world), Mirror::new(0, 0.5));
    assert_eq!(rows.requests[0].status, Status::TooLong);
    assert_eq!(
        (rows.requests[1].status, rows.requests[1].output_tokens),
        (Status::Finished, 4),
        "memory bounds the output"
    );
}

/// Answers badly.
struct Bad(u8);

impl Policy for Bad {
    fn name(&self) -> &str {
        "bad"
    }
    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        let target = ChainPlan::target_only(ModelId(1));
        match self.0 {
            0 => plan.push(target),
            1 => plan.set_all(ChainPlan::target_only(ModelId(0))),
            2 => plan.set_all(ChainPlan::new(&[ModelId(0), ModelId(1)], &[20]).unwrap()),
            _ => {
                plan.set_all(target);
                plan.probe(Probe { slot: ask.starting[0], model: ModelId(1) });
            }
        }
    }
    fn learn(&mut self, _: &PassReport<'_>) {}
}

#[test]
fn a_bad_answer_is_an_error_that_names_the_policy() {
    let answer = |kind| {
        let costs = Corrected::new(Arc::new(Tokens));
        let limits = Limits { max_block: 8, ..limits() };
        let mut replica =
            Replica::new(ReplicaId(0), limits, &[400, 400], 4, Box::new(Bad(kind)), costs).unwrap();
        let (mut mirror, mut sink, mut outcome) =
            (Mirror::new(0, 0.5), Rows::default(), PassOutcome::default());
        (0..2).for_each(|i| replica.submit(request(i, 8, 20, 20), &mut sink));
        for tick in 1u64.. {
            match replica.begin(Time::from_nanos(tick), &mut mirror, &mut sink) {
                Err(error) => return error.to_string(),
                Ok(more) => assert!(more && tick < 99),
            }
            outcome.clear();
            mirror.run(&replica.pass(), &mut outcome).unwrap();
            outcome.duration = Span::from_nanos(1);
            replica.finish(Time::from_nanos(tick + 1), &outcome, &mut mirror, &mut sink).unwrap();
        }
        unreachable!()
    };
    insta::assert_snapshot!(answer(0), @"policy bad: 2 sequences start a round, got plans for 1");
    insta::assert_snapshot!(answer(1), @"policy bad, request 0: a chain ends in the target, model 1; got models [0]");
    insta::assert_snapshot!(answer(2), @"policy bad, request 0: windows must each be at least 1 and add up to at most 8, got [20]");
    insta::assert_snapshot!(answer(3), @"policy bad: a probe names a starting sequence and a model below the target, got model 1 for slot 0");
}
