//! The serving loop on the wall clock: requests arrive in real time, or when a user has its answer.

use std::time::Duration;

use specrouter_routing::backend::{Backend, PassOutcome};
use specrouter_routing::hand_on;
use specrouter_routing::ids::RequestId;
use specrouter_routing::record::{RequestRecord, RoundRecord, Sink, Status, Wants};
use specrouter_routing::replica::{Replica, ReplicaError};
use specrouter_routing::request::Request;
use specrouter_routing::units::Time;

use crate::backend::{BackendError, EngineBackend, Finished, Listener, Prompt, PromptError};
use crate::coins::Coins;
use crate::level::LevelModel;
use crate::stopwatch::Stopwatch;

/// Why serving stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The serving loop: a policy's bad answer, or a bug.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// A pass that could not be run.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A prompt that cannot be run.
    #[error(transparent)]
    Prompt(#[from] PromptError),
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every request has.
    Drained,
    /// At the horizon.
    Horizon,
    /// The watcher asked for it.
    Interrupted,
}

/// A request with its contents.
pub type Job = (Request, Prompt);

/// Where requests come from.
pub enum Jobs<'a> {
    /// Each at its own time, in order of arrival.
    Arriving(&'a mut dyn Iterator<Item = Job>),
    /// From so many users, each of whom sends its next when its last has ended.
    Users(u32, &'a mut dyn FnMut(RequestId, Time) -> Option<Job>),
}

/// What a run is told as it goes, and what may end it.
pub trait Watcher {
    /// A text is complete.
    fn finished(&mut self, text: Finished);
    /// Called once a pass, and while nothing runs; false ends the run.
    fn go_on(&mut self, now: Time) -> bool;
}

/// Longest sleep between two looks at the watcher.
const NAP: Duration = Duration::from_millis(20);

/// Serves until every request has ended, the horizon has come, or the watcher says so.
///
/// Times are those of `watch`, which the backend reads too.
///
/// # Errors
/// [`ServeError`], from the first pass or prompt that fails; what had ended before has been told.
pub fn serve<M, C, L, S>(
    replica: &mut Replica,
    backend: &mut EngineBackend<M, Stopwatch, C, L>,
    watch: Stopwatch,
    mut jobs: Jobs<'_>,
    horizon: Option<Time>,
    sink: &mut S,
    watcher: &mut dyn Watcher,
) -> Result<Ended, ServeError>
where
    M: LevelModel,
    C: Coins,
    L: Listener,
    S: Sink + ?Sized,
{
    let mut sink = Ends { inner: sink, ended: 0, refused: Vec::new() };
    let mut outcome = PassOutcome::default();
    let (mut submitted, mut next) = (0u64, None);
    loop {
        let now = watch.read();
        if !watcher.go_on(now) {
            return Ok(Ended::Interrupted);
        }
        if horizon.is_some_and(|horizon| now >= horizon) {
            return Ok(Ended::Horizon);
        }
        match &mut jobs {
            Jobs::Arriving(arriving) => loop {
                next = next.take().or_else(|| arriving.next());
                match next.take() {
                    Some((request, prompt)) if request.arrival <= now => {
                        submit(replica, backend, (request, prompt), &mut sink)?;
                        submitted += 1;
                    }
                    later => {
                        next = later;
                        break;
                    }
                }
            },
            Jobs::Users(users, send) => {
                while submitted < sink.ended + u64::from(*users) {
                    let Some(job) = send(RequestId(submitted), now) else { break };
                    submit(replica, backend, job, &mut sink)?;
                    submitted += 1;
                }
            }
        }
        if replica.begin(now, backend, &mut sink)? {
            backend.run(&replica.pass(), &mut outcome)?;
            replica.finish(watch.read(), &outcome, backend, &mut sink)?;
            backend.take_finished().into_iter().for_each(|text| watcher.finished(text));
        } else if let Some((request, _)) = &next {
            watch.wait_until(request.arrival, NAP);
        } else {
            return Ok(Ended::Drained);
        }
    }
}

fn submit<M: LevelModel, C: Coins, L: Listener, S: Sink + ?Sized>(
    replica: &mut Replica,
    backend: &mut EngineBackend<M, Stopwatch, C, L>,
    (request, prompt): Job,
    sink: &mut Ends<'_, S>,
) -> Result<(), ServeError> {
    backend.submit(request.id, prompt)?;
    replica.submit(request, sink);
    for refused in sink.refused.drain(..) {
        backend.withdraw(refused);
    }
    Ok(())
}

/// Counts requests that end and notes those that are refused, on their way to the sink.
struct Ends<'a, S: ?Sized> {
    inner: &'a mut S,
    ended: u64,
    refused: Vec<RequestId>,
}

impl<S: Sink + ?Sized> Sink for Ends<'_, S> {
    fn wants(&self) -> Wants {
        self.inner.wants()
    }

    fn request(&mut self, record: &RequestRecord) {
        self.ended += 1;
        if record.status == Status::TooLong {
            self.refused.push(record.id);
        }
        self.inner.request(record);
    }

    fn round(&mut self, record: &RoundRecord) {
        self.inner.round(record);
    }

    hand_on!(inner);
}
