//! Every policy of the library in a small world of its own: the one behaviour it is known for.
//!
//! A file here for each family of policies. Worlds are three models with linear pass times; what a
//! policy believes of times can be wrong, what it is told of acceptance is what happened.

use std::collections::BTreeMap;
use std::sync::Arc;

use specrouter_routing::chain::ChainPlan;
use specrouter_routing::dispatch::DispatcherConfig;
use specrouter_routing::ids::{ClassId, ReplicaId, RequestId};
use specrouter_routing::luck::{Luck, Stream};
use specrouter_routing::policies::{PolicyConfig, PolicyPool};
use specrouter_routing::policy::Policy;
use specrouter_routing::policy::price::Candidates;
use specrouter_routing::profile::{Corrected, Linear, LinearTerms};
use specrouter_routing::record::{DecisionRecord, Prediction, RequestRecord, RoundRecord, Sink, Wants};
use specrouter_routing::replica::{Limits, Replica};
use specrouter_routing::request::{Request, Truth};
use specrouter_routing::slo::Slo;
use specrouter_routing::units::{NonNegative, Probability, Span, Time};

use crate::acceptance::{AcceptanceConfig, HeterogeneousConfig, RegimeConfig, Source};
use crate::backend::SimBackend;
use crate::cost::CostModel;
use crate::drive::{Bounds, closed_loop, open_loop};
use crate::golden::spec;
use crate::simulator::Simulator;

/// Three models, "small", "medium" and the target "large", and who asks them for what.
#[derive(Clone)]
pub struct World {
    /// Per model: milliseconds of a pass, and of each of its tokens.
    pub times_ms: [(f64, f64); 3],
    /// What policies believe of these before they have seen a pass; the truth when `None`.
    pub believed_ms: Option<[(f64, f64); 3]>,
    /// Acceptance by class: small under medium, small under large, medium under large.
    pub alphas: Vec<[f64; 3]>,
    /// Standard deviation of acceptance across requests.
    pub spread: f64,
    /// Rank correlation of confidence signals with the acceptance behind them.
    pub signal: f64,
    /// Users of a closed loop; `None` with `gap_ms` between arrivals.
    pub users: Option<u32>,
    /// Between arrivals of the open loop.
    pub gap_ms: f64,
    /// Requests, class by class in turn.
    pub requests: u64,
    /// Classes one after another instead: the world changes in mid-run.
    pub phases: bool,
    /// Output tokens of each.
    pub output: u32,
    /// Prompt tokens of each.
    pub prompt: u32,
    /// Targets by class, in milliseconds of TPOT; none when empty.
    pub tpot_ms: Vec<f64>,
    /// Most sequences at once.
    pub max_running: u32,
    /// When the run is cut short, in seconds, whoever still runs: no tail of a few late requests.
    pub horizon_s: Option<f64>,
    /// Its luck.
    pub seed: u64,
}

impl Default for World {
    /// A quiet GPU-like world: one user, a draft that pays.
    fn default() -> Self {
        Self {
            times_ms: [(0.5, 0.002), (2.0, 0.01), (10.0, 0.06)],
            believed_ms: None,
            alphas: vec![[0.7, 0.6, 0.8]],
            spread: 0.0,
            signal: 0.5,
            users: Some(1),
            gap_ms: 0.0,
            requests: 40,
            phases: false,
            output: 300,
            prompt: 20,
            tpot_ms: Vec::new(),
            max_running: 256,
            horizon_s: None,
            seed: 5,
        }
    }
}

/// What came of a run.
#[derive(Default)]
pub struct Outcome {
    /// In order: when, who, what was planned.
    pub decisions: Vec<(Time, RequestId, ChainPlan)>,
    /// What was expected of each, if the policy said.
    pub predictions: Vec<Option<Prediction>>,
    /// In order of their ends: id, class, TPOT in milliseconds, whether its SLO was met.
    pub requests: Vec<(RequestId, ClassId, f64, Option<bool>)>,
    /// Output tokens.
    pub tokens: u64,
    /// When the run ended, in seconds.
    pub end_s: f64,
    /// Rounds after the first token.
    pub rounds: Vec<RoundRecord>,
}

impl Outcome {
    /// Tokens a second, the prefill's included.
    pub fn tokens_per_s(&self) -> f64 {
        self.tokens as f64 / self.end_s
    }

    /// Tokens a second of rounds that ended, those of requests that were cut short included.
    pub fn round_tokens_per_s(&self) -> f64 {
        self.rounds.iter().map(|round| f64::from(round.emitted)).sum::<f64>() / self.end_s
    }

    /// Mean TPOT of a class, in milliseconds.
    pub fn tpot_ms(&self, class: u16) -> f64 {
        let own: Vec<f64> = self.requests.iter().filter(|r| r.1 == ClassId(class)).map(|r| r.2).collect();
        own.iter().sum::<f64>() / own.len() as f64
    }

    /// The share of decisions, of those in the last `part` of the run, whose plan fits.
    pub fn share(&self, part: f64, fits: impl Fn(&ChainPlan) -> bool) -> f64 {
        let from = (self.decisions.len() as f64 * (1.0 - part)) as usize;
        let last = &self.decisions[from..];
        last.iter().filter(|d| fits(&d.2)).count() as f64 / last.len() as f64
    }
}

impl Sink for Outcome {
    fn wants(&self) -> Wants {
        Wants { rounds: true, decisions: true, ..Wants::default() }
    }
    fn request(&mut self, record: &RequestRecord) {
        self.tokens += u64::from(record.output_tokens);
        let (first, last) = (record.first_token.unwrap(), record.last_token.unwrap());
        let tpot = (last - first).seconds() * 1e3 / f64::from(record.output_tokens.max(2) - 1);
        self.requests.push((record.id, record.class, tpot, record.slo_met));
    }
    fn round(&mut self, record: &RoundRecord) {
        if record.position > 0 {
            self.rounds.push(*record);
        }
    }
    fn decision(&mut self, record: &DecisionRecord) {
        // A last token to go leaves nothing to decide.
        if record.executed == record.planned {
            self.decisions.push((record.time, record.request, record.planned));
            self.predictions.push(record.predicted);
        }
    }
}

impl World {
    fn source(&self) -> Arc<Source> {
        let chance = |p: f64| Probability::new(p).unwrap();
        let pairs = |[a, b, c]: [f64; 3]| {
            let low = BTreeMap::from([("medium".to_owned(), chance(a)), ("large".to_owned(), chance(b))]);
            BTreeMap::from([
                ("small".to_owned(), low),
                ("medium".to_owned(), BTreeMap::from([("large".to_owned(), chance(c))])),
            ])
        };
        let classes = self.classes();
        let config = HeterogeneousConfig {
            matrix: classes.iter().cloned().zip(self.alphas.iter().map(|a| pairs(*a))).collect(),
            request_spread: NonNegative::new(self.spread).unwrap(),
            // Stretches of text that are easier or harder: what confidence signals can see.
            regime: (self.signal > 0.0).then(|| RegimeConfig {
                stay_tokens: specrouter_routing::units::Positive::new(8.0).unwrap(),
                spread: chance(0.2),
            }),
            depth: BTreeMap::new(),
            signal_correlation: chance(self.signal),
            drift: None,
        };
        let pool = ["small", "medium", "large"].map(spec);
        Arc::new(Source::resolve(&AcceptanceConfig::Heterogeneous(config), &pool, &classes).unwrap())
    }

    fn classes(&self) -> Vec<String> {
        (0..self.alphas.len()).map(|class| format!("class-{class}")).collect()
    }

    /// Runs a policy of the library.
    pub fn run(&self, policy: &PolicyConfig) -> Outcome {
        let names = ["small", "medium", "large"].map(String::from);
        let draws = Luck::new(self.seed).stream(Stream::Policy);
        let (candidates, classes) = (Candidates::all(3), self.classes());
        let pool = PolicyPool { names: &names, candidates, classes: &classes, max_block: 32, draws };
        self.run_policy(policy.build(&pool).unwrap())
    }

    /// Runs any policy.
    pub fn run_policy(&self, policy: Box<dyn Policy>) -> Outcome {
        let luck = Luck::new(self.seed);
        let linear = |times: &[(f64, f64); 3]| {
            let terms = times
                .iter()
                .map(|&(pass, token)| LinearTerms::new(pass * 1e-3, 0.0, token * 1e-3, 0.0, 0.0).unwrap());
            Linear::new(terms.collect())
        };
        let limits = Limits {
            max_running: self.max_running,
            token_budget: 2048,
            max_block: 32,
            hold_passes: None,
            context: 1 << 20,
            by_priority: false,
        };
        let belief = Corrected::new(Arc::new(linear(self.believed_ms.as_ref().unwrap_or(&self.times_ms))));
        let replica = Replica::new(ReplicaId(0), limits, &[1 << 20; 3], 16, policy, belief).unwrap();
        let costs = Arc::new(CostModel::linear(linear(&self.times_ms)));
        let backend = SimBackend::new(self.source(), costs, luck, ReplicaId(0));
        let dispatcher = DispatcherConfig::RoundRobin.build(luck.stream(Stream::Dispatch));
        let mut simulator = Simulator::new(vec![(replica, backend)], dispatcher);
        let request = |id: u64, arrival: Time| {
            let classes = self.alphas.len() as u64;
            let class = if self.phases { id * classes / self.requests } else { id % classes } as u16;
            let tpot = self.tpot_ms.get(usize::from(class)).map(|ms| Span::from_seconds(ms * 1e-3).unwrap());
            Request {
                id: RequestId(id),
                class: ClassId(class),
                arrival,
                prompt_tokens: self.prompt,
                limit: self.output,
                priority: 0,
                slo: Slo { ttft: None, tpot },
                truth: Truth::new(self.output),
            }
        };
        let mut outcome = Outcome::default();
        let mut watch = |_| true;
        let horizon = self.horizon_s.map(|seconds| Time::from_seconds(seconds).unwrap());
        let mut bounds = Bounds { horizon, watch: &mut watch };
        match self.users {
            Some(users) => {
                let next = |id: RequestId, now| (id.0 < self.requests).then(|| request(id.0, now));
                closed_loop(&mut simulator, users, next, &mut bounds, &mut outcome).unwrap();
            }
            None => {
                let at = |id: u64| Time::from_nanos((id as f64 * self.gap_ms * 1e6) as u64);
                let arrivals = (0..self.requests).map(|id| request(id, at(id)));
                open_loop(&mut simulator, arrivals, &mut bounds, &mut outcome).unwrap();
            }
        }
        outcome.end_s = simulator.now().seconds();
        outcome
    }
}

/// The policy of a line of JSON, as a scenario would write it: `{"goodput": {"draft": "small"}}`.
pub fn policy(line: &str) -> PolicyConfig {
    serde_json::from_str(line).unwrap()
}

/// A static chain.
pub fn fixed(models: &[&str], windows: &[u32]) -> PolicyConfig {
    PolicyConfig::Static(specrouter_routing::policies::StaticConfig {
        chain: models.iter().map(ToString::to_string).collect(),
        windows: windows.to_vec(),
        stop: None,
    })
}

mod acceptance_tiers;
mod adaptive_verification;
mod bandits;
mod censored_ema;
mod chain_router;
mod confidence_stop;
mod decision_table;
mod entropy_stop;
mod goodput;
mod hedge;
mod latency_table;
mod probe;
mod slo_aware;
