//! What policies are measured against: `clairvoyant`, `hindsight`, and the bound that nothing beats.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use specrouter_reports::{BoundReport, Metric};
use specrouter_routing::ids::{ModelId, RequestId};
use specrouter_routing::luck::Luck;
use specrouter_routing::policies::{PolicyConfig, StaticConfig};
use specrouter_routing::profile::ModelKind;
use specrouter_routing::record::{RequestRecord, Sink, Status};
use specrouter_routing::request::Request;
use specrouter_routing::units::Time;
use specrouter_routing::workload::Workload;
use specrouter_sim::bound::{Bound, World};
use specrouter_sim::clairvoyant::{Clairvoyant, OutputOf};

use crate::scenario::{Arm, Decides, Scenario};
use crate::simulate::{Seed, simulate};

/// Requests on which static arms are compared in hindsight.
const REQUESTS: u64 = 500;
/// Seeds of luck that no report uses: those that static arms are chosen on.
const OTHER: u64 = 1 << 40;
/// Windows tried at the levels of a chain, from its lowest verifier up, by the chain's depth.
const WINDOWS: [&[u32]; 3] = [&[1, 2, 3, 4, 5, 6, 7, 8], &[1, 2, 4, 6], &[1, 2, 4]];

/// Every request of a run, in the order of ids; in a closed loop all stand at time 0.
fn requests(workload: &Workload, seed: u64) -> Vec<Request> {
    let mut stream = workload.stream(Luck::new(seed));
    match workload.users() {
        None => stream.collect(),
        Some(_) => {
            let first: Vec<Request> = stream.by_ref().collect();
            let more = (first.len() as u64..workload.size().requests)
                .map_while(|id| stream.next_request(RequestId(id), Time::ZERO));
            first.into_iter().chain(more).collect()
        }
    }
}

/// The clairvoyant policy of one replica in the run with this seed.
pub fn clairvoyant(scenario: &Scenario, workload: &Workload, seed: Seed) -> Clairvoyant {
    let outputs: Vec<u32> =
        requests(workload, seed.requests).iter().map(|request| request.truth.output_tokens()).collect();
    let output_of: OutputOf = Box::new(move |id| outputs.get(id.0 as usize).copied().unwrap_or(1));
    Clairvoyant::new(Arc::clone(&scenario.acceptance), Luck::new(seed.coins), scenario.pool.len(), output_of)
}

/// The arm of the clairvoyant policy.
pub fn clairvoyant_arm(scenario: &Scenario) -> Arm {
    Arm {
        name: "clairvoyant".into(),
        decides: Decides::Clairvoyant,
        members: (0..scenario.pool.len()).collect(),
        other_output: false,
        label: "knows each request's own future",
    }
}

/// The best static arm, chosen with other luck (and where there is none, on the same text) by the mean of latency per
/// token; `None` when `stop` was raised.
///
/// # Errors
/// As [`simulate`].
pub fn hindsight_arm(
    scenario: &Scenario,
    workload: &Workload,
    stop: &AtomicBool,
) -> anyhow::Result<Option<Arm>> {
    let mut best: Option<(f64, Arm)> = None;
    for config in static_plans(scenario) {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let arm = Arm {
            name: "hindsight".into(),
            decides: Decides::Policy(config),
            members: (0..scenario.pool.len()).collect(),
            other_output: false,
            label: "",
        };
        let mut latency = Latency::default();
        // What is cut short is recorded as running, and counts for nothing.
        simulate(scenario, &arm, workload, scenario.raw.seed ^ OTHER, &mut latency, &mut |progress| {
            progress.ended < REQUESTS && !stop.load(Ordering::Relaxed)
        })?;
        let mean = latency.seconds / latency.requests.max(1) as f64;
        if latency.requests > 0 && best.as_ref().is_none_or(|(least, _)| mean < *least) {
            best = Some((mean, arm));
        }
    }
    Ok(best.map(|(_, mut arm)| {
        if let Decides::Policy(config) = &arm.decides {
            arm.name = format!("hindsight: {}", config.label());
        }
        arm.label = "the best static plan, chosen on other luck";
        arm
    }))
}

/// Plain decoding, and every chain of the pool with the windows of [`WINDOWS`].
pub fn static_plans(scenario: &Scenario) -> Vec<PolicyConfig> {
    let pool = &scenario.pool;
    let target = pool.len() - 1;
    let mut plans = vec![PolicyConfig::TargetOnly];
    for set in 1..1u32 << target {
        let chain: Vec<usize> = (0..target).filter(|m| set >> m & 1 == 1).chain([target]).collect();
        // A head stands directly below its own model.
        let fits = chain.windows(2).all(|pair| match &pool[pair[0]].kind {
            ModelKind::Head { of } => *of == pool[pair[1]].name,
            ModelKind::Model | ModelKind::Ngram => true,
        });
        let heads_above = chain[1..].iter().all(|&m| pool[m].kind == ModelKind::Model);
        let depth = chain.len() - 1;
        let Some(choices) = WINDOWS.get(depth - 1).filter(|_| fits && heads_above) else { continue };
        let chain: Vec<String> = chain.iter().map(|&m| pool[m].name.clone()).collect();
        for index in 0..choices.len().pow(depth as u32) {
            let windows: Vec<u32> = (0..depth)
                .map(|level| choices[index / choices.len().pow(level as u32) % choices.len()])
                .collect();
            if windows.iter().sum::<u32>() <= scenario.limits.max_block {
                plans.push(PolicyConfig::Static(StaticConfig { chain: chain.clone(), windows, stop: None }));
            }
        }
    }
    plans
}

/// Σ over requests of the time per output token, waiting included.
#[derive(Default)]
struct Latency {
    seconds: f64,
    requests: u64,
}

impl Sink for Latency {
    fn request(&mut self, record: &RequestRecord) {
        if let (Status::Finished, Some(last)) = (record.status, record.last_token) {
            self.seconds += (last - record.arrival).seconds() / f64::from(record.output_tokens.max(1));
            self.requests += 1;
        }
    }
}

/// The bound of a workload of the scenario, in the mean over its seeds.
///
/// # Errors
/// Hardware that cannot be priced, which resolving has ruled out.
pub fn bound(
    scenario: &Scenario,
    workload: &Workload,
    stop: &AtomicBool,
) -> anyhow::Result<Option<BoundReport>> {
    let members: Vec<usize> = (0..scenario.pool.len()).collect();
    let mut lines: Vec<(Metric, f64, usize)> = Vec::new();
    for &seed in &scenario.seeds {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let luck = Luck::new(seed);
        let costs = scenario.hardware.model(&scenario.pool, &members, scenario.raw.tensor_parallel, luck)?;
        let world = World {
            source: &scenario.acceptance,
            luck,
            costs: &costs,
            falling: false,
            limits: &scenario.limits,
            models: scenario.pool.len(),
            memory_tokens: scenario.kv_tokens,
            replicas: scenario.raw.replicas,
        };
        let requests = requests(workload, seed);
        let bound = Bound::compute(&world, &requests);
        let told =
            |values: Vec<f64>| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
        let served = || bound.requests.iter().filter(|request| request.tokens > 0);
        let alone: f64 = served().map(|request| request.e2e().seconds()).sum();
        // Requests of a closed loop follow one another; others come when they come.
        let least = match workload.users() {
            Some(users) => alone / f64::from(users),
            None => requests.last().map_or(0.0, |request| request.arrival.seconds()),
        };
        let seconds = bound.seconds().max(least);
        let goodput = served().any(|request| request.meets_slo().is_some());
        for (metric, value) in [
            (Metric::TtftMean, told(served().map(|r| r.ttft.seconds() * 1e3).collect())),
            (Metric::TpotMean, told(served().filter_map(|r| Some(r.tpot_seconds()? * 1e3)).collect())),
            (Metric::OutputTokens, Some(bound.tokens() as f64 / seconds)),
            (Metric::Goodput, goodput.then(|| bound.most_meeting_slo() as f64 / seconds)),
        ] {
            let Some(value) = value else { continue };
            match lines.iter_mut().find(|line| line.0 == metric) {
                Some(line) => (line.1, line.2) = (line.1 + value, line.2 + 1),
                None => lines.push((metric, value, 1)),
            }
        }
    }
    Ok(Some(BoundReport { lines: lines.into_iter().map(|(m, sum, n)| (m, sum / n as f64)).collect() }))
}

/// The target, by index.
pub fn target(scenario: &Scenario) -> ModelId {
    ModelId((scenario.pool.len() - 1) as u8)
}
