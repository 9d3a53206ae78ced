//! What chains are worth on the shipped family, by domain and batch.
//!
//! `cargo bench -p specrouter-engine --bench chains [-- --models DIR --prompts FILE --batch 1,4,16 --half-life N]`
//!
//! Static plans are chosen on prompts A (every other prompt of a domain) and measured on prompts B, in
//! interleaved blocks against plain decoding and against `specrouter`, which keeps what it has learnt
//! from block to block. Greedy; times are from the first block that every arm has run.
//!
//! Below them stands what could be had at all: how often each model names the target's token on prompts
//! B's outputs, and the best plan of each depth at these chances and the measured pass times.

#![allow(clippy::disallowed_types, clippy::print_stdout, reason = "a bench reads the clock and prints")]

#[allow(dead_code, reason = "the other benches measure bandwidth")]
mod bandwidth;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use bandwidth::median;
use specrouter_engine::backend::{EngineBackend, Finished, Prompt};
use specrouter_engine::decoder::{Decoder, DecoderOptions};
use specrouter_engine::level::{ForwardError, LevelModel, Packed};
use specrouter_engine::load::Checkpoint;
use specrouter_engine::profile::{Grid, measure};
use specrouter_engine::prompts::read_prompts;
use specrouter_engine::sampling::Sampling;
use specrouter_engine::score::{Scorer, Text};
use specrouter_engine::serve::{Jobs, Watcher, serve};
use specrouter_engine::stopwatch::Stopwatch;
use specrouter_engine::tokenizer::Tokenizer;
use specrouter_engine::verify::Verify;
use specrouter_routing::ids::{ClassId, ModelId, ReplicaId, RequestId, Slot};
use specrouter_routing::luck::{Luck, Stream};
use specrouter_routing::policies::{PolicyConfig, PolicyPool, SpecRouterConfig, StaticConfig};
use specrouter_routing::policy::price::{AlphaMatrix, Batch, Candidates, Pricing};
use specrouter_routing::policy::search::{Limits as SearchLimits, Search};
use specrouter_routing::profile::{Corrected, ModelSpec, PassCosts, PassShape, Table};
use specrouter_routing::record::{PassRecord, RequestRecord, RoundRecord, Sink, Wants, pairs};
use specrouter_routing::replica::{Limits, Replica};
use specrouter_routing::request::{Request, Truth};
use specrouter_routing::slo::Slo;
use specrouter_routing::units::{Positive, Time};

const FAMILY: [&str; 4] = ["tiny", "small", "medium", "large"];
/// Output tokens of a request.
const TOKENS: u32 = 64;
/// Most tokens of a prompt.
const PROMPT: usize = 96;
/// Interleaved blocks that are measured.
const BLOCKS: usize = 12;

/// A model that the replicas of all arms use in turn.
#[derive(Clone)]
struct Turns {
    name: String,
    model: Rc<RefCell<Decoder>>,
}

impl LevelModel for Turns {
    fn name(&self) -> &str {
        &self.name
    }
    fn vocabulary(&self) -> usize {
        self.model.borrow().vocabulary()
    }
    fn forward(&mut self, packed: &Packed, logits: &mut Vec<f32>) -> Result<(), ForwardError> {
        self.model.borrow_mut().forward(packed, logits)
    }
    fn truncate(&mut self, slot: Slot, len: u32) {
        self.model.borrow_mut().truncate(slot, len);
    }
    fn cached(&self, slot: Slot) -> u32 {
        self.model.borrow().cached(slot)
    }
}

/// The family and what is believed of its passes.
struct World {
    models: Vec<Turns>,
    specs: Vec<ModelSpec>,
    names: Vec<String>,
    belief: Arc<Table>,
    context: u32,
}

/// Sets of prompts of one domain.
#[derive(Default)]
struct Domain {
    a: Vec<Vec<u32>>,
    b: Vec<Vec<u32>>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let models = value("--models").map_or_else(|| root.join("models"), PathBuf::from);
    let prompts =
        value("--prompts").map_or_else(|| root.join("scenarios/prompts/quickstart.jsonl"), PathBuf::from);
    // Of `specrouter`'s averages, in positions; the default is the paper policy's.
    let half_life = value("--half-life").map(|n| n.parse().expect("--half-life takes a number"));
    let batches = value("--batch").map_or("1,4,16", String::as_str);
    let batches: Vec<u32> = batches.split(',').map(|b| b.parse().expect("--batch takes numbers")).collect();
    if !models.join("large/model.safetensors").exists() {
        println!("no family in {}: nothing to measure", models.display());
        return;
    }
    rayon::scope(|_| {
        let world = open(&models);
        let domains = domains(&models, &prompts);
        for batch in batches {
            table(&world, &domains, batch, half_life);
        }
    });
}

fn open(folder: &Path) -> World {
    let (mut models, mut specs, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for name in FAMILY {
        let mut checkpoint = Checkpoint::open(&folder.join(name), name).expect("the family opens");
        let config = checkpoint.config().clone();
        let spec = config.spec.clone();
        let mut model =
            Decoder::load(config, &mut checkpoint, DecoderOptions::new(1 << 14)).expect("the family loads");
        rows.extend(
            measure(&mut model, &Grid::quick(16, spec.context), Stopwatch::start(), &mut || true)
                .expect("it runs"),
        );
        models.push(Turns { name: name.to_owned(), model: Rc::new(RefCell::new(model)) });
        specs.push(spec);
    }
    let context = specs.iter().map(|spec| spec.context).min().unwrap_or(0);
    let belief = Arc::new(Table::new(&specs, &rows).expect("every model was measured"));
    World { models, specs, names: FAMILY.map(str::to_owned).to_vec(), belief, context }
}

fn domains(folder: &Path, prompts: &Path) -> BTreeMap<String, Domain> {
    let tokenizer = Tokenizer::open(&folder.join("large"), "large").expect("the family has a tokenizer");
    let mut domains: BTreeMap<String, Domain> = BTreeMap::new();
    for prompt in read_prompts(prompts).expect("the prompts are read") {
        let mut tokens = tokenizer.encode_user(&prompt.turns[0]).expect("a prompt is text");
        tokens.truncate(PROMPT);
        let domain = domains.entry(prompt.domain).or_default();
        let set = if domain.a.len() > domain.b.len() { &mut domain.b } else { &mut domain.a };
        set.push(tokens);
    }
    domains
}

/// One policy with its replica, which keeps what it has learnt.
struct Arm {
    name: String,
    replica: Replica,
    backend: EngineBackend<Turns, Stopwatch>,
    watch: Stopwatch,
    next: u64,
}

/// What a block came to.
#[derive(Default)]
struct Block {
    tokens: u32,
    /// Σ of the passes.
    passes: f64,
    /// From the first arrival to the last token.
    wall: f64,
    /// Rounds by chain and windows.
    plans: BTreeMap<String, u32>,
}

impl Sink for Block {
    fn wants(&self) -> Wants {
        Wants { passes: true, rounds: true, ..Wants::default() }
    }
    fn request(&mut self, record: &RequestRecord) {
        self.tokens += record.output_tokens;
    }
    fn pass(&mut self, record: &PassRecord) {
        self.passes += record.duration.seconds();
    }
    fn round(&mut self, record: &RoundRecord) {
        *self.plans.entry(record.plan.to_string()).or_default() += 1;
    }
}

/// Keeps the texts of a block.
#[derive(Default)]
struct Texts(Vec<Finished>);

impl Watcher for Texts {
    fn finished(&mut self, text: Finished) {
        self.0.push(text);
    }
    fn go_on(&mut self, _: Time) -> bool {
        true
    }
}

impl Arm {
    fn new(world: &World, policy: &PolicyConfig, batch: u32) -> Self {
        let pool = PolicyPool {
            names: &world.names,
            candidates: Candidates::of_pool(&world.specs),
            classes: &["all".to_owned()],
            max_block: 32,
            draws: Luck::new(1).stream(Stream::Policy),
        };
        let limits = Limits {
            max_running: batch,
            token_budget: 512,
            max_block: 32,
            hold_passes: None,
            context: world.context,
            by_priority: false,
        };
        let kv = vec![1u64 << 14; world.models.len()];
        let policy_built = policy.build(&pool).expect("the policy fits the pool");
        let costs = Corrected::new(world.belief.clone());
        let replica =
            Replica::new(ReplicaId(0), limits, &kv, 16, policy_built, costs).expect("limits are sane");
        let watch = Stopwatch::start();
        let backend = EngineBackend::new(world.models.clone(), Verify::Speculative, Luck::new(1), watch)
            .expect("one vocabulary");
        Self { name: policy.label(), replica, backend, watch, next: 0 }
    }

    /// Answers all prompts, `users` at a time.
    fn block(&mut self, prompts: &[Vec<u32>], users: u32) -> Block {
        self.answers(prompts, users).0
    }

    fn answers(&mut self, prompts: &[Vec<u32>], users: u32) -> (Block, Vec<Finished>) {
        let mut texts = Texts::default();
        let (mut block, begin) = (Block::default(), self.watch.read());
        let first = self.next;
        // As many requests as fill the batch a few times.
        let count = prompts.len().max(2 * users as usize) as u64;
        let mut send = |id: RequestId, now: Time| {
            if id.0 >= count {
                return None;
            }
            let tokens = prompts[(id.0 % prompts.len() as u64) as usize].clone();
            let request = Request {
                id: RequestId(first + id.0),
                class: ClassId(0),
                arrival: now,
                prompt_tokens: tokens.len() as u32,
                limit: TOKENS,
                priority: 0,
                slo: Slo::default(),
                truth: Truth::new(1),
            };
            Some((request, Prompt { tokens, sampling: Sampling::greedy(), seed: 0, stop: Vec::new() }))
        };
        let jobs = Jobs::Users(users, &mut send);
        serve(&mut self.replica, &mut self.backend, self.watch, jobs, None, &mut block, &mut texts)
            .expect("it serves");
        self.next = first + count;
        block.wall = self.watch.read().seconds() - begin.seconds();
        (block, texts.0)
    }
}

/// How often each model's choice is that of each model above it, on the target's outputs for `prompts`; then the
/// best plan of each depth for `batch` sequences, priced with these chances and the measured pass times.
fn bound(world: &World, name: &str, prompts: &[Vec<u32>], batch: u32) {
    let mut arm = Arm::new(world, &PolicyConfig::TargetOnly, batch);
    let (_, texts) = arm.answers(prompts, batch);
    let count = world.models.len();
    let (mut agreed, mut positions) = (vec![0.0; count * (count - 1) / 2], 0.0);
    let mut scorer = Scorer::new(Verify::Speculative, Luck::new(1));
    for text in &texts {
        let (prompt, output) = text.text.split_at(text.prompt_tokens);
        let text = Text { request: RequestId(0), prompt, output, sampling: Sampling::greedy(), seed: 0 };
        scorer
            .score(&mut world.models.clone(), text, |score| {
                agreed.iter_mut().zip(&score.overlaps).for_each(|(sum, &agrees)| *sum += f64::from(agrees));
                positions += 1.0;
            })
            .expect("what was generated can be scored");
    }
    let mut alpha = AlphaMatrix::uniform(0.0);
    let mut chances = String::new();
    for ((low, high), agreed) in pairs(count).zip(&agreed) {
        alpha.set(ModelId(low as u8), ModelId(high as u8), agreed / positions);
        if high + 1 == count {
            chances += &format!(" {} {:.2}", world.names[low], agreed / positions);
        }
    }
    let context = texts.iter().map(|t| t.prompt_tokens + t.output().len() / 2).sum::<usize>();
    let context = context as f64 / texts.len() as f64;
    let seconds = |model: ModelId, shape: &PassShape| world.belief.seconds(model, shape);
    let limits = SearchLimits { max_window: 12, ..SearchLimits::default() };
    let mut search = Search::new();
    let ranked = search.run(
        &Candidates::of_pool(&world.specs),
        &alpha,
        &Batch::of(batch, context),
        &seconds,
        &limits,
        Pricing::default(),
    );
    let time = |depth: usize| ranked.iter().find(|r| r.plan.depth() == depth);
    let plain = time(1).map_or(f64::NAN, |r| r.priced.seconds_per_token);
    let best = |depth: usize| {
        time(depth).map_or("-".to_owned(), |r| {
            let chain: Vec<&str> = r.plan.models().iter().map(|m| world.names[m.index()].as_str()).collect();
            format!("{} {:?} {:.2}x", chain.join(">"), r.plan.windows(), plain / r.priced.seconds_per_token)
        })
    };
    println!(
        "{name:>9} agreement with large:{chances} | priced optimum: {} | {} | {}",
        best(2),
        best(3),
        best(4)
    );
}

/// Every static plan worth a try: two levels with windows to 12, more levels with a few of each.
fn statics() -> Vec<PolicyConfig> {
    let name = |m: usize| FAMILY[m].to_owned();
    let fixed = |chain: Vec<usize>, windows: Vec<u32>| {
        let chain = chain.into_iter().map(name).collect();
        PolicyConfig::Static(StaticConfig { chain, windows, stop: None })
    };
    let mut plans = Vec::new();
    for draft in 0..3 {
        plans.extend([1, 2, 3, 4, 5, 6, 8, 10, 12].map(|w| fixed(vec![draft, 3], vec![w])));
    }
    for (low, middle) in [(0, 1), (0, 2), (1, 2)] {
        for a in [1, 2, 3, 5] {
            plans.extend([1, 2, 4, 6, 9, 12].map(|b| fixed(vec![low, middle, 3], vec![a, b])));
        }
    }
    plans.extend([2, 4, 8].map(|w| fixed(vec![0, 1, 2, 3], vec![1, 2, w])));
    plans
}

fn levels(policy: &PolicyConfig) -> usize {
    match policy {
        PolicyConfig::Static(fixed) => fixed.chain.len(),
        _ => 1,
    }
}

fn table(world: &World, domains: &BTreeMap<String, Domain>, batch: u32, half_life: Option<f64>) {
    let mut specrouter = SpecRouterConfig::default();
    if let Some(half_life) = half_life {
        specrouter.half_life = Positive::new(half_life).expect("--half-life is above 0");
    }
    println!(
        "\nbatch {batch}: speed against plain decoding, medians of {BLOCKS} blocks (lowest limit of 95 %)"
    );
    println!(
        "{:>9} {:>9} | {:<26} {:>13} | {:<30} {:>13} | {:>15} {:>17} | {:>8}",
        "domain",
        "tokens/s",
        "best of two levels",
        "",
        "best of more",
        "",
        "specrouter",
        "by best static",
        "overhead"
    );
    for (name, domain) in domains {
        // Chosen on A: all are tried once, the fastest of each depth again, in turns.
        let [two, more] = [false, true].map(|deep| {
            let plans = statics().into_iter().filter(|policy| (levels(policy) > 2) == deep);
            let mut arms: Vec<(PolicyConfig, Arm, Vec<f64>)> =
                plans.map(|policy| (policy.clone(), Arm::new(world, &policy, batch), Vec::new())).collect();
            for round in 0..5 {
                for (_, arm, times) in &mut arms {
                    let block = arm.block(&domain.a, batch);
                    times.push(block.wall / f64::from(block.tokens));
                }
                arms.sort_by(|a, b| median(a.2.clone()).total_cmp(&median(b.2.clone())));
                arms.truncate(if round == 0 { 8 } else { 4 });
            }
            let (policy, _, times) = arms.swap_remove(0);
            (median(times), policy)
        });
        let static_best = if two.0 <= more.0 { 1 } else { 2 };
        let policies =
            [PolicyConfig::TargetOnly, two.1, more.1, PolicyConfig::Specrouter(specrouter.clone())];
        let mut arms: Vec<Arm> = policies.iter().map(|policy| Arm::new(world, policy, batch)).collect();
        arms[3].block(&domain.a, batch); // It learns where the static plans were chosen.
        let mut speeds: Vec<Vec<f64>> = vec![Vec::new(); arms.len()];
        let (mut overhead, mut plans) = (Vec::new(), BTreeMap::<String, u32>::new());
        for index in 0..=BLOCKS {
            for turn in 0..arms.len() {
                let at = (turn + index) % arms.len();
                let block = arms[at].block(&domain.b, batch);
                if index > 0 {
                    speeds[at].push(f64::from(block.tokens) / block.wall);
                    if at == 3 {
                        overhead.push(1.0 - block.passes / block.wall);
                        for (plan, rounds) in block.plans {
                            *plans.entry(plan).or_default() += rounds;
                        }
                    }
                }
            }
        }
        let ratio = |a: usize, b: usize| interval(&speeds[a], &speeds[b]);
        let shown = |(middle, low): (f64, f64)| format!("{middle:.2}x ({low:.2})");
        println!(
            "{name:>9} {:>9.0} | {:<26} {:>13} | {:<30} {:>13} | {:>15} {:>17} | {:>6.1} %",
            median(speeds[0].clone()),
            arms[1].name,
            shown(ratio(1, 0)),
            arms[2].name,
            shown(ratio(2, 0)),
            shown(ratio(3, 0)),
            shown(ratio(3, static_best)),
            100.0 * median(overhead)
        );
        let rounds: u32 = plans.values().sum();
        let mut plans: Vec<(String, u32)> = plans.into_iter().collect();
        plans.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let share = |(plan, count): &(String, u32)| {
            format!("{plan} {:.0} %", 100.0 * f64::from(*count) / f64::from(rounds))
        };
        println!(
            "{:>9} specrouter's rounds: {}",
            "",
            plans.iter().take(5).map(share).collect::<Vec<_>>().join(", ")
        );
    }
    for (name, domain) in domains {
        bound(world, name, &domain.b, batch);
    }
}

/// Median ratio of paired blocks, and the lower 95 % limit of its geometric mean.
fn interval(a: &[f64], b: &[f64]) -> (f64, f64) {
    let logs: Vec<f64> = a.iter().zip(b).map(|(a, b)| (a / b).ln()).collect();
    let n = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / n;
    let variance = logs.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / (n - 1.0);
    // One-sided t at 11 degrees of freedom.
    let low = mean - 1.796 * (variance / n).sqrt();
    (median(logs).exp(), low.exp())
}

const _: () = assert!(BLOCKS == 12, "the t quantile of `interval` is for 11 degrees of freedom");
