//! Tiny random worlds, and runs in them: what bounds are tried on.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use specrouter_routing::backend::{Backend, Pass, PassOutcome};
use specrouter_routing::chain::{ChainPlan, StopRule};
use specrouter_routing::dispatch::DispatcherConfig;
use specrouter_routing::ids::{ClassId, ModelId, ReplicaId, RequestId, Slot};
use specrouter_routing::luck::{Draws, Luck, Stream};
use specrouter_routing::policy::{Ask, Plan, Policy, Probe};
use specrouter_routing::profile::{Corrected, Linear, LinearTerms, PassCosts, PassShape, Table, TableRow};
use specrouter_routing::record::{PassRecord, RequestRecord, Sink, Wants};
use specrouter_routing::replica::{Limits, Replica};
use specrouter_routing::request::{Request, Truth};
use specrouter_routing::slo::Slo;
use specrouter_routing::units::{Probability, Span, Time};

use super::super::{Bound, World, nanos};
use crate::acceptance::tests::{classes, heterogeneous, pool, regime};
use crate::acceptance::{AcceptanceConfig, Source};
use crate::backend::SimBackend;
use crate::cost::CostModel;
use crate::drive::{Bounds, open_loop};
use crate::simulator::Simulator;

/// Draws of a toy, one after another.
pub(crate) struct Dice {
    draws: Draws,
    seed: u64,
    next: u64,
}

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self { draws: Luck::new(seed).stream(Stream::Test), seed, next: 0 }
    }

    pub fn unit(&mut self) -> f64 {
        self.next += 1;
        self.draws.uniform(self.seed, self.next)
    }

    /// From `low` to `high`, both included.
    pub fn range(&mut self, low: u32, high: u32) -> u32 {
        low + (self.unit() * f64::from(high - low + 1)) as u32
    }

    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// A plan that fits the pool and the block limit.
    pub fn plan(&mut self, models: usize, max_block: u32) -> ChainPlan {
        let target = ModelId(models as u8 - 1);
        let mut chain: Vec<ModelId> =
            (0..target.0).map(ModelId).filter(|_| self.chance(0.6)).take(max_block as usize).collect();
        let mut left = max_block - chain.len() as u32;
        let windows: Vec<u32> = chain
            .iter()
            .map(|_| {
                let more = self.range(0, left);
                left -= more;
                1 + more
            })
            .collect();
        chain.push(target);
        ChainPlan::new(&chain, &windows).unwrap()
    }
}

/// Seconds by new tokens, up and down as it comes, and by rows and contexts.
pub(crate) struct Stairs {
    pub steps: Vec<Vec<f64>>,
    pub rows: Vec<f64>,
    pub context: f64,
    pub pair: f64,
}

impl PassCosts for Stairs {
    fn seconds(&self, model: ModelId, shape: &PassShape) -> f64 {
        let steps = &self.steps[model.index()];
        steps[(shape.new_tokens as usize).min(steps.len() - 1)]
            + self.rows[(shape.rows as usize).min(self.rows.len() - 1)]
            + self.context * shape.context_tokens as f64
            + self.pair * shape.attention_pairs as f64
    }
}

pub(crate) struct Toy {
    pub models: usize,
    pub source: Arc<Source>,
    pub luck: Luck,
    pub costs: Arc<dyn PassCosts>,
    pub falling: bool,
    pub limits: Limits,
    pub replicas: u32,
    pub kv: Vec<u64>,
    pub block_size: u32,
    pub requests: Vec<Request>,
}

/// Names of a toy's models.
pub(crate) const NAMES: [&str; 4] = ["a", "b", "c", "d"];

type Rates = BTreeMap<String, BTreeMap<String, Probability>>;

/// Every pair's rate, with α_ij · α_jk <= α_ik.
fn rates(dice: &mut Dice, models: usize) -> Rates {
    let mut alpha = [[0.0; 4]; 4];
    let level = dice.unit();
    let mut out = Rates::new();
    for gap in 1..models {
        for i in 0..models - gap {
            let k = i + gap;
            let least = (i + 1..k).map(|j| alpha[i][j] * alpha[j][k]).fold(0.0, f64::max);
            let u = if dice.chance(0.1) { 1.0 } else { level + (1.0 - level) * dice.unit() };
            alpha[i][k] = least + u * (1.0 - least);
            let rate = Probability::new(f64::min(alpha[i][k], 1.0)).unwrap();
            out.entry(NAMES[i].into()).or_default().insert(NAMES[k].into(), rate);
        }
    }
    out
}

pub(crate) fn source(dice: &mut Dice, models: usize) -> Source {
    let specs = pool(&NAMES[..models]);
    let resolve = |config: &AcceptanceConfig| Source::resolve(config, &specs, &classes(&["x", "y"]));
    let kind = dice.range(0, 2);
    for _ in 0..20 {
        let config = match kind {
            0 => AcceptanceConfig::Constant(rates(dice, models)),
            1 => {
                let by_depth = |rate: Probability, dice: &mut Dice| {
                    let fade = |n: u32| Probability::new(rate.get() * 0.8f64.powi(n as i32)).unwrap();
                    (0..dice.range(1, 3)).map(fade).collect::<Vec<_>>()
                };
                let rates = rates(dice, models);
                AcceptanceConfig::PerPosition(
                    rates
                        .into_iter()
                        .map(|(drafter, under)| {
                            let under = under.into_iter();
                            (drafter, under.map(|(name, rate)| (name, by_depth(rate, dice))).collect())
                        })
                        .collect(),
                )
            }
            _ => {
                let mut config = heterogeneous(&[("all", rates(dice, models))]);
                config.regime = if dice.chance(0.5) { regime(3.0, 0.3) } else { None };
                if dice.chance(0.4) {
                    let factors = [1.0, 0.7, 0.4].map(|f| f.try_into().unwrap());
                    config.depth.insert("a".into(), factors.to_vec());
                }
                AcceptanceConfig::Heterogeneous(config)
            }
        };
        if let Ok(source) = resolve(&config) {
            return source;
        }
    }
    resolve(&AcceptanceConfig::Constant(rates(dice, models))).unwrap()
}

/// Random prices, and whether they fall with tokens.
pub(crate) fn costs(dice: &mut Dice, models: usize) -> (Arc<dyn PassCosts>, bool) {
    let scale = |model: usize| 1e-3 * 4f64.powi(model as i32);
    match dice.range(0, 2) {
        0 => {
            let steps = (0..models).map(|m| (0..40).map(|_| scale(m) * (0.2 + dice.unit())).collect());
            let steps = steps.collect();
            let rows = (0..5).map(|_| 1e-3 * dice.unit()).collect();
            let few = |dice: &mut Dice| if dice.chance(0.5) { 0.0 } else { 1e-4 * dice.unit() };
            (Arc::new(Stairs { steps, rows, context: few(dice), pair: few(dice) }), true)
        }
        1 => {
            let mut measured = Vec::new();
            for (m, model) in NAMES[..models].iter().enumerate() {
                for rows in [1, 2, 4] {
                    for per_row in [1, 2, 4, 8, 16] {
                        for context in [0.0, 8.0, 24.0] {
                            if dice.chance(0.8) || (rows == 1 && per_row == 1) {
                                measured.push(TableRow {
                                    model: (*model).into(),
                                    rows,
                                    new_tokens: rows * per_row,
                                    context_tokens: context,
                                    seconds: scale(m) * (0.2 + dice.unit() * f64::from(rows + per_row)),
                                });
                            }
                        }
                    }
                }
            }
            let table = Table::new(&pool(&NAMES[..models]), &measured).unwrap();
            (Arc::new(CostModel::table(table)), false)
        }
        _ => {
            let terms = (0..models).map(|m| {
                let mut some = |most: f64| if dice.chance(0.4) { 0.0 } else { most * dice.unit() };
                let (row, token, context, pair) = (some(2e-3), some(2e-3), some(5e-4), some(1e-4));
                LinearTerms::new(scale(m) * (0.2 + dice.unit()), row, token, context, pair).unwrap()
            });
            (Arc::new(CostModel::linear(Linear::new(terms.collect()))), false)
        }
    }
}

impl Toy {
    pub fn random(seed: u64) -> Self {
        let dice = &mut Dice::new(seed);
        let models = dice.range(1, 4) as usize;
        let (costs, falling) = costs(dice, models);
        let max_block = dice.range(1, 8);
        let limits = Limits {
            max_running: dice.range(1, 4),
            token_budget: max_block + dice.range(1, 20),
            max_block,
            hold_passes: if dice.chance(0.5) { None } else { Some(dice.range(1, 6)) },
            context: dice.range(12, 40),
            by_priority: dice.chance(0.3),
        };
        let block_size = 1 << dice.range(0, 2);
        let kv = (0..models).map(|_| u64::from(dice.range(16, 80))).collect();
        let span = |seconds: f64| Span::from_seconds(seconds).unwrap();
        let requests = (0..u64::from(dice.range(1, 5))).map(|id| {
            let output = dice.range(1, 12);
            Request {
                id: RequestId(id),
                class: ClassId(dice.range(0, 1) as u16),
                arrival: Time::from_nanos(id * 20_000_000 * u64::from(dice.range(0, 1))),
                prompt_tokens: dice.range(1, 14),
                limit: if dice.chance(0.3) { dice.range(1, 12) } else { output },
                priority: dice.range(0, 2) as u8,
                slo: Slo {
                    ttft: dice.chance(0.5).then(|| span(0.2 * dice.unit())),
                    tpot: dice.chance(0.5).then(|| span(0.1 * dice.unit())),
                },
                truth: Truth::new(output),
            }
        });
        let mut requests: Vec<Request> = requests.collect();
        requests.sort_by_key(|r| r.arrival);
        for (id, request) in requests.iter_mut().enumerate() {
            request.id = RequestId(id as u64);
        }
        let replicas = dice.range(1, 2);
        let source = Arc::new(source(dice, models));
        Self {
            models,
            source,
            luck: Luck::new(seed),
            costs,
            falling,
            limits,
            replicas,
            kv,
            block_size,
            requests,
        }
    }

    pub fn bound(&self) -> Bound {
        let memory = *self.kv.last().unwrap();
        let world = World {
            source: &self.source,
            luck: self.luck,
            costs: &*self.costs,
            falling: self.falling,
            limits: &self.limits,
            models: self.models,
            memory_tokens: memory - memory % u64::from(self.block_size),
            replicas: self.replicas,
        };
        Bound::compute(&world, &self.requests)
    }

    /// Runs all requests to their end under policies that `policy` makes, one for each replica.
    pub fn run(&self, policy: impl FnMut() -> Box<dyn Policy>) -> Seen {
        let mut seen = Seen::default();
        self.run_into(policy, &mut seen);
        seen.requests.sort_by_key(|record| record.id);
        seen
    }

    pub fn run_into<S: Sink>(&self, mut policy: impl FnMut() -> Box<dyn Policy>, sink: &mut S) {
        let servers = (0..self.replicas).map(|id| {
            let (id, belief) = (ReplicaId(id), Corrected::new(Arc::clone(&self.costs)));
            let replica =
                Replica::new(id, self.limits.clone(), &self.kv, self.block_size, policy(), belief).unwrap();
            let any = Arc::new(CostModel::linear(Linear::constant(&[1.0; 4]).unwrap()));
            let inner = SimBackend::new(Arc::clone(&self.source), any, self.luck, id);
            (replica, Repriced { inner, costs: Arc::clone(&self.costs) })
        });
        let dispatcher = DispatcherConfig::RoundRobin.build(self.luck.stream(Stream::Dispatch));
        let mut simulator = Simulator::new(servers.collect(), dispatcher);
        let mut watch = |_| true;
        let mut bounds = Bounds { horizon: None, watch: &mut watch };
        open_loop(&mut simulator, self.requests.iter().cloned(), &mut bounds, sink).unwrap();
    }
}

/// What a run was like.
#[derive(Default)]
pub(crate) struct Seen {
    pub requests: Vec<RequestRecord>,
    pub busy: Span,
    pub passes: u64,
}

impl Seen {
    /// Arrival to last token, Σ over requests, in nanoseconds.
    pub fn total(&self) -> u64 {
        self.requests.iter().map(|r| (r.last_token.unwrap() - r.arrival).nanos()).sum()
    }
}

impl Sink for Seen {
    fn wants(&self) -> Wants {
        Wants { passes: true, ..Wants::default() }
    }
    fn request(&mut self, record: &RequestRecord) {
        self.requests.push(*record);
    }
    fn pass(&mut self, record: &PassRecord) {
        self.busy += record.duration;
        self.passes += 1;
    }
}

/// The simulator's backend with other prices.
struct Repriced {
    inner: SimBackend,
    costs: Arc<dyn PassCosts>,
}

impl Backend for Repriced {
    type Error = Infallible;

    fn admit(&mut self, slot: Slot, request: &Request) {
        self.inner.admit(slot, request);
    }

    fn run<P: Pass>(&mut self, pass: &P, outcome: &mut PassOutcome) -> Result<(), Infallible> {
        self.inner.run(pass, outcome)?;
        let mut shape = pass.shape();
        let price = |shape: &PassShape| Span::from_nanos(nanos(self.costs.seconds(pass.model(), shape)));
        for span in &mut outcome.earlier {
            *span = price(&shape);
            shape = shape.draft_after();
        }
        outcome.duration = price(&shape);
        Ok(())
    }

    fn truncate(&mut self, slot: Slot, model: ModelId, len: u32) {
        self.inner.truncate(slot, model, len);
    }

    fn free(&mut self, slot: Slot) {
        self.inner.free(slot);
    }
}

/// Any plan for any sequence in any round; stop rules and probes too.
pub(crate) struct Switching {
    pub dice: Dice,
    pub models: usize,
}

impl Policy for Switching {
    fn name(&self) -> &str {
        "switching"
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        for &slot in ask.starting {
            let chain = self.dice.plan(self.models, ask.limits.max_block);
            let stop = match self.dice.range(0, 3) {
                0 => StopRule::TopProbabilityBelow(0.5),
                1 => StopRule::EntropyAbove(1.0),
                _ => StopRule::Never,
            };
            plan.push(chain.stopping(stop));
            let model = ModelId(self.dice.range(0, self.models as u32 - 1) as u8);
            if self.dice.chance(0.1) && !chain.uses(model) {
                plan.probe(Probe { slot, model });
            }
        }
    }
}
