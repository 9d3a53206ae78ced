//! The event engine: replicas, their passes in virtual time, and nothing else.
//!
//! A state machine: [`Simulator::next_time`] says when something ends, [`Simulator::submit`] takes
//! an arrival, [`Simulator::advance`] ends the next pass. Loops over it are in [`crate::drive`].

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use specrouter_routing::backend::{Backend, PassOutcome};
use specrouter_routing::dispatch::Dispatcher;
use specrouter_routing::ids::ReplicaId;
use specrouter_routing::record::Sink;
use specrouter_routing::replica::{Replica, ReplicaError};
use specrouter_routing::request::Request;
use specrouter_routing::tally::Tally;
use specrouter_routing::units::Time;

/// Why a simulation stopped.
#[derive(Debug, thiserror::Error)]
pub enum SimError<E: std::error::Error> {
    /// The serving loop: a policy's bad answer, or a backend's bug.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// A backend that could not run a pass.
    #[error("replica {replica}: {source}")]
    Backend {
        /// Where.
        replica: ReplicaId,
        /// What it said.
        source: E,
    },
}

/// A replica and what carries its sequences.
struct Server<B> {
    replica: Replica,
    backend: B,
    outcome: PassOutcome,
}

/// Replicas in virtual time.
pub struct Simulator<B> {
    servers: Vec<Server<B>>,
    dispatcher: Box<dyn Dispatcher>,
    /// Ends of passes. Equal times keep the order in which they were scheduled.
    ends: BinaryHeap<Reverse<(Time, u64, u32)>>,
    scheduled: u64,
    now: Time,
}

impl<B: Backend> Simulator<B> {
    /// Idle servers, each a replica with its backend.
    pub fn new(servers: Vec<(Replica, B)>, dispatcher: Box<dyn Dispatcher>) -> Self {
        let servers: Vec<Server<B>> = servers
            .into_iter()
            .map(|(replica, backend)| Server { replica, backend, outcome: PassOutcome::default() })
            .collect();
        Self {
            ends: BinaryHeap::with_capacity(servers.len()),
            servers,
            dispatcher,
            scheduled: 0,
            now: Time::ZERO,
        }
    }

    /// The virtual clock: the time of the newest event.
    pub fn now(&self) -> Time {
        self.now
    }

    /// When the next pass ends; `None` when all replicas are idle.
    pub fn next_time(&self) -> Option<Time> {
        self.ends.peek().map(|Reverse((time, _, _))| *time)
    }

    /// Passes scheduled so far.
    pub fn passes(&self) -> u64 {
        self.scheduled
    }

    /// Takes an arrival at `at`, which is not before [`now`](Self::now) and not after
    /// [`next_time`](Self::next_time).
    ///
    /// # Errors
    /// [`SimError`], from the pass that the arrival starts on an idle replica.
    pub fn submit<S: Sink + ?Sized>(
        &mut self,
        request: Request,
        at: Time,
        sink: &mut S,
    ) -> Result<(), SimError<B::Error>> {
        debug_assert!(at >= self.now && self.next_time().is_none_or(|next| at <= next));
        self.now = at;
        let count = self.servers.len() as u32;
        let servers = &self.servers;
        let chosen = self.dispatcher.dispatch(request.id, count, &|r| servers[r.index()].replica.load());
        let server = &mut self.servers[chosen.index()];
        server.replica.submit(request, sink);
        if !server.replica.is_busy() {
            self.start(chosen.0, sink)?;
        }
        Ok(())
    }

    /// Ends the next pass and starts the replica's next one. False when nothing runs.
    ///
    /// # Errors
    /// [`SimError`].
    pub fn advance<S: Sink + ?Sized>(&mut self, sink: &mut S) -> Result<bool, SimError<B::Error>> {
        let Some(Reverse((time, _, index))) = self.ends.pop() else {
            return Ok(false);
        };
        debug_assert!(time >= self.now, "the clock never goes back");
        self.now = time;
        let server = &mut self.servers[index as usize];
        server.replica.finish(time, &server.outcome, &mut server.backend, sink)?;
        self.start(index, sink)?;
        Ok(true)
    }

    /// Packs and prices the next pass of a replica.
    fn start<S: Sink + ?Sized>(&mut self, index: u32, sink: &mut S) -> Result<(), SimError<B::Error>> {
        let server = &mut self.servers[index as usize];
        if !server.replica.begin(self.now, &mut server.backend, sink)? {
            return Ok(());
        }
        server.outcome.clear();
        let run = server.backend.run(&server.replica.pass(), &mut server.outcome);
        run.map_err(|source| SimError::Backend { replica: ReplicaId(index), source })?;
        let end = self.now + server.outcome.duration;
        self.ends.push(Reverse((end, self.scheduled, index)));
        self.scheduled += 1;
        Ok(())
    }

    /// The replicas, for inspection.
    pub fn replicas(&self) -> impl Iterator<Item = &Replica> {
        self.servers.iter().map(|server| &server.replica)
    }

    /// Ends the run: what still runs or waits is recorded as such, and the replicas' tallies are
    /// added up.
    pub fn close<S: Sink + ?Sized>(self, sink: &mut S) -> Tally {
        let mut tallies = self.servers.into_iter().map(|server| server.replica.close(sink));
        let mut total = tallies.next().unwrap_or_default();
        tallies.for_each(|tally| total.merge(tally));
        total
    }
}
