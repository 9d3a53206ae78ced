//! Loops over a [`Simulator`]: arrivals at their own times, or users who wait for their answers.

use specrouter_routing::backend::Backend;
use specrouter_routing::hand_on;
use specrouter_routing::ids::RequestId;
use specrouter_routing::record::{RequestRecord, RoundRecord, Sink, Wants};
use specrouter_routing::request::Request;
use specrouter_routing::units::Time;

use crate::simulator::{SimError, Simulator};

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Requests submitted.
    pub submitted: u64,
    /// Requests ended.
    pub ended: u64,
    /// Events: arrivals and ends of passes.
    pub events: u64,
    /// The virtual clock.
    pub now: Time,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every request has.
    Drained,
    /// At the horizon.
    Horizon,
    /// The watcher asked for it.
    Interrupted,
}

/// Events between two looks at the watcher.
const LOOK: u64 = 8192;

/// What bounds a run, and who watches it.
pub struct Bounds<'a> {
    /// The run ends here; what is unfinished then is recorded as running or waiting.
    pub horizon: Option<Time>,
    /// Called now and then; false ends the run.
    pub watch: &'a mut dyn FnMut(Progress) -> bool,
}

/// Runs requests that arrive at their own times, in the order of their arrival.
///
/// # Errors
/// [`SimError`], from the first pass that fails.
pub fn open_loop<B: Backend, S: Sink + ?Sized>(
    simulator: &mut Simulator<B>,
    arrivals: impl IntoIterator<Item = Request>,
    bounds: &mut Bounds<'_>,
    sink: &mut S,
) -> Result<Ended, SimError<B::Error>> {
    let mut sink = Counting { inner: sink, ended: 0 };
    let mut arrivals = arrivals.into_iter().peekable();
    let (mut submitted, mut events) = (0u64, 0u64);
    loop {
        let arrival = arrivals.peek().map(|request| request.arrival);
        // Arrivals go before pass ends of the same moment.
        let next = match (arrival, simulator.next_time()) {
            (None, None) => return Ok(Ended::Drained),
            (Some(at), end) if end.is_none_or(|end| at <= end) => at,
            (_, Some(end)) => end,
            (Some(at), None) => at,
        };
        if bounds.horizon.is_some_and(|horizon| next > horizon) {
            return Ok(Ended::Horizon);
        }
        if arrival == Some(next)
            && let Some(request) = arrivals.next()
        {
            simulator.submit(request, next, &mut sink)?;
            submitted += 1;
        } else {
            simulator.advance(&mut sink)?;
        }
        events += 1;
        if events.is_multiple_of(LOOK) {
            let progress = Progress { submitted, ended: sink.ended, events, now: simulator.now() };
            if !(bounds.watch)(progress) {
                return Ok(Ended::Interrupted);
            }
        }
    }
}

/// Runs `users` users, each of whom submits a request, waits for its end and submits the next,
/// until `next` has no more. `next` draws the request that arrives at the given time.
///
/// # Errors
/// [`SimError`], from the first pass that fails.
pub fn closed_loop<B: Backend, S: Sink + ?Sized>(
    simulator: &mut Simulator<B>,
    users: u32,
    mut next: impl FnMut(RequestId, Time) -> Option<Request>,
    bounds: &mut Bounds<'_>,
    sink: &mut S,
) -> Result<Ended, SimError<B::Error>> {
    let mut sink = Counting { inner: sink, ended: 0 };
    let (mut submitted, mut events) = (0u64, 0u64);
    let (mut more, mut awake) = (true, Vec::new());
    loop {
        // Every user without a request submits one, before the replica that answered goes on: the next pass has them
        // all, as it has in the engine. A refused one counts as ended at once.
        while more && submitted < sink.ended + u64::from(users) {
            let now = simulator.now();
            match next(RequestId(submitted), now) {
                Some(request) => awake.push(simulator.enqueue(request, now, &mut sink)),
                None => {
                    more = false;
                    break;
                }
            }
            submitted += 1;
            events += 1;
            // A refused request ends at once, so this loop alone may be long.
            if events.is_multiple_of(LOOK)
                && !(bounds.watch)(Progress { submitted, ended: sink.ended, events, now })
            {
                return Ok(Ended::Interrupted);
            }
        }
        awake.sort_unstable();
        awake.dedup();
        for replica in awake.drain(..) {
            simulator.wake(replica, &mut sink)?;
        }
        match simulator.next_time() {
            None => return Ok(Ended::Drained),
            Some(end) if bounds.horizon.is_some_and(|horizon| end > horizon) => return Ok(Ended::Horizon),
            Some(_) => awake.extend(simulator.finish(&mut sink)?),
        };
        events += 1;
        if events.is_multiple_of(LOOK) {
            let progress = Progress { submitted, ended: sink.ended, events, now: simulator.now() };
            if !(bounds.watch)(progress) {
                return Ok(Ended::Interrupted);
            }
        }
    }
}

/// Counts requests that end, on their way to the sink.
struct Counting<'a, S: ?Sized> {
    inner: &'a mut S,
    ended: u64,
}

impl<S: Sink + ?Sized> Sink for Counting<'_, S> {
    fn wants(&self) -> Wants {
        self.inner.wants()
    }

    fn request(&mut self, record: &RequestRecord) {
        self.ended += 1;
        self.inner.request(record);
    }

    fn round(&mut self, record: &RoundRecord) {
        self.inner.round(record);
    }

    hand_on!(inner);
}
