//! What a draw, a price, a decision and a round cost. `cargo bench --bench speed` prints the table.
//!
//! The figures of `round` are per sequence-round: the whole loop, acceptance drawn per token, prices
//! of an H100, divided by the rounds committed (divan's item counter is rounds). Those of `replay` and of what policies
//! are measured against are per request, over 30 scored texts of 96 tokens that come over and over.
#![allow(clippy::unwrap_used, reason = "a bench that cannot be set up has nothing to measure")]

mod setup;

use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;
use setup::{MEMORY, built, hardware, limits, models, request, serve};
use specrouter_routing::backend::After;
use specrouter_routing::chain::ChainPlan;
use specrouter_routing::ids::{ModelId, ReplicaId, RequestId};
use specrouter_routing::luck::{Luck, Stream};
use specrouter_routing::policies::{PolicyConfig, StaticConfig};
use specrouter_routing::policy::Policy;
use specrouter_routing::policy::price::{AlphaMatrix, Batch, Candidates, Pricing};
use specrouter_routing::policy::search::{Limits as SearchLimits, Search};
use specrouter_routing::profile::{DataSheet, PassCosts, PassShape};
use specrouter_routing::record::{Decoding, Opinion, TokenRecord, pairs, triples};
use specrouter_routing::request::Request;
use specrouter_routing::units::{Probability, Time};
use specrouter_sim::acceptance::{AcceptanceConfig, Recorded, Source};
use specrouter_sim::bound::{Bound, World};
use specrouter_sim::clairvoyant::Clairvoyant;
use specrouter_sim::cost::CostModel;

fn main() {
    divan::main();
}

#[divan::bench]
fn luck_draw(bencher: Bencher<'_, '_>) {
    let draws = Luck::new(1).stream(Stream::Acceptance);
    let mut position = 0;
    bencher.bench_local(|| {
        position += 1;
        draws.uniform(divan::black_box(17), position)
    });
}

#[divan::bench]
fn price_of_a_pass(bencher: Bencher<'_, '_>) {
    let costs = CostModel::roofline(&models(), &hardware(), 1, Luck::new(1)).unwrap();
    let shape = PassShape::uniform(64, 4, 900);
    bencher.bench_local(|| costs.price(ModelId(2), divan::black_box(&shape), After::Same, (0, 0)));
}

#[divan::bench(args = [1, 16, 64, 256])]
fn search_of_three_models(bencher: Bencher<'_, '_>, rows: u32) {
    let sheet = DataSheet::new(&models(), &hardware().sheet, 1);
    let mut alpha = AlphaMatrix::uniform(0.55);
    alpha.set(ModelId(1), ModelId(2), 0.8);
    let mut search = Search::new();
    let seconds = |model: ModelId, shape: &PassShape| sheet.seconds(model, shape);
    bencher.bench_local(|| {
        let batch = Batch::of(divan::black_box(rows), 900.0);
        let found = search.run(
            &Candidates::all(3),
            &alpha,
            &batch,
            &seconds,
            &SearchLimits::default(),
            Pricing::Lockstep,
        );
        found[0].plan.block()
    });
}

/// Runs `rows` sequences of 400 tokens on each of `replicas` replicas; answers the rounds.
fn rounds(policy: &dyn Fn() -> Box<dyn Policy>, replicas: u32, rows: u32) -> u64 {
    let pool = models();
    let p = |value: f64| Probability::new(value).unwrap();
    let pair = |to: usize, value| (pool[to].name.clone(), p(value));
    let matrix = [
        (pool[0].name.clone(), [pair(1, 0.62), pair(2, 0.6)].into_iter().collect()),
        (pool[1].name.clone(), [pair(2, 0.8)].into_iter().collect()),
    ];
    let config = AcceptanceConfig::Constant(matrix.into_iter().collect());
    let source = Arc::new(Source::resolve(&config, &pool, &["all".into()]).unwrap());
    let requests = (0..u64::from(rows * replicas)).map(|id| request(id, Time::ZERO, 400));
    serve(&source, policy, (replicas, rows), requests)
}

fn two_levels() -> PolicyConfig {
    let chain = ["llama-68m", "llama-3.1-8b"].map(String::from).to_vec();
    PolicyConfig::Static(StaticConfig { chain, windows: vec![5], stop: None })
}

#[divan::bench(args = [4, 64, 256], sample_count = 20)]
fn round_two_levels(bencher: Bencher<'_, '_>, rows: u32) {
    let policy = two_levels();
    let policy = || built(&policy);
    let count = rounds(&policy, 4, rows);
    bencher.counter(ItemsCount::new(count)).bench_local(|| rounds(&policy, 4, rows));
}

#[divan::bench(args = [4, 64, 256], sample_count = 20)]
fn round_specrouter(bencher: Bencher<'_, '_>, rows: u32) {
    let policy = PolicyConfig::by_name("specrouter").unwrap();
    let policy = || built(&policy);
    let count = rounds(&policy, 4, rows);
    bencher.counter(ItemsCount::new(count)).bench_local(|| rounds(&policy, 4, rows));
}

#[divan::bench(args = [1, 16, 1024], sample_count = 5)]
fn round_by_replicas(bencher: Bencher<'_, '_>, replicas: u32) {
    let policy = two_levels();
    let policy = || built(&policy);
    let count = rounds(&policy, replicas, 16);
    bencher.counter(ItemsCount::new(count)).bench_local(|| rounds(&policy, replicas, 16));
}

const TEXTS: u64 = 30;
const TEXT_TOKENS: u32 = 96;

/// Texts as a sampled recording has them: a token of the first model is kept by the target with 0.6 in the mean.
fn recorded() -> Arc<Source> {
    let draws = Luck::new(5).stream(Stream::Test);
    let token = |at: u64| {
        let (request, position) = (at / u64::from(TEXT_TOKENS), (at % u64::from(TEXT_TOKENS)) as u32);
        let opinion = |model: u64| Opinion {
            log_probability: Some(-2.0 * draws.uniform(at, model) as f32 - [0.55, 0.25, 0.0][model as usize]),
            choice: Some(0),
            top_probability: 0.6,
            entropy: 1.0,
        };
        TokenRecord {
            replica: ReplicaId(0),
            request: RequestId(request),
            position,
            token: Some(0),
            models: (0..3).map(opinion).collect(),
            overlaps: vec![0.6; pairs(3).count()],
            coins: vec![0.4; triples(3).count()],
        }
    };
    let tokens: Vec<TokenRecord> = (0..TEXTS * u64::from(TEXT_TOKENS)).map(token).collect();
    let of = (0..TEXTS as u32).collect();
    Arc::new(Source::Recorded(Recorded::new(3, Decoding::Speculative, &tokens, of).unwrap()))
}

/// `count` requests for the recorded texts, 80 a second: the replica is busy and keeps up.
fn asked(count: u64) -> impl Iterator<Item = Request> {
    (0..count).map(|id| request(id, Time::from_nanos(id * 12_500_000), TEXT_TOKENS))
}

#[divan::bench(args = [1_000, 100_000], sample_count = 3, sample_size = 1)]
fn replay_two_levels(bencher: Bencher<'_, '_>, count: u64) {
    let (source, policy) = (recorded(), two_levels());
    bencher
        .counter(ItemsCount::new(count))
        .bench_local(|| serve(&source, &|| built(&policy), (1, 128), asked(count)));
}

#[divan::bench(args = [500, 5_000], sample_count = 3, sample_size = 1)]
fn replay_clairvoyant(bencher: Bencher<'_, '_>, count: u64) {
    let source = recorded();
    let policy = || -> Box<dyn Policy> {
        Box::new(Clairvoyant::new(Arc::clone(&source), Luck::new(3), 3, Box::new(|_| TEXT_TOKENS)))
    };
    bencher.counter(ItemsCount::new(count)).bench_local(|| serve(&source, &policy, (1, 128), asked(count)));
}

#[divan::bench(args = [500, 5_000], sample_count = 3, sample_size = 1)]
fn bound_of_a_replay(bencher: Bencher<'_, '_>, count: u64) {
    let (source, luck) = (recorded(), Luck::new(3));
    let costs = CostModel::roofline(&models(), &hardware(), 1, luck).unwrap();
    let requests: Vec<Request> = asked(count).collect();
    let world = World {
        source: &source,
        luck,
        costs: &costs,
        falling: false,
        limits: &limits(128),
        models: 3,
        memory_tokens: MEMORY,
        replicas: 1,
    };
    bencher.counter(ItemsCount::new(count)).bench_local(|| Bound::compute(&world, &requests).seconds());
}

/// A plan is what the loop copies most.
const _: () = assert!(size_of::<ChainPlan>() <= 24);
