//! Invariant 4: a policy run on two worlds that differ only in the future makes the same plans.

use std::sync::Arc;

use specrouter_routing::chain::ChainPlan;
use specrouter_routing::dispatch::DispatcherConfig;
use specrouter_routing::ids::{ClassId, ReplicaId, RequestId};
use specrouter_routing::luck::{Luck, Stream};
use specrouter_routing::policies::{PolicyConfig, PolicyPool, catalog};
use specrouter_routing::policy::price::Candidates;
use specrouter_routing::profile::{Corrected, Linear, LinearTerms};
use specrouter_routing::record::{DecisionRecord, RequestRecord, RoundRecord, Sink, Wants};
use specrouter_routing::replica::{Limits, Replica};
use specrouter_routing::request::{Request, Truth};
use specrouter_routing::slo::Slo;
use specrouter_routing::units::Time;

use crate::backend::SimBackend;
use crate::cost::CostModel;
use crate::drive::{Bounds, open_loop};
use crate::golden::source;
use crate::simulator::Simulator;

/// Decisions, and the tick at which some sequence first came near the end of its text.
#[derive(Default)]
struct Log {
    decisions: Vec<(u64, RequestId, ChainPlan, ChainPlan)>,
    near_end: Option<u64>,
}

const SHORT: u32 = 300;
const NEAR: u32 = 200;

impl Sink for Log {
    fn wants(&self) -> Wants {
        Wants { rounds: true, decisions: true, ..Wants::default() }
    }
    fn request(&mut self, _: &RequestRecord) {}
    fn round(&mut self, record: &RoundRecord) {
        if record.position > NEAR {
            self.near_end.get_or_insert(record.end_tick);
        }
    }
    fn decision(&mut self, record: &DecisionRecord) {
        self.decisions.push((record.tick, record.request, record.planned, record.executed));
    }
}

fn run(policy: &PolicyConfig, output: u32, requests: u64) -> Log {
    let luck = Luck::new(21);
    let names = ["small", "medium", "large"].map(String::from);
    let pool = PolicyPool {
        names: &names,
        candidates: Candidates::all(3),
        classes: &["all".to_owned()],
        max_block: 32,
        draws: luck.stream(Stream::Policy),
    };
    let terms = |pass: f64, token: f64| LinearTerms::new(pass, 0.0, token, 0.0, 0.0).unwrap();
    let costs = Linear::new(vec![terms(0.02, 1e-4), terms(0.15, 6e-4), terms(1.0, 4e-3)]);
    let limits = Limits {
        max_running: 24,
        token_budget: 2048,
        max_block: 32,
        hold_passes: None,
        context: 1 << 20,
        by_priority: false,
    };
    // The belief is wrong by a factor, so that something is learned.
    let belief = Linear::constant(&[0.01, 0.1, 0.8]).unwrap();
    let replica = Replica::new(
        ReplicaId(0),
        limits,
        &[1 << 20; 3],
        16,
        policy.build(&pool).unwrap(),
        Corrected::new(Arc::new(belief)),
    )
    .unwrap();
    let backend = SimBackend::new(source(), Arc::new(CostModel::linear(costs)), luck, ReplicaId(0));
    let mut simulator = Simulator::new(
        vec![(replica, backend)],
        DispatcherConfig::RoundRobin.build(luck.stream(Stream::Dispatch)),
    );
    let arrivals = (0..requests).map(|id| Request {
        id: RequestId(id),
        class: ClassId(0),
        // The second world's extra requests come long after the comparison ends.
        arrival: Time::from_nanos(id * 3_000_000_000 + if id < 20 { 0 } else { 1_000_000_000_000_000 }),
        prompt_tokens: 20 + id as u32,
        limit: 100_000,
        priority: 0,
        slo: Slo::default(),
        truth: Truth::new(output),
    });
    let mut log = Log::default();
    let mut watch = |_| true;
    open_loop(&mut simulator, arrivals, &mut Bounds { horizon: None, watch: &mut watch }, &mut log).unwrap();
    log
}

#[test]
fn invariant_4_plans_do_not_depend_on_the_future() {
    for entry in catalog() {
        let policy: PolicyConfig = serde_json::from_str(entry.example).unwrap();
        // The second world's texts are longer and more requests come later.
        let (one, other) = (run(&policy, SHORT, 20), run(&policy, 3 * SHORT, 26));
        let until = one.near_end.unwrap();
        let before = |log: &Log| log.decisions.iter().filter(|d| d.0 < until).copied().collect::<Vec<_>>();
        let (a, b) = (before(&one), before(&other));
        assert!(a.len() > 200, "{}: {} decisions to compare", policy.name(), a.len());
        let speculates = a.iter().any(|d| d.2.depth() > 1);
        assert_eq!(speculates, !["target_only", "fixed_model"].contains(&entry.name), "{}", entry.name);
        let first = a.iter().zip(&b).find(|(x, y)| x != y);
        assert!(
            first.is_none() && a.len() == b.len(),
            "{}: {first:?}, {} and {} decisions",
            policy.name(),
            a.len(),
            b.len()
        );
    }
}
