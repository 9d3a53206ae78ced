//! Models, hardware and the serving loop that benches share.

use std::sync::Arc;

use specrouter_routing::dispatch::DispatcherConfig;
use specrouter_routing::ids::{ClassId, ReplicaId, RequestId};
use specrouter_routing::luck::{Luck, Stream};
use specrouter_routing::policies::{PolicyConfig, PolicyPool};
use specrouter_routing::policy::Policy;
use specrouter_routing::policy::price::Candidates;
use specrouter_routing::profile::{Corrected, DataSheet, ModelSpec, PassCosts};
use specrouter_routing::record::{RequestRecord, Sink};
use specrouter_routing::replica::{Limits, Replica};
use specrouter_routing::request::{Request, Truth};
use specrouter_routing::slo::Slo;
use specrouter_routing::units::Time;
use specrouter_sim::acceptance::Source;
use specrouter_sim::backend::SimBackend;
use specrouter_sim::cost::{CostModel, HardwareSpec};
use specrouter_sim::drive::{Bounds, open_loop};
use specrouter_sim::simulator::Simulator;

pub fn models() -> Vec<ModelSpec> {
    let texts = [
        include_str!("../../scenarios/catalog/models/llama-68m.yaml"),
        include_str!("../../scenarios/catalog/models/llama-3.2-1b.yaml"),
        include_str!("../../scenarios/catalog/models/llama-3.1-8b.yaml"),
    ];
    texts.iter().map(|text| serde_yaml::from_str(text).unwrap()).collect()
}

pub fn hardware() -> HardwareSpec {
    serde_yaml::from_str(include_str!("../../scenarios/catalog/hardware/h100-sxm.yaml")).unwrap()
}

struct Nothing;
impl Sink for Nothing {
    fn request(&mut self, _: &RequestRecord) {}
}

/// Tokens of KV memory of each model on a replica.
pub const MEMORY: u64 = 1 << 18;

pub fn limits(max_running: u32) -> Limits {
    Limits {
        max_running,
        token_budget: 8192,
        max_block: 32,
        hold_passes: None,
        context: 1 << 16,
        by_priority: false,
    }
}

pub fn request(id: u64, arrival: Time, output_tokens: u32) -> Request {
    Request {
        id: RequestId(id),
        class: ClassId(0),
        arrival,
        prompt_tokens: 500,
        limit: 4096,
        priority: 0,
        slo: Slo::default(),
        truth: Truth::new(output_tokens),
    }
}

pub fn built(policy: &PolicyConfig) -> Box<dyn Policy> {
    let names: Vec<String> = models().into_iter().map(|model| model.name).collect();
    let view = PolicyPool {
        names: &names,
        candidates: Candidates::all(3),
        classes: &["all".to_owned()],
        max_block: 32,
        draws: Luck::new(1).stream(Stream::Policy),
    };
    policy.build(&view).unwrap()
}

/// Serves `requests` on replicas of `rows` places; answers the rounds.
pub fn serve(
    source: &Arc<Source>,
    policy: &dyn Fn() -> Box<dyn Policy>,
    (replicas, rows): (u32, u32),
    requests: impl Iterator<Item = Request>,
) -> u64 {
    let luck = Luck::new(3);
    let costs = Arc::new(CostModel::roofline(&models(), &hardware(), 1, luck).unwrap());
    let belief: Arc<dyn PassCosts> = Arc::new(DataSheet::new(&models(), &hardware().sheet, 1));
    let servers = (0..replicas).map(|id| {
        let id = ReplicaId(id);
        let believed = Corrected::new(Arc::clone(&belief));
        let replica = Replica::new(id, limits(rows), &[MEMORY; 3], 16, policy(), believed).unwrap();
        (replica, SimBackend::new(Arc::clone(source), Arc::clone(&costs), luck, id))
    });
    let dispatcher = DispatcherConfig::RoundRobin.build(luck.stream(Stream::Dispatch));
    let mut simulator = Simulator::new(servers.collect(), dispatcher);
    let mut watch = |_| true;
    open_loop(&mut simulator, requests, &mut Bounds { horizon: None, watch: &mut watch }, &mut Nothing)
        .unwrap();
    simulator.close(&mut Nothing).rounds
}
