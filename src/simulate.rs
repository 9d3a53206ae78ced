//! One arm under one seed: replicas with their policies and backends, driven to the end.

use std::sync::Arc;

use anyhow::Context;
use specrouter_routing::ids::ReplicaId;
use specrouter_routing::luck::{Luck, Stream};
use specrouter_routing::policy::Policy;
use specrouter_routing::profile::Corrected;
use specrouter_routing::record::{RequestRecord, Sink, Status};
use specrouter_routing::replica::Replica;
use specrouter_routing::tally::Tally;
use specrouter_routing::units::Time;
use specrouter_routing::workload::Workload;
use specrouter_sim::backend::SimBackend;
use specrouter_sim::drive::{self, Bounds, Ended, Progress};
use specrouter_sim::simulator::Simulator;

use crate::references;
use crate::scenario::{Arm, Decides, Scenario, build};

/// What a run draws from: the same number twice, but where a comparison keeps one and changes the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    /// Arrivals, classes and lengths.
    pub requests: u64,
    /// Everything else: acceptance, what distinguishes requests, noise, a dispatcher's and a policy's choices.
    pub coins: u64,
}

impl From<u64> for Seed {
    fn from(seed: u64) -> Self {
        Self { requests: seed, coins: seed }
    }
}

/// What a run left behind, besides what its sink kept.
pub struct Run {
    /// Σ over replicas.
    pub tally: Tally,
    /// When it ended.
    pub end: Time,
    /// How it ended.
    pub ended: Ended,
    /// Prices that lay off a measured table's grid.
    pub extrapolations: u64,
}

/// Runs `arm` over `workload` with the luck of `seed`, until every request has ended, the horizon
/// is reached, or `watch` says false.
///
/// # Errors
/// A policy's bad answer, or a scenario that cannot be built (which resolving it has ruled out).
pub fn simulate<S: Sink>(
    scenario: &Scenario,
    arm: &Arm,
    workload: &Workload,
    seed: impl Into<Seed>,
    sink: &mut S,
    watch: &mut dyn FnMut(Progress) -> bool,
) -> anyhow::Result<Run> {
    let seed = seed.into();
    let classes = workload.class_names();
    let policy = |replica: ReplicaId| -> anyhow::Result<Box<dyn Policy>> {
        let draws = Luck::new(seed.coins).stream(Stream::Policy).part(u64::from(replica.0));
        Ok(match &arm.decides {
            Decides::Policy(config) => {
                build(config, &scenario.pool, &arm.members, &classes, scenario.limits.max_block, draws)?
            }
            Decides::Clairvoyant => Box::new(references::clairvoyant(scenario, workload, seed)),
        })
    };
    simulate_policy(scenario, &arm.members, &policy, workload, seed, sink, watch)
}

/// Runs a policy, made anew for every replica, over the pool's models at `members`; otherwise as [`simulate`].
///
/// # Errors
/// As [`simulate`].
pub fn simulate_policy<S: Sink>(
    scenario: &Scenario,
    members: &[usize],
    policy: &dyn Fn(ReplicaId) -> anyhow::Result<Box<dyn Policy>>,
    workload: &Workload,
    seed: impl Into<Seed>,
    sink: &mut S,
    watch: &mut dyn FnMut(Progress) -> bool,
) -> anyhow::Result<Run> {
    let seed = seed.into();
    let luck = Luck::new(seed.coins);
    let raw = &scenario.raw;
    let costs = scenario.hardware.model(&scenario.pool, members, raw.tensor_parallel, luck)?;
    let interference =
        members.iter().filter_map(|&member| scenario.interference.get(member).copied()).collect();
    let costs = Arc::new(costs.with_interference(interference));
    let belief = scenario.profile.belief(&scenario.pool, members, raw.tensor_parallel);
    let kv = vec![scenario.kv_tokens; members.len()];
    let servers = (0..raw.replicas).map(|id| {
        let id = ReplicaId(id);
        let policy = policy(id)?;
        let believed = Corrected::new(Arc::clone(&belief));
        let replica =
            Replica::new(id, scenario.limits.clone(), &kv, raw.limits.block_size, policy, believed)?;
        Ok((replica, SimBackend::new(Arc::clone(&scenario.acceptance), Arc::clone(&costs), luck, id)))
    });
    let servers = servers.collect::<anyhow::Result<Vec<_>>>()?;
    let mut simulator = Simulator::new(servers, raw.dispatcher.build(luck.stream(Stream::Dispatch)));
    let mut requests = workload.stream(Luck::new(seed.requests));
    let mut bounds = Bounds { horizon: workload.horizon(), watch };
    let ended = match workload.users() {
        Some(users) => {
            let mut left = workload.size().requests;
            let next = |id, now| {
                left = left.checked_sub(1)?;
                requests.next_request(id, now)
            };
            drive::closed_loop(&mut simulator, users, next, &mut bounds, sink)?
        }
        None => drive::open_loop(&mut simulator, requests.by_ref(), &mut bounds, sink)?,
    };
    let end =
        if ended == Ended::Horizon { workload.horizon().unwrap_or(simulator.now()) } else { simulator.now() };
    Ok(Run { tally: simulator.close(sink), end, ended, extrapolations: costs.extrapolations() })
}

/// Requests per second that the scenario serves with the target alone: see [`capacity_of`].
///
/// # Errors
/// As [`simulate`].
pub fn capacity(scenario: &Scenario, watch: &mut dyn FnMut(Progress) -> bool) -> anyhow::Result<f64> {
    let members = (0..scenario.pool.len()).collect();
    let decides = Decides::Policy(specrouter_routing::policies::PolicyConfig::TargetOnly);
    let arm = Arm { name: "target_only".into(), decides, members, other_output: false, label: "" };
    let reached = capacity_of(scenario, &arm, watch)?;
    reached.context("the target alone finished too few requests: no capacity to take loads of")
}

/// Requests per second that the scenario serves under `arm` with every place taken; `None` when too few finished.
///
/// Measured in a closed loop of as many users as places on one replica, between the first and the
/// last quarter of its requests, times the replicas.
///
/// # Errors
/// As [`simulate`].
pub fn capacity_of(
    scenario: &Scenario,
    arm: &Arm,
    watch: &mut dyn FnMut(Progress) -> bool,
) -> anyhow::Result<Option<f64>> {
    let users = scenario.limits.max_running;
    let requests = 8 * users.max(16);
    let workload = scenario.in_closed_loop(users, requests)?;
    let mut single = scenario.clone();
    single.raw.replicas = 1;
    let mut ends = Ends::default();
    simulate(&single, arm, &workload, scenario.raw.seed, &mut ends, watch)?;
    let (first, last) = (ends.0.len() / 4, ends.0.len() * 3 / 4);
    let span = ends.0.get(last).zip(ends.0.get(first)).map(|(l, f)| l.seconds() - f.seconds());
    let per_second = |span: f64| (last - first) as f64 / span * f64::from(scenario.raw.replicas);
    Ok(span.filter(|&span| span > 0.0).map(per_second))
}

/// When requests finished.
#[derive(Default)]
struct Ends(Vec<Time>);

impl Sink for Ends {
    fn request(&mut self, record: &RequestRecord) {
        if record.status == Status::Finished {
            self.0.extend(record.last_token);
        }
    }
}
