//! Dispatchers: which replica takes an arriving request.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{ReplicaId, RequestId};
use crate::luck::Draws;
use crate::replica::Load;

/// Chooses a replica for an arriving request.
pub trait Dispatcher: Send {
    /// The replica that takes `request`. `load` answers who waits and runs at a replica, and is
    /// asked only for the replicas that the choice needs.
    fn dispatch(&mut self, request: RequestId, replicas: u32, load: &dyn Fn(ReplicaId) -> Load) -> ReplicaId;
}

/// The shipped dispatchers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DispatcherConfig {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// The one with the fewest requests, the lowest number among equals.
    LeastLoaded,
    /// The less loaded of two drawn at random (Mitzenmacher 2001).
    PowerOfTwo,
}

impl DispatcherConfig {
    /// The dispatcher; `draws` is its luck.
    pub fn build(self, draws: Draws) -> Box<dyn Dispatcher> {
        match self {
            Self::RoundRobin => Box::new(RoundRobin { next: 0 }),
            Self::LeastLoaded => Box::new(LeastLoaded),
            Self::PowerOfTwo => Box::new(PowerOfTwo { draws }),
        }
    }
}

struct RoundRobin {
    next: u32,
}

impl Dispatcher for RoundRobin {
    fn dispatch(&mut self, _: RequestId, replicas: u32, _: &dyn Fn(ReplicaId) -> Load) -> ReplicaId {
        let chosen = self.next;
        self.next = (self.next + 1) % replicas;
        ReplicaId(chosen)
    }
}

struct LeastLoaded;

impl Dispatcher for LeastLoaded {
    fn dispatch(&mut self, _: RequestId, replicas: u32, load: &dyn Fn(ReplicaId) -> Load) -> ReplicaId {
        let least = (0..replicas).map(ReplicaId).min_by_key(|&r| (requests(load(r)), r));
        least.unwrap_or_default()
    }
}

struct PowerOfTwo {
    draws: Draws,
}

impl Dispatcher for PowerOfTwo {
    fn dispatch(&mut self, request: RequestId, replicas: u32, load: &dyn Fn(ReplicaId) -> Load) -> ReplicaId {
        let (u, v) = self.draws.uniform_pair(request.0, 0);
        let pick = |u: f64, n: u32| ((u * f64::from(n)) as u32).min(n - 1);
        let first = pick(u, replicas);
        if replicas == 1 {
            return ReplicaId(first);
        }
        // The second is another one.
        let second = (first + 1 + pick(v, replicas - 1)) % replicas;
        let (a, b) = (ReplicaId(first.min(second)), ReplicaId(first.max(second)));
        if requests(load(b)) < requests(load(a)) { b } else { a }
    }
}

fn requests(load: Load) -> u32 {
    load.queued + load.running
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::luck::{Luck, Stream};

    fn dispatch(config: DispatcherConfig, loads: &[u32], n: u64) -> Vec<u32> {
        let mut dispatcher = config.build(Luck::new(5).stream(Stream::Dispatch));
        let load = |r: ReplicaId| Load { queued: 0, running: loads[r.index()] };
        (0..n).map(|i| dispatcher.dispatch(RequestId(i), loads.len() as u32, &load).0).collect()
    }

    #[test]
    fn each_dispatcher_does_what_its_name_says() {
        assert_eq!(dispatch(DispatcherConfig::RoundRobin, &[9, 0, 0], 4), [0, 1, 2, 0]);
        assert_eq!(dispatch(DispatcherConfig::LeastLoaded, &[3, 1, 1], 2), [1, 1]);
        let chosen = dispatch(DispatcherConfig::PowerOfTwo, &[50, 1, 50, 50], 3000);
        let least = chosen.iter().filter(|&&r| r == 1).count();
        // Replica 1 is among two distinct of four with chance 1/2, and wins whenever it is.
        assert!((1300..1700).contains(&least), "{least}");
        assert_eq!(dispatch(DispatcherConfig::PowerOfTwo, &[4], 2), [0, 0]);
    }
}
