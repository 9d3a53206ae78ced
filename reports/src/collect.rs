//! Listens to a run and keeps what its report and its tables need.

use specrouter_routing::record::{
    DecisionRecord, PassRecord, RequestRecord, RoundRecord, Sink, Status, VerificationRecord, Wants,
};
use specrouter_routing::units::{Span, Time};

use crate::timeline::TimelineSink;

/// How much a [`Collector`] keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keep {
    /// [`Columns`] only: 18 bytes a finished request.
    #[default]
    Summary,
    /// Every [`RequestRecord`] too.
    Requests,
    /// Every row of every kind.
    Full,
}

/// The finished requests of a run, column by column, and counts over all requests, by class.
///
/// All columns have the same length; times in seconds, rounded to `f32` (1 part in 10⁷).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns {
    /// Arrival to first token.
    pub ttft: Vec<f32>,
    /// (last − first) / (n − 1); NaN for outputs of one token, where it is undefined.
    pub tpot: Vec<f32>,
    /// Arrival to last token.
    pub e2e: Vec<f32>,
    /// Class index.
    pub class: Vec<u16>,
    /// Output length in tokens.
    pub output_tokens: Vec<u32>,
    /// Counts over all requests, by class.
    pub classes: Vec<ClassCounts>,
    /// The latest arrival seen.
    pub last_arrival: Time,
}

/// Counts over all requests of one class, finished or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassCounts {
    /// Every token was delivered.
    pub finished: u64,
    /// Still running when the run ended.
    pub running: u64,
    /// Still waiting when the run ended.
    pub waiting: u64,
    /// Refused.
    pub too_long: u64,
    /// Requests that got their first token: each took one prefill round.
    pub first_tokens: u64,
    /// Σ prompt tokens.
    pub prompt_tokens: u64,
    /// Σ output tokens delivered, those of unfinished requests too.
    pub output_tokens: u64,
    /// Σ times a request was preempted.
    pub preemptions: u64,
    /// Requests that had an SLO.
    pub with_slo: u64,
    /// Finished requests that met it.
    pub met: u64,
    /// Output tokens of those.
    pub met_tokens: u64,
}

impl Columns {
    /// Room for `requests` rows, so that the columns never move.
    pub fn with_capacity(requests: usize) -> Self {
        Self {
            ttft: Vec::with_capacity(requests),
            tpot: Vec::with_capacity(requests),
            e2e: Vec::with_capacity(requests),
            class: Vec::with_capacity(requests),
            output_tokens: Vec::with_capacity(requests),
            ..Self::default()
        }
    }

    /// Finished requests.
    pub fn len(&self) -> usize {
        self.ttft.len()
    }

    /// True while no request has finished.
    pub fn is_empty(&self) -> bool {
        self.ttft.is_empty()
    }

    /// Adds one request at its end, or at the run's.
    pub fn add(&mut self, record: &RequestRecord) {
        if self.classes.len() <= record.class.index() {
            self.classes.resize(record.class.index() + 1, ClassCounts::default());
        }
        self.last_arrival = self.last_arrival.max(record.arrival);
        let counts = &mut self.classes[record.class.index()];
        counts.first_tokens += u64::from(record.first_token.is_some());
        counts.prompt_tokens += u64::from(record.prompt_tokens);
        counts.output_tokens += u64::from(record.output_tokens);
        counts.preemptions += u64::from(record.preemptions);
        counts.with_slo += u64::from(record.slo_met.is_some());
        match record.status {
            Status::Finished => counts.finished += 1,
            Status::Running => counts.running += 1,
            Status::Waiting => counts.waiting += 1,
            Status::TooLong => counts.too_long += 1,
        }
        let (Status::Finished, Some(first), Some(last)) =
            (record.status, record.first_token, record.last_token)
        else {
            return;
        };
        if record.slo_met == Some(true) {
            counts.met += 1;
            counts.met_tokens += u64::from(record.output_tokens);
        }
        let seconds = |from: Time, to: Time| to.since(from).map_or(f32::NAN, |span| span.seconds() as f32);
        self.ttft.push(seconds(record.arrival, first));
        self.tpot.push(tpot(first, last, record.output_tokens).map_or(f32::NAN, |s| s as f32));
        self.e2e.push(seconds(record.arrival, last));
        self.class.push(record.class.0);
        self.output_tokens.push(record.output_tokens);
    }
}

/// Time per output token after the first, in seconds: (last − first) / (n − 1). `None` for n < 2.
pub fn tpot(first: Time, last: Time, output_tokens: u32) -> Option<f64> {
    let after_first = output_tokens.checked_sub(1).filter(|&n| n > 0)?;
    Some(last.since(first)?.seconds() / f64::from(after_first))
}

/// The sink of a simulated or recorded run.
#[derive(Clone, Debug, Default)]
pub struct Collector {
    /// What it keeps.
    pub keep: Keep,
    /// Finished requests; always kept.
    pub columns: Columns,
    /// From [`Keep::Requests`] on.
    pub requests: Vec<RequestRecord>,
    /// With [`Keep::Full`].
    pub passes: Vec<PassRecord>,
    /// With [`Keep::Full`].
    pub verifications: Vec<VerificationRecord>,
    /// With [`Keep::Full`].
    pub rounds: Vec<RoundRecord>,
    /// With [`Keep::Full`].
    pub decisions: Vec<DecisionRecord>,
    /// What the timeline shows, if one is wanted.
    pub timeline: Option<TimelineSink>,
}

impl Collector {
    /// A collector that keeps `keep`.
    pub fn new(keep: Keep) -> Self {
        Self { keep, ..Self::default() }
    }

    /// The same with room for `requests` requests.
    pub fn with_capacity(keep: Keep, requests: usize) -> Self {
        let rows = if keep >= Keep::Requests { requests } else { 0 };
        let columns = Columns::with_capacity(requests);
        Self { keep, columns, requests: Vec::with_capacity(rows), ..Self::default() }
    }

    /// The same, keeping a timeline of the first [`TimelineSink::REQUESTS`] requests too.
    pub fn with_timeline(self) -> Self {
        Self { timeline: Some(TimelineSink::default()), ..self }
    }
}

impl Sink for Collector {
    fn wants(&self) -> Wants {
        let full = self.keep == Keep::Full;
        let timeline = self.timeline.as_ref().is_some_and(|t| t.wants().passes);
        Wants {
            passes: full || timeline,
            verifications: full,
            rounds: full,
            decisions: full,
            ..Wants::default()
        }
    }

    fn request(&mut self, record: &RequestRecord) {
        self.columns.add(record);
        if self.keep >= Keep::Requests {
            self.requests.push(*record);
        }
        if let Some(timeline) = &mut self.timeline {
            timeline.request(record);
        }
    }

    // The tally of the replica has them already.
    fn gap(&mut self, _gap: Span) {}

    fn pass(&mut self, record: &PassRecord) {
        if self.keep == Keep::Full {
            self.passes.push(*record);
        }
        if let Some(timeline) = &mut self.timeline {
            timeline.pass(record);
        }
    }

    fn verification(&mut self, record: &VerificationRecord) {
        if self.keep == Keep::Full {
            self.verifications.push(*record);
        }
    }

    fn round(&mut self, record: &RoundRecord) {
        if self.keep == Keep::Full {
            self.rounds.push(*record);
        }
    }

    fn decision(&mut self, record: &DecisionRecord) {
        if self.keep == Keep::Full {
            self.decisions.push(*record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::request;

    #[test]
    fn tpot_is_last_minus_first_over_n_minus_one_and_undefined_for_one_token() {
        let at = |ms: u64| Time::from_nanos(ms * 1_000_000);
        assert_eq!(tpot(at(100), at(500), 5), Some(0.1));
        assert_eq!(tpot(at(100), at(100), 1), None);
        assert_eq!(tpot(at(100), at(100), 0), None);
        let mut columns = Columns::default();
        columns.add(&request(0, 0, 100, 500, 5));
        columns.add(&request(1, 0, 100, 100, 1));
        assert!((columns.tpot[0] - 0.1).abs() < 1e-7);
        assert!(columns.tpot[1].is_nan());
    }

    #[test]
    fn unfinished_requests_are_counted_and_have_no_latency() {
        let mut columns = Columns::default();
        columns.add(&RequestRecord { status: Status::Running, ..request(0, 3, 10, 50, 4) });
        let waiting = RequestRecord {
            status: Status::Waiting,
            first_token: None,
            last_token: None,
            output_tokens: 0,
            ..request(1, 0, 0, 0, 1)
        };
        columns.add(&waiting);
        assert_eq!(columns.len(), 0);
        let running = columns.classes[3];
        assert_eq!((running.running, running.output_tokens, running.first_tokens, running.met), (1, 4, 1, 0));
        assert_eq!((columns.classes[0].waiting, columns.classes[0].first_tokens), (1, 0));
    }

    #[test]
    fn a_level_asks_the_loop_only_for_what_it_keeps() {
        assert_eq!(Collector::new(Keep::Requests).wants(), Wants::default());
        let all =
            Wants { passes: true, verifications: true, rounds: true, decisions: true, ..Wants::default() };
        assert_eq!(Collector::new(Keep::Full).wants(), all);
        let timeline = Collector::new(Keep::Summary).with_timeline();
        assert_eq!(timeline.wants(), Wants { passes: true, ..Wants::default() });
        let mut summary = Collector::new(Keep::Summary);
        summary.request(&request(0, 0, 1, 2, 2));
        assert_eq!((summary.columns.len(), summary.requests.len()), (1, 0));
    }

    #[test]
    fn a_row_of_the_columns_takes_eighteen_bytes() {
        let c = Columns::default();
        fn width<T>(_: &[T]) -> usize {
            size_of::<T>()
        }
        let sum = width(&c.ttft) + width(&c.tpot) + width(&c.e2e) + width(&c.class) + width(&c.output_tokens);
        assert_eq!(sum, 18);
    }
}
