//! The event engine: replicas, their passes in virtual time, and nothing else.
//!
//! A state machine: [`Simulator::next_time`] says when something ends, [`Simulator::submit`] takes
//! an arrival, [`Simulator::advance`] ends the next pass. Loops over it are in [`crate::drive`].

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

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
    /// When the pass that runs began.
    start: Time,
    /// The entry of `ends` that stands for it; others of this server are stale.
    entry: u64,
}

/// When a pass ends, its place in the order of schedules, and its server.
type End = Reverse<(Time, u64, u32)>;

/// More replicas than this do not stay in the cache between their turns.
const MANY: usize = 32;

/// Replicas in virtual time.
pub struct Simulator<B> {
    servers: Vec<Server<B>>,
    dispatcher: Box<dyn Dispatcher>,
    /// Ends of passes. Equal times keep the order in which they were scheduled.
    ends: BinaryHeap<End>,
    scheduled: u64,
    now: Time,
    /// What all replicas count into.
    tally: Box<Tally>,
}

impl<B: Backend> Simulator<B> {
    /// Idle servers, each a replica with its backend.
    pub fn new(servers: Vec<(Replica, B)>, dispatcher: Box<dyn Dispatcher>) -> Self {
        let servers: Vec<Server<B>> = servers
            .into_iter()
            .map(|(replica, backend)| Server {
                replica,
                backend,
                outcome: PassOutcome::default(),
                start: Time::ZERO,
                entry: u64::MAX,
            })
            .collect();
        let mut servers = servers;
        // The first replica's tally, which knows the pool, is everybody's.
        let mut tally = Box::default();
        if let Some(first) = servers.first_mut() {
            first.replica.swap_tally(&mut tally);
        }
        Self {
            ends: BinaryHeap::with_capacity(servers.len()),
            servers,
            dispatcher,
            scheduled: 0,
            now: Time::ZERO,
            tally,
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
        let chosen = self.enqueue(request, at, sink);
        self.wake(chosen, sink)
    }

    /// Takes an arrival as [`submit`](Self::submit) does, and starts nothing: several may come at once. Answers who
    /// has it, for [`wake`](Self::wake).
    pub fn enqueue<S: Sink + ?Sized>(&mut self, request: Request, at: Time, sink: &mut S) -> ReplicaId {
        debug_assert!(at >= self.now && self.next_time().is_none_or(|next| at <= next));
        self.now = at;
        let count = self.servers.len() as u32;
        let servers = &self.servers;
        let chosen = self.dispatcher.dispatch(request.id, count, &|r| servers[r.index()].replica.load());
        self.servers[chosen.index()].replica.submit(request, sink);
        chosen
    }

    /// Lets a replica look at what has come: an idle one starts, one in a run of drafts ends it with the present one.
    ///
    /// # Errors
    /// [`SimError`], from the pass that it starts.
    pub fn wake<S: Sink + ?Sized>(
        &mut self,
        replica: ReplicaId,
        sink: &mut S,
    ) -> Result<(), SimError<B::Error>> {
        let (now, server) = (self.now, &mut self.servers[replica.index()]);
        if !server.replica.is_busy() {
            if let Some(end) = self.start(replica.0, sink)? {
                self.ends.push(end);
            }
        } else if server.outcome.cut(server.start, now) {
            // The arrival takes part in the tick after the draft pass that runs now.
            let end = server.start + server.outcome.total();
            server.entry = self.scheduled;
            self.ends.push(Reverse((end, self.scheduled, replica.0)));
            self.scheduled += 1;
        }
        Ok(())
    }

    /// Ends the next pass and starts nothing, so that what its end brings about can come first; the replica goes on with
    /// [`wake`](Self::wake). `None` when nothing runs.
    ///
    /// # Errors
    /// [`SimError`].
    pub fn finish<S: Sink + ?Sized>(
        &mut self,
        sink: &mut S,
    ) -> Result<Option<ReplicaId>, SimError<B::Error>> {
        let Some(Reverse((time, _, index))) = self.ends.pop() else { return Ok(None) };
        self.end(time, index, sink)?;
        self.servers[index as usize].entry = u64::MAX;
        self.drop_stale();
        Ok(Some(ReplicaId(index)))
    }

    /// Ends the pass of a replica at `time`.
    fn end<S: Sink + ?Sized>(
        &mut self,
        time: Time,
        index: u32,
        sink: &mut S,
    ) -> Result<(), SimError<B::Error>> {
        debug_assert!(time >= self.now, "the clock never goes back");
        self.now = time;
        let many = self.servers.len() > MANY;
        let server = &mut self.servers[index as usize];
        if many {
            server.replica.read_ahead();
        }
        server.replica.swap_tally(&mut self.tally);
        let finished = server.replica.finish(time, &server.outcome, &mut server.backend, sink);
        server.replica.swap_tally(&mut self.tally);
        Ok(finished?)
    }

    /// The entry on top always stands for a pass that runs.
    fn drop_stale(&mut self) {
        while let Some(&Reverse((_, entry, server))) = self.ends.peek() {
            if self.servers[server as usize].entry == entry {
                break;
            }
            self.ends.pop();
        }
    }

    /// Ends the next pass and starts the replica's next one. False when nothing runs.
    ///
    /// # Errors
    /// [`SimError`].
    pub fn advance<S: Sink + ?Sized>(&mut self, sink: &mut S) -> Result<bool, SimError<B::Error>> {
        let Some(&Reverse((time, _, index))) = self.ends.peek() else {
            return Ok(false);
        };
        self.end(time, index, sink)?;
        let next = self.start(index, sink)?;
        if let Some(mut top) = self.ends.peek_mut() {
            match next {
                Some(end) => *top = end, // One sift in place of two.
                None => {
                    PeekMut::pop(top);
                }
            }
        }
        self.drop_stale();
        Ok(true)
    }

    /// Packs and prices the next pass of a replica; answers when it ends.
    fn start<S: Sink + ?Sized>(
        &mut self,
        index: u32,
        sink: &mut S,
    ) -> Result<Option<End>, SimError<B::Error>> {
        let server = &mut self.servers[index as usize];
        server.entry = u64::MAX;
        server.replica.swap_tally(&mut self.tally);
        let begun = server.replica.begin(self.now, &mut server.backend, sink);
        server.replica.swap_tally(&mut self.tally);
        if !begun? {
            return Ok(None);
        }
        server.outcome.clear();
        let run = server.backend.run(&server.replica.pass(), &mut server.outcome);
        run.map_err(|source| SimError::Backend { replica: ReplicaId(index), source })?;
        (server.start, server.entry) = (self.now, self.scheduled);
        let end = self.now + server.outcome.total();
        self.scheduled += 1;
        Ok(Some(Reverse((end, server.entry, index))))
    }

    /// The replicas, for inspection.
    pub fn replicas(&self) -> impl Iterator<Item = &Replica> {
        self.servers.iter().map(|server| &server.replica)
    }

    /// Ends the run: what still runs or waits is recorded as such, and the replicas' tallies are
    /// added up.
    pub fn close<S: Sink + ?Sized>(self, sink: &mut S) -> Tally {
        let mut total = *self.tally;
        self.servers.into_iter().for_each(|server| total.merge(server.replica.close(sink)));
        total
    }
}
